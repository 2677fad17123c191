"""Python kernels between two cells: their variables saved, and loaded into fresh kernels.

This is what a checkpoint has of kernels whose memory is not dumped. A kernel stands between two
cells when its shim applies no more input and an empty request, queued behind everything that was
applied before, has been answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any

from checkpoint.namespace import engine
from gateway.errors import AgentTimeout, GatewayError, RemoteError
from sessionkeeper.agent.errors import KernelBusy, KernelStartFailed
from sessionkeeper.agent.hosted import HostedKernel
from sessionkeeper.agent.relay import ShimRelay

DUMPED = b"variables"
"""Where the exchange of a kernel and its node has a dump."""

DIRECTORY = "namespaces"
"""In the session's tree: one directory per kernel, its dump."""

POLL = 0.005
SILENCE = 5.0
"""Seconds in which an idle kernel must have answered, and its outputs be acknowledged."""

LONGEST = 600.0
"""Seconds that one load may take."""

LONGEST_DUMP = 60.0
"""Seconds that one dump may take, beside those for its size."""

SLOWEST = 20e6
"""Bytes per second: a dump that was large may take longer."""

SHORTEST = 2.0
"""Seconds that a dump has also where the node's deadline leaves it less."""

NAMED = 10
"""So many variables of a kind are named to the user; of the others, how many there are."""

Stand = dict[str, Any]
"""What a shim says of itself (``status``) while its kernel stands between two cells."""


async def hold(
    kernels: Iterable[HostedKernel], within: float, silence: float = SILENCE
) -> dict[str, Stand]:
    """Have all Python kernels stand between two cells; returns how each that lives does.

    A running cell may take ``within`` seconds to end, an idle kernel ``silence`` to answer and its
    outputs to be acknowledged. Raises :class:`KernelBusy`; call :func:`release` after it too.
    """
    until = time.monotonic() + within
    python = [kernel for kernel in kernels if is_python(kernel)]
    stands = await asyncio.gather(*(_stand(kernel, until, silence) for kernel in python))
    return {k.kernel_id: s for k, s in zip(python, stands, strict=True) if s is not None}


async def release(kernels: Iterable[HostedKernel]) -> None:
    """Let them go on. A shim that is not reachable does so by itself."""
    for kernel in kernels:
        if kernel.relay is not None and is_python(kernel):
            with contextlib.suppress(GatewayError):
                await kernel.relay.call("resume_input")


async def dump(
    kernels: list[HostedKernel],
    stands: dict[str, Stand],
    tree: Path,
    workspace: str,
    until: float | None = None,
) -> dict[str, dict[str, Any]]:
    """Write the variables of ``kernels``, held, below ``tree``, by ``until`` (monotonic time).

    Returns ``{kernel_id: detail}``, what a checkpoint says of each: its record, its positions,
    where its ``workspace`` is and what is ``lost`` in words, or ``unsaved`` with the reason. One
    that was saved before and cannot be now has the variables it had then; ``stale`` says so.
    Raises ``CheckpointError`` when those are gone too, and :class:`ShimGone`.
    """
    details = {}
    for kernel in kernels:
        language = kernel.launch.get("language") or kernel.name
        stand = stands.get(kernel.kernel_id)
        if not is_python(kernel):
            reason = f"{language} kernels cannot be saved without the container runtime"
            details[kernel.kernel_id] = {**kernel.record(), "unsaved": reason}
        elif stand is not None and kernel.relay is not None:
            directory = tree / DIRECTORY / kernel.kernel_id
            details[kernel.kernel_id] = await _dump(kernel, stand, directory, workspace, until)
    return details


def clear(tree: Path, kernels: Container[str]) -> None:
    """Remove what is below ``tree`` of kernels that are not among ``kernels`` (ids) any more: it
    would be in each later checkpoint.
    """
    with contextlib.suppress(OSError):  # most often there is no such directory
        for entry in sorted((tree / DIRECTORY).iterdir()):
            if entry.name.partition(".")[0] in kernels:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


async def _dump(
    kernel: HostedKernel, stand: Stand, directory: Path, workspace: str, until: float | None
) -> dict[str, Any]:
    assert kernel.relay is not None
    index, life = directory / engine.INDEX, directory.with_suffix(".generation")
    before = index.exists() and life.exists() and life.read_text() == str(kernel.generation)
    try:
        await write(kernel.relay, until, lambda patience: engine.dump_code(
            directory, patience=patience), _size(directory))  # fmt: skip
        report = engine.read_report(directory / engine.DUMP_REPORT)
    except (engine.NamespaceError, AgentTimeout, RemoteError) as error:
        if before and not index.exists():
            raise  # what is in the newest checkpoint is more than what there is here
        reason = f"its variables could not be saved: {error}"
        if not before:
            # Most likely it never can be: no reason to save nothing else of the session.
            life.unlink(missing_ok=True)
            return {**kernel.record(), "unsaved": reason}
        # Not run again from there: the files are of today, and cells would change them twice.
        at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(index.stat().st_mtime))
        return {
            **_positions(kernel, stand, workspace),
            "lost": f"what it computed since {at} ({reason})",
            "stale": f"its variables are those of {at}, later ones could not be saved",
        }
    life.write_text(str(kernel.generation))
    return detail(kernel, stand, workspace, report)


