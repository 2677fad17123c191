"""Python variables beside the process image of the same kernel, at the same moment.

A process image needs a CPU with the features that its code relies on, and a node that restores
images. Where a pool has nodes without, the variables of Python kernels are saved as well, between
two cells: another node can load them into a fresh kernel. That costs a pause of its own, so it is
done only where it may be needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from checkpoint import files
from checkpoint.errors import CheckpointError
from checkpoint.manifest import Manifest, Part
from checkpoint.namespace import engine
from checkpoint.writer import Writer
from gateway.errors import GatewayError
from sessionkeeper.agent import variables
from sessionkeeper.agent.errors import KernelBusy
from sessionkeeper.agent.hosted import HostedKernel
from sessionkeeper.agent.place import Exchange, Place

Wanted = Literal["no", "if idle", "needed"]
"""Whether variables go into a checkpoint: `if idle` those of kernels that run no cell just then,
`needed`: there is no checkpoint without them."""

Found = Literal["no", "none", "busy", "saved"]
"""What a checkpoint says: not wanted, no Python kernel there, in the middle of a cell, there."""

SILENCE = 1.0
"""Seconds that an idle kernel is waited for where it can be saved without."""

LOADED = "loaded.json"
LARGEST_REPORT = 64 << 20


@dataclass(frozen=True)
class Dumped:
    """The variables of one kernel. ``directory`` is what it may write into, as this node sees it;
    None when they could not be saved.
    """

    directory: Path | None
    detail: Mapping[str, Any]

    def store(self, writer: Writer, before: files.Tree | None) -> tuple[files.Tree | None, Part]:
        """Make it part of the writer's checkpoint; also returns what to go on scanning from."""
        if self.directory is None:
            return None, Part("namespace", None, self.detail)
        # The kernel's user can put anything here, but not put the directory itself elsewhere.
        others = {os.fsencode(name) for name in os.listdir(self.directory)} - {variables.DUMPED}
        tree = files.scan(self.directory, before, writer, exclude=others)
        return tree, Part("namespace", tree.store(writer), self.detail)


async def hold(
    kernels: list[HostedKernel], wanted: Wanted, within: float
) -> tuple[Found, dict[str, variables.Stand]]:
    """Have the Python kernels stand between two cells; call ``variables.release`` afterwards.

    Raises :class:`KernelBusy` when they do not and that is ``needed``.
    """
    if wanted == "no":
        return "no", {}
    try:
        if wanted == "needed":
            stands = await variables.hold(kernels, within)
        else:
            stands = await variables.hold(kernels, 0.0, SILENCE)
    except KernelBusy:
        if wanted == "needed":
            raise
        await variables.release(kernels)
        return "busy", {}
    return ("saved" if stands else "none"), stands


async def dump(
    kernels: Iterable[HostedKernel],
    stands: Mapping[str, variables.Stand],
    place: Place,
    until: float | None = None,
) -> dict[str, Dumped]:
    """Have the kernels, held, write their variables to where :meth:`Dumped.store` finds them."""
    dumped = {}
    for kernel in kernels:
        stand = stands.get(kernel.kernel_id)
        if stand is None or kernel.relay is None:
            continue
        exchange = await asyncio.to_thread(place.exchange, kernel.slot)
        name = os.fsdecode(variables.DUMPED)
        code = functools.partial(_code, exchange.seen / name, exchange.inside)
        try:
            await variables.write(kernel.relay, until, code)
            report = read_report(exchange.directory, name, engine.DUMP_REPORT)
        except (CheckpointError, GatewayError) as error:
            unsaved = {**kernel.record(), "unsaved": f"its variables could not be saved: {error}"}
            dumped[kernel.kernel_id] = Dumped(None, unsaved)
            continue
        detail = variables.detail(kernel, stand, place.seen(place.home), report)
        dumped[kernel.kernel_id] = Dumped(exchange.directory, detail)
    return dumped


def _code(directory: Path, inside: Path, patience: float) -> str:
    return engine.dump_code(directory, patience=patience, inside=inside)


def fall_back(manifest: Manifest, why: str) -> Manifest:
    """``manifest`` for a node that cannot restore process images, as ``why`` says: with variables
    in their place, where there are any.
    """
    parts = {}
    for kernel_id, part in manifest.processes.items():
        if part.engine != "criu":
            parts[kernel_id] = part
        elif part.beside is not None:
            parts[kernel_id] = part.beside
        else:
            language = part.detail["launch"].get("language") or part.detail["name"]
            unsaved = (
                f"its processes cannot go on here ({why}), variables of {language} are not saved"
            )
            parts[kernel_id] = Part("namespace", None, {**part.detail, "unsaved": unsaved})
    return replace(manifest, body=replace(manifest.body, processes=parts))


def read_report(directory: Path, *path: str) -> engine.Report:
    """The report at ``path`` below ``directory``, which the kernel's user can write into. Raises
    ``NamespaceError``.
    """
    *above, name = path
    with contextlib.ExitStack() as stack:
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            for one in above:
                fd = os.open(one, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                stack.callback(os.close, fd)
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with os.fdopen(os.open(name, flags, dir_fd=fd), "rb") as file:
                facts = os.fstat(file.fileno())
                if not stat.S_ISREG(facts.st_mode) or facts.st_size > LARGEST_REPORT:
                    raise engine.NoReport("The kernel's report is not a file of a likely size.")
                return engine.parse_report(file.read(LARGEST_REPORT))
        except OSError as error:
            raise engine.NoReport(f"The kernel left no report: {error}.") from error


async def load(
    kernel: HostedKernel, exchange: Exchange, dumped: Path, moved: tuple[Path, Path]
) -> str | None:
    """As :func:`variables.load`, of what is at ``dumped``, as the kernel sees it."""
    return await variables.load(
        kernel,
        engine.load_code(dumped, exchange.seen / LOADED, moved=moved, inside=exchange.inside),
        lambda: read_report(exchange.directory, LOADED),
    )
