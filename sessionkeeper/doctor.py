"""What this machine can do, which runtime it gets, why, and which command would change that.

`rows` and `decide` are pure: facts in (see `sessionkeeper.machine`), words out. `container` is
chosen only when every part of it was seen to work; `process` needs a Python kernel and nothing
else. `sessionkeeper up --runtime auto` goes by the same decision.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from sessionkeeper.errors import RuntimeUnavailable, SessionkeeperError, UsageError, explain
from sessionkeeper.machine import Facts, examine
from sessionkeeper.settings import default_state

__all__ = ["Row", "Runtime", "Verdict", "as_json", "choose_runtime", "decide", "main", "render"]

Runtime = Literal["container", "process"]
State = Literal["ok", "missing", "broken", "low"]

_GB = 1e9
_SETUP_CRIU = "sessionkeeper setup criu"


@dataclass(frozen=True)
class Row:
    """One thing looked at. `needed_for` is the runtime that does not work without it, if any."""

    name: str
    state: State
    text: str
    needed_for: Runtime | None = None
    fix: str = ""

    @property
    def prevents(self) -> bool:
        """Whether this row keeps a runtime from being used."""
        return self.needed_for is not None and self.state in ("missing", "broken")


@dataclass(frozen=True)
class Verdict:
    """The runtime this machine gets (None: it cannot run sessions), why, and what would help."""

    runtime: Runtime | None
    reasons: tuple[str, ...]
    commands: tuple[str, ...]


def rows(facts: Facts) -> list[Row]:
    """Everything that was looked at, with what it means and how to put it right."""
    return [
        _root(facts),
        _namespaces(facts),
        _overlay(facts),
        _freezer(facts),
        _tools(facts),
        _runc(facts),
        _criu(facts),
        *_trial(facts),
        _dirty_tracking(facts),
        _cpu(facts),
        _lazy_restore(facts),
        *_kernels(facts),
        *_room(facts),
    ]


def decide(facts: Facts) -> Verdict:
    """Which runtime, and the reasons and commands that belong to it."""
    found = rows(facts)
    against_process = [row for row in found if row.prevents and row.needed_for == "process"]
    against_container = [row for row in found if row.prevents]
    # Without root nothing else can be seen, nor put right: say that one reason alone.
    if not facts.root:
        against_container = [*against_process, found[0]]
    if not against_container:
        return Verdict("container", ("everything it needs was tried and works",), ())
    runtime: Runtime | None = None if against_process else "process"
    against = against_process or against_container
    reasons = tuple(f"{row.name}: {row.text}" for row in against)
    commands = tuple(dict.fromkeys(row.fix for row in against if row.fix))
    return Verdict(runtime, reasons, commands)


def choose_runtime(wanted: str, facts: Facts) -> Runtime:
    """`auto` gives the verdict's; another is given when it works here.

    Raises `RuntimeUnavailable` with the reasons and the commands that would help.
    """
    verdict = decide(facts)
    if wanted == "auto" and verdict.runtime:
        return verdict.runtime
    if wanted == "process" and verdict.runtime:
        return "process"
    if wanted == "container" and verdict.runtime == "container":
        return "container"
    if wanted not in ("auto", "container", "process"):
        raise UsageError(f"no runtime is called {wanted!r}", hint="auto, container or process")
    what = "sessions" if verdict.runtime is None else "containers"
    raise RuntimeUnavailable(
        f"this machine cannot run {what}: {'; '.join(verdict.reasons)}",
        hint="; ".join(verdict.commands) or None,
    )


def _root(facts: Facts) -> Row:
    if facts.root:
        return Row("root", "ok", "nodes get an address and containers of their own", "container")
    text = "not root: kernels run as plain processes, saved between cells by their variables"
    return Row("root", "missing", text, "container", f"sudo {facts.prefix}/bin/sessionkeeper up")


def _namespaces(facts: Facts) -> Row:
    failed = {name: why for name, why in facts.namespaces.items() if why}
    if not failed:
        return Row("namespaces", "ok", ", ".join(facts.namespaces), "container")
    by_reason = {why: [name for name in failed if failed[name] == why] for why in failed.values()}
    text = "; ".join(f"{', '.join(names)}: {why}" for why, names in by_reason.items())
    fix = "run it where namespaces are allowed (in Docker: --privileged)" if facts.root else ""
    return Row("namespaces", "broken", text, "container", fix)


def _overlay(facts: Facts) -> Row:
    why = facts.overlay or (facts.overlay_on_root and f"over /: {facts.overlay_on_root}")
    if not why:
        return Row("overlayfs", "ok", f"works in {facts.disk}, over / as well", "container")
    fix = "put --state on a plain file system such as ext4 or tmpfs" if facts.root else ""
    return Row("overlayfs", "broken", why, "container", fix)


def _freezer(facts: Facts) -> Row:
    if not facts.freezer:
        return Row("freezer", "ok", "control groups can be made and frozen", "container")
    fix = "mount control groups writable (in Docker: --privileged)" if facts.root else ""
    return Row("freezer", "broken", facts.freezer, "container", fix)


def _tools(facts: Facts) -> Row:
    if not facts.tools_missing:
        return Row("tools", "ok", "ip, nft, mount, unshare", "container")
    packages = {"ip": "iproute2", "nft": "nftables"}
    wanted = " ".join(packages.get(name, "util-linux") for name in facts.tools_missing)
    text = f"not installed: {', '.join(facts.tools_missing)}"
    return Row("tools", "missing", text, "container", _install(facts, wanted))


def _runc(facts: Facts) -> Row:
    if not facts.runc_trouble:
        return Row("runc", "ok", facts.runc, "container")
    state: State = "broken" if facts.runc else "missing"
    return Row("runc", state, facts.runc_trouble, "container", _install(facts, "runc"))


def _criu(facts: Facts) -> Row:
    if not facts.criu_trouble:
        return Row("criu", "ok", facts.criu, "container")
    state: State = "broken" if facts.criu else "missing"
    fix = _SETUP_CRIU if facts.root and "setup criu" in facts.criu_hint else facts.criu_hint
    return Row("criu", state, facts.criu_trouble, "container", fix)


def _trial(facts: Facts) -> Iterator[Row]:
    if facts.trial == "":
        yield Row("checkpoint", "ok", "a container was dumped and restored", "container")
    elif facts.trial is not None:
        fix = "report it with the output of `sessionkeeper doctor --json`"
        yield Row("checkpoint", "broken", facts.trial, "container", fix)


def _dirty_tracking(facts: Facts) -> Row:
    if facts.dirty_tracking:
        return Row("page tracking", "ok", "memory is copied ahead of a dump")
    return Row("page tracking", "missing", "not needed: what is new is found by content")


def _cpu(facts: Facts) -> Row:
    if facts.cpu_level:
        return Row("CPU", "ok", f"{facts.cpu}: {facts.cpu_level}; no higher --cpu-baseline here")
    return Row("CPU", "low", f"{facts.cpu}: no level from x86-64-v2 on, no --cpu-baseline here")


def _lazy_restore(facts: Facts) -> Row:
    if facts.lazy_restore:
        return Row("lazy restore", "ok", "a large kernel answers before its memory has arrived")
    text = "no userfaultfd for CRIU: a large kernel answers when all of its memory is there"
    return Row("lazy restore", "missing", text)


def _kernels(facts: Facts) -> Iterator[Row]:
    if "python3" in facts.kernels:
        yield Row("kernels", "ok", ", ".join(facts.kernels), "process")
    else:
        fix = f"{facts.prefix}/bin/python -m ipykernel install --sys-prefix"
        yield Row("kernels", "missing", "no Python kernel is installed", "process", fix)
    for name, why in facts.kernels_broken.items():
        fix = f"jupyter kernelspec remove {name}"
        yield Row(f"kernel {name}", "broken", why, fix=fix)


def _room(facts: Facts) -> Iterator[Row]:
    for name, free, least, where in (
        ("memory", facts.memory, 1 * _GB, f"of memory free, {facts.cpus} processors"),
        ("dump room", facts.dump_room, 1 * _GB, "free in /dev/shm; dumps hold what is new there"),
        ("disk", facts.disk_room, 5 * _GB, f"free for sessions in {facts.disk}"),
    ):
        state: State = "ok" if free >= least else "low"
        yield Row(name, state, f"{free / _GB:.1f} GB {where}")


def _install(facts: Facts, packages: str) -> str:
    return f"apt-get install {packages}" if facts.debian else f"install {packages}"


def render(facts: Facts) -> str:
    """The report that a person reads, without a newline at the end."""
    verdict = decide(facts)
    lines = [facts.system]
    for row in rows(facts):
        lines.append(f"  {row.state:<8} {row.name:<14} {row.text}")
        if row.fix and row.state != "ok":
            lines.append(f"  {'':<8} {'':<14} -> {row.fix}")
    lines.append("")
    if verdict.runtime is None:
        lines.append("No session can run here, because")
    else:
        lines.append(f"Sessions run in the runtime `{verdict.runtime}`, because")
    for reason in verdict.reasons:
        lines.append(textwrap.fill(reason, 98, initial_indent="  - ", subsequent_indent="    "))
    if verdict.commands:
        lines.append("To get `container`:" if verdict.runtime else "To change that:")
        lines += [f"  {command}" for command in verdict.commands]
    return "\n".join(lines)


def as_json(facts: Facts) -> str:
    """One object: `{"runtime", "reasons", "commands", "rows": [...], "facts": {...}}`."""
    verdict = decide(facts)
    found = [asdict(row) for row in rows(facts)]
    return json.dumps(asdict(verdict) | {"rows": found, "facts": asdict(facts)}, indent=2)


def main(arguments: Sequence[str] | None = None) -> int:
    """`doctor [--json] [--state DIRECTORY]`; 0 whatever is found, 2 for unknown arguments."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    state, show = default_state(), render
    try:
        while given:
            match given:
                case ["--json", *rest]:
                    show, given = as_json, rest
                case ["--state", directory, *rest]:
                    state, given = Path(directory), rest
                case _:
                    hint = "sessionkeeper doctor [--json] [--state DIRECTORY]"
                    raise UsageError(f"doctor: what is {given[0]!r}?", hint=hint)
    except SessionkeeperError as error:
        print(explain(error), file=sys.stderr)
        return error.exit_code
    print(show(examine(state)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