async def write(
    relay: ShimRelay, until: float | None, code: Callable[[float], str], size: int = 0
) -> None:
    """Have a kernel run the dump that ``code`` makes of the seconds that one value may stall.

    A dump that does not end in time is interrupted. Raises ``GatewayError`` when that is no use.
    """
    longest = LONGEST_DUMP + size / SLOWEST
    if until is not None:
        longest = max(SHORTEST, min(longest, until - time.monotonic()))
    patience = min(engine.PATIENCE, longest / 2)
    try:
        await execute(relay, code(patience), longest)
    except (AgentTimeout, RemoteError):
        await relay.call("interrupt")
        await execute(relay, "", SHORTEST)


def _size(directory: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(entry.stat().st_size for entry in os.scandir(directory))
    return 0


def detail(
    kernel: HostedKernel, stand: Stand, workspace: str, report: engine.Report
) -> dict[str, Any]:
    """What a checkpoint says of a kernel whose variables are saved."""
    return {
        **_positions(kernel, stand, workspace),
        "lost": ", ".join(filter(None, (named(report, "lost"), _beside(report)))),
    }


def _positions(kernel: HostedKernel, stand: Stand, workspace: str) -> dict[str, Any]:
    return {
        **kernel.record(),
        "applied": stand["applied"],
        "next_seq": stand["produced"] + 1,
        "workspace": workspace,
    }


async def load(
    kernel: HostedKernel, code: str, read_report: Callable[[], engine.Report]
) -> str | None:
    """Have ``kernel``, a fresh one that no cell has reached, load what ``code`` names.

    Returns what is not as it was, in words; None: all is. Raises ``CheckpointError``,
    ``GatewayError``, :class:`KernelStartFailed`.
    """
    relay = kernel.relay
    assert relay is not None
    await relay.call("pause_input")
    await _ready(relay)
    await execute(relay, code)
    report = read_report()
    await relay.call("resume_input")
    said = {
        "variables lost": named(report, "lost"),
        "degraded": named(report, "degraded"),
        "not as it was": _beside(report),
    }
    return "; ".join(f"{what}: {names}" for what, names in said.items() if names) or None


def is_python(kernel: HostedKernel) -> bool:
    """Return whether its variables can be saved."""
    return str(kernel.launch.get("language", "")).lower() == "python"


def named(report: engine.Report, state: engine.State) -> str:
    """Return the variables in ``state`` by name, with the kind of each or what is different."""
    shown = []
    names = report.named(state)
    for name in names[:NAMED]:
        variable = report.variables[name]
        what = variable.type.rpartition(".")[2] if state == "lost" else variable.why
        shown.append(f"{name} ({what})")
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(shown) + more


def _beside(report: engine.Report) -> str:
    """Return what else is not as it was: changes of modules, extensions, settings."""
    told = [f"{name} ({what['why']})" for name, what in report.also.items() if what["why"]]
    more = f" and {len(told) - NAMED} more" if len(told) > NAMED else ""
    return ", ".join(told[:NAMED]) + more


async def _stand(kernel: HostedKernel, until: float, silence: float) -> Stand | None:
    relay = kernel.relay
    if relay is None:
        raise KernelBusy(f"the {kernel.name} kernel is starting")
    await relay.call("pause_input")
    patience = time.monotonic() + silence
    barrier: asyncio.Task[Any] | None = None
    try:
        while True:
            stand: Stand = await relay.call("status")
            if stand["pid"] is None:
                return None  # it has ended, by itself
            free = stand["ready"] and not stand["busy"]
            now = time.monotonic()
            if not free and now >= until:
                what = "runs a cell" if stand["ready"] else "is starting"
                raise KernelBusy(f"the {kernel.name} kernel {what}")
            if not free:
                patience = now + silence
            if barrier is None and stand["ready"]:
                barrier = asyncio.create_task(execute(relay, ""))
            if barrier is not None and barrier.done() and free:
                barrier.result()
                # Of one that says something without end not everything is ever acknowledged.
                if stand["unacked"] == 0 or now >= patience:
                    return stand
            elif now >= patience:
                raise KernelBusy(f"the {kernel.name} kernel does not answer")
            await asyncio.sleep(POLL)  # nobody tells when a kernel falls idle
    finally:
        if barrier is not None:
            barrier.cancel()


async def _ready(relay: ShimRelay) -> None:
    while True:
        status = await relay.call("status")
        if status["ready"]:
            return
        if status["pid"] is None:
            raise KernelStartFailed("the kernel ended as it started")
        await asyncio.sleep(POLL)


async def execute(relay: ShimRelay, code: str, longest: float = LONGEST) -> None:
    """Run code in a kernel, silently, for at most ``longest`` seconds."""
    await relay.call("execute", code=code, timeout=longest, wait=longest + 5)
