"""Control groups of nodes, in whatever mix of versions 1 and 2 the machine has.

A node's kernels live below `/sessionkeeper-<instance>/<node>` in each hierarchy; the agent's OCI
runtime makes the groups, this module makes sure that none is left.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

__all__ = ["freeze", "hierarchies", "remove", "thaw"]


def hierarchies() -> list[Path]:
    """Where the hierarchies are mounted."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return [Path(mount[1]) for mount in mounts if mount[2] in ("cgroup", "cgroup2")]


def freeze(name: str, timeout: float = 10.0) -> None:
    """Freeze everything below a group. Returns when it stands still; raises `TimeoutError` when
    that took more than `timeout` (seconds), and `FileNotFoundError` when there is no such group.
    """
    tops = [root / name.strip("/") for root in hierarchies()]
    found = [top for top in tops if (top / "freezer.state").exists()]
    if found:
        file, word, done = found[0] / "freezer.state", "FROZEN", "FROZEN\n"
        state = file
    else:
        found = [top for top in tops if (top / "cgroup.freeze").exists()]
        if not found:
            raise FileNotFoundError(f"there is no control group {name} that can be frozen")
        file, word, done = found[0] / "cgroup.freeze", "1", "frozen 1"
        state = found[0] / "cgroup.events"
    deadline = time.monotonic() + timeout
    file.write_text(word)
    while done not in state.read_text():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the control group {name} did not freeze within {timeout:.0f} s")
        time.sleep(0.001)
        file.write_text(word)  # version 1 may need to be told again: a process was just being made


def thaw(name: str) -> None:
    """Thaw everything below a group. In version 1 a frozen process does not die of SIGKILL."""
    for group in _groups(name):
        for file, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            with suppress(OSError):
                if (group / file).exists():
                    (group / file).write_text(word)


def remove(name: str, timeout: float = 2.0) -> list[Path]:
    """Remove a group and all below it in every hierarchy. Its processes must be dead; the kernel
    may take a moment to notice, so a busy group is tried again until `timeout` (seconds). Returns
    what could not be removed."""
    deadline = time.monotonic() + timeout
    while left := _remove_empty(name):
        if time.monotonic() > deadline:
            return left
        time.sleep(0.01)  # Version 1 has no event for "empty".
    return []


def _remove_empty(name: str) -> list[Path]:
    for group in _groups(name):
        with suppress(OSError):
            group.rmdir()
    return _groups(name)


def _groups(name: str) -> list[Path]:
    """The groups of that name and below it, innermost first."""
    found = []
    for root in hierarchies():
        top = root / name.strip("/")
        if top.is_dir():
            found += [*(one for one in top.rglob("*") if one.is_dir()), top]
    return sorted(found, key=lambda group: len(group.parts), reverse=True)
