"""What is done for a cut before the kernels stand still: what is new of large ones is stored, and
memory is at hand for what will have changed since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from checkpoint import criu
from checkpoint.writer import Writer
from sessionkeeper.agent.hosted import HostedKernel
from sessionkeeper.agent.place import Place, Slot
from sessionkeeper.agent.room import Room

PRECOPY_ABOVE = 64 << 20
"""Bytes of a kernel's memory that are new, as far as one knows: they are stored while it runs. With
less it stands still no shorter for that."""


@dataclass(frozen=True)
class _LeftOut:
    """What a dump need not bring: ``known``, of which something may have been ``precopied``, or
    ``without`` that.
    """

    known: criu.Known | None
    precopied: criu.Precopied | None
    without: criu.Known | None

    def of(self, processes: list[int]) -> criu.Known | None:
        """Return which it is, of frozen processes."""
        if self.precopied is None or self.precopied.holds_for(processes):
            return self.known
        return self.without


class Ahead:
    """One session's, on this node. ``images`` is a directory on tmpfs. Every call may block."""

    def __init__(self, images: Path) -> None:
        self._room = Room(images)
        self._left_out: dict[str, _LeftOut] = {}
        self._brought: dict[str, int] = {}
        self._in_vain = False
        """The newest dump failed: what is stored ahead of the next one may be for nothing, and as
        much again each time that it is tried."""

    def prepare(
        self,
        place: Place,
        writer: Writer,
        kernels: Iterable[HostedKernel],
        before: Callable[[str], criu.Image | None],
        hurried: bool = False,
    ) -> None:
        """Get ready for a cut of ``kernels``; ``before`` gives the newest image of each, if there
        is one. What is ``hurried`` stores nothing ahead: what changes again would be sent twice.
        Raises ``DumpFailed`` when there is too little memory, and what the writer raises.
        """
        sizes, self._left_out = {}, {}
        for kernel in kernels:
            size = place.dump_size([kernel.slot])
            known, precopied = criu.known(writer, before(kernel.kernel_id)), None
            if known is not None:
                grown = max(0, size - known.image.size)
                size = min(size, grown + self._brought.get(kernel.kernel_id, 0))
            if size >= PRECOPY_ABOVE and not (hurried or self._in_vain):
                precopied = _stored(writer, place.processes(kernel.slot), known)
                size = max(0, size - precopied.stored)
            whole = criu.known(writer, precopied.image) if precopied is not None else known
            self._left_out[kernel.slot.name] = _LeftOut(whole, precopied, known)
            sizes[kernel.slot.name] = size
        self._room.reserve(sizes)

    def for_dump(self, place: Place, slot: Slot) -> tuple[criu.Known | None, Path | None]:
        """Return what a dump of the frozen slot need not bring, and where there is room for it.
        Unless :meth:`brought` follows, it has failed.
        """
        self._in_vain = True
        left_out = self._left_out.get(slot.name)
        known = left_out.of(place.processes(slot)) if left_out is not None else None
        return known, self._room.file(slot.name)

    def release(self) -> None:
        """There is no dump, or no more."""
        self._room.release()
        self._left_out = {}

    def brought(self, dumps: Mapping[str, criu.Dump]) -> None:
        """So much memory had changed of each kernel: it may be as much the next time."""
        self._brought = {kernel_id: dump.size for kernel_id, dump in dumps.items()}
        self._in_vain = False


def _stored(writer: Writer, pids: list[int], known: criu.Known | None) -> criu.Precopied:
    try:
        return criu.precopy(writer, pids, known)
    except BaseException:
        writer.abort()  # or the checkpoint after this one would fail as well
        raise
