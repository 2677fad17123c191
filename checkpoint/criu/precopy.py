"""Memory that is stored while its process still runs, so that a dump finds it known.

CRIU's own pre-dump needs a kernel that tracks which pages are written to (`criu check --feature
mem_dirty_track`), and most are built without. Here nothing is tracked: pages are read at any time
and go into the repository by their content. The dump, whose pages are all looked at while the
process stands still, brings those that have become others since. So what was read need not be of
one moment, nor be right: it is only ever found by the digest of what is there then.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from checkpoint.buffers import Buffers
from checkpoint.criu import remote
from checkpoint.criu.digests import ZERO_DIGEST, Known, digests_of
from checkpoint.criu.encode import cut
from checkpoint.criu.identity import may_hold, open_now
from checkpoint.criu.image import Image, Table
from checkpoint.criu.pagemap import PAGE, U8, U64, Mask
from checkpoint.writer import Writer

WORTH_IT = 8 << 20
"""Bytes of one mapping; what is in smaller ones changes all the time, or is little."""

_PIECE = 1024
"""Pages that are read at once."""

_BUFFERED = 48 << 20
"""Bytes kept to read into again: as much as a writer has on its way."""

_PRESENT = np.uint64(1 << 63)
_OF_FILE = np.uint64(1 << 61)


@dataclass
class _Table:
    pages: list[U64] = field(default_factory=list)
    chunk: list[np.ndarray] = field(default_factory=list)
    slot: list[np.ndarray] = field(default_factory=list)
    digests: list[U64] = field(default_factory=list)


@dataclass(frozen=True)
class Precopied:
    """What was stored of running processes: `image` has it beside what was known before, for
    `checkpoint.criu.known` and as `previous` of nothing else. `stored` is in bytes.
    """

    image: Image
    stored: int
    _open: frozenset[tuple[int, int]]

    def holds_for(self, pids: Iterable[int]) -> bool:
        """Whether it may be used for a dump of these (frozen) processes.

        Not when they have opened files since: where their memory has the identities of those
        (`checkpoint.criu.identity`) is found out by looking at pages that the dump brings.
        """
        return open_now(pids) <= self._open


def precopy(writer: Writer, pids: Sequence[int], known: Known | None) -> Precopied:
    """Store what is not `known` of the large mappings of running processes.

    What cannot be read, as processes end and unmap, is left out; so are pages with the identity of
    an open file. Raises what the writer raises.
    """
    files = open_now(pids)
    buffers = Buffers(_BUFFERED)
    image = known.image if known is not None else Image(b"", [], {}, {})
    chunks, tables, stored = list(image.chunks), dict(image.tables), 0
    for pid in pids:
        table = _Table()
        with suppress(OSError):
            for pages, content, buffer in _read(pid, buffers):
                digests = digests_of(content)
                new: Mask = np.any(digests != ZERO_DIGEST, axis=1) & ~may_hold(content, files)
                if known is not None:
                    new &= ~known.holds(digests)
                if not new.all():
                    content = content.reshape(-1, PAGE)[new].reshape(-1)
                    pages, digests = pages[new], digests[new]
                done = partial(buffers.give, buffer)
                stored += _store(writer, pages, content, digests, chunks, table, done)
        if table.pages:
            tables[f"running-{pid}"] = Table(
                np.concatenate(table.pages),
                np.concatenate(table.chunk),
                np.concatenate(table.slot),
                np.concatenate(table.digests),
            )
    return Precopied(replace(image, chunks=chunks, tables=tables), stored * PAGE, files)


def _store(
    writer: Writer,
    pages: U64,
    content: U8,
    digests: U64,
    chunks: list[bytes],
    table: _Table,
    done: Callable[[], None],
) -> int:
    """How many pages; `done` is called, in any thread, when `content` is not needed any more."""
    if not len(pages):
        done()
        return 0
    cuts = list(cut(pages))
    starts = [start for start, _ in cuts]
    counts = [end - start for start, end in cuts]
    table.pages.append(pages)
    table.digests.append(digests)
    numbers = np.arange(len(chunks), len(chunks) + len(cuts), dtype=np.uint32)
    table.chunk.append(np.repeat(numbers, counts))
    slots = np.arange(len(pages)) - np.repeat(np.array(starts, dtype=np.int64), counts)
    table.slot.append(slots.astype(np.uint16))
    sealed = _Countdown(len(cuts), done)
    for start, end in cuts:
        chunks.append(writer.add(content[start * PAGE : end * PAGE].data, sealed))
    return len(pages)


class _Countdown:
    """Calls `last` when it has been called so often itself, in whatever threads."""

    def __init__(self, number: int, last: Callable[[], None]) -> None:
        self._left = number
        self._last = last
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left:
                return
        self._last()


def _read(pid: int, buffers: Buffers) -> Iterator[tuple[U64, U8, memoryview]]:
    """Page numbers and content of what a process has for itself, piece by piece, and the memory
    that the content is in, to be given back; it may be in other memory as well.
    """
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap:
            for first, last in _mappings(pid):
                for page in range(first, last, _PIECE):
                    count = min(_PIECE, last - page)
                    entries = np.frombuffer(os.pread(pagemap.fileno(), 8 * count, 8 * page), "<u8")
                    own = ((entries & _PRESENT) != 0) & ((entries & _OF_FILE) == 0)
                    if not own.any():
                        continue
                    buffer = buffers.take(count * PAGE)
                    with suppress(OSError):  # unmapped meanwhile
                        there = own[: _fill(pid, memory, page * PAGE, buffer) // PAGE]
                        content = np.frombuffer(buffer, np.uint8, len(there) * PAGE)
                        numbers = page + np.flatnonzero(there).astype(np.uint64)
                        if not there.all():
                            content = content.reshape(-1, PAGE)[there].reshape(-1)
                        yield numbers, content, buffer
    finally:
        os.close(memory)


def _fill(pid: int, memory: int, address: int, buffer: memoryview) -> int:
    try:
        return remote.read(pid, address, np.frombuffer(buffer, np.uint8))
    except OSError:  # where that is not allowed, `memory` may be
        return os.preadv(memory, [buffer], address)


def _mappings(pid: int) -> list[tuple[int, int]]:
    """First and last page (exclusive) of a process's large private mappings without a file."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text(errors="replace").splitlines():
        where, mode, _, _, inode, *name = line.split(None, 5)
        first, last = (int(address, 16) // PAGE for address in where.split("-"))
        private = mode.startswith("rw") and mode.endswith("p") and inode == "0"
        # The kernel's own ([vvar], [vdso]) are not to be read; the heap is.
        if private and (last - first) * PAGE >= WORTH_IT and name in ([], ["[heap]"]):
            found.append((first, last))
    return found
