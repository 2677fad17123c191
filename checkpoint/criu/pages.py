"""The pages that a lazily restored process gets while it runs: which they are, and where.

Only large stretches of private anonymous memory come later: what is small is soon needed, and one
page fault after the other would take longer than reading it ahead. Pages of zeros need not come at
all, a page that never arrives is zero.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from checkpoint.criu.digests import digests_of
from checkpoint.criu.encode import CHUNK_PAGES
from checkpoint.criu.identity import Mark
from checkpoint.criu.image import ZERO, Image
from checkpoint.criu.pagemap import LAZY, PAGE, U8, U64, Mask, Pagemap
from checkpoint.errors import Damaged
from checkpoint.reader import Reader

I64 = NDArray[np.int64]

STRETCH = 8192
"""Pages: what is shorter is there from the beginning. 32 MiB are read in the time of some fifty
faults. An IPython kernel that has imported pandas, matplotlib and scikit-learn has stretches of up
to 27 MiB: what all cells need is not among what comes later."""


@dataclass(frozen=True)
class Content:
    """Pages `first`, … of the process that the pagemap `name` belongs to."""

    name: str
    first: int
    data: U8


@dataclass(frozen=True)
class _Place:
    """`count` pages of `name` from `first` on, number `at` of its table, at `offset` (pages)."""

    name: str
    first: int
    at: int
    offset: int
    count: int


@dataclass(frozen=True)
class AtHand:
    """Pages of a table (those of `mask`) that are on this node already: number `at` each of the
    pages in `content`.
    """

    mask: Mask
    at: I64
    content: U8


def may_come_later(image: Image, marks: Iterable[Mark]) -> dict[str, Mask]:
    """For each pagemap which of its pages, in order, may come while the process runs.

    Not those with `marks`, which are written to before; and none of an image in which large
    stretches are at the same addresses of several processes: they share them, as after a fork,
    and would each get their own.
    """
    later = {name: _in_large_stretches(pagemap) for name, pagemap in image.pagemaps.items()}
    large = [image.tables[name].pages[mask] for name, mask in later.items() if mask.any()]
    together = np.sort(np.concatenate(large)) if len(large) > 1 else np.empty(0, dtype=np.uint64)
    if np.any(together[1:] == together[:-1]):
        return {name: np.zeros_like(mask) for name, mask in later.items()}
    for mark in marks:
        if mark.table in later:
            pages = image.tables[mark.table].pages
            touched = np.array([mark.address // PAGE, (mark.address + 15) // PAGE], dtype=np.uint64)
            later[mark.table][np.isin(pages, touched)] = False
    return later


def large_stretches(image: Image) -> dict[str, int]:
    """Bytes that each pagemap has in stretches that are large enough to come later. Where that is
    so of several processes at the same addresses, none of it does.
    """
    found = {n: int(_in_large_stretches(one).sum()) * PAGE for n, one in image.pagemaps.items()}
    return {name: size for name, size in found.items() if size}


def _in_large_stretches(pagemap: Pagemap) -> Mask:
    """Which of the present pages are lazy by their flags, with at least `STRETCH` in a row."""
    present = pagemap.present()
    lazy = (present.flags & LAZY) != 0
    if not len(lazy):
        return np.zeros(0, dtype=np.bool_)
    ends = present.addresses + present.counts * np.uint64(PAGE)
    goes_on = lazy[1:] & lazy[:-1] & (present.addresses[1:] == ends[:-1])
    stretch = np.concatenate(([0], np.cumsum(~goes_on)))
    length = np.bincount(stretch, weights=present.counts.astype(np.float64))
    large: Mask = lazy & (length[stretch] >= STRETCH)
    return np.repeat(large, present.counts.astype(np.int64))


class Pages:
    """The content of the pages `later` of `image`, wherever it is. Thread-safe.

    It is in chunks, read by `reader`, which is closed with this; some may be `at_hand`.
    """

    def __init__(
        self,
        reader: Reader,
        image: Image,
        later: dict[str, Mask],
        at_hand: Mapping[str, AtHand],
    ) -> None:
        self.digests = {
            name: np.zeros((len(table.pages), 2), dtype=np.uint64)
            for name, table in image.tables.items()
        }
        """Of what was given out; zeros for what was not."""
        self._reader = reader
        self._chunks = list(dict.fromkeys(image.chunks))
        self._local: list[U8] = []
        self._places: dict[int, list[_Place]] = defaultdict(list)
        self._stretches: dict[str, list[tuple[int, int]]] = {}
        self._sources: dict[str, tuple[list[int], list[int]]] = {}
        number = {chunk: at for at, chunk in enumerate(self._chunks)}
        numbers = np.array([number[chunk] for chunk in image.chunks], dtype=np.int64)
        for name, mask in later.items():
            table = image.tables[name]
            wanted = mask & (table.chunk != ZERO)
            source = np.zeros(len(table.pages), dtype=np.int64)
            offset = table.slot.astype(np.int64)
            source[wanted] = numbers[table.chunk[wanted]]
            if name in at_hand:
                self._take_local(at_hand[name], wanted, source, offset)
            self._place(name, table.pages, np.flatnonzero(wanted), source, offset)

    def stretches(self, name: str) -> list[tuple[int, int]]:
        """Which pages of a pagemap there are here: start and end of each stretch, ascending."""
        return self._stretches.get(name, [])

    def source(self, name: str, page: int) -> int:
        """The number under which `read` gives this page, with others."""
        starts, sources = self._sources[name]
        return sources[bisect_right(starts, page) - 1]

    def read(self, source: int) -> list[Content]:
        """Everything of one source. Raises `Damaged`, and what the store raises."""
        if source < len(self._chunks):
            return list(self._contents(source, self._reader.one(self._chunks[source])))
        return list(self._contents(source, self._local[source - len(self._chunks)]))

    def each(self, do: Callable[[Content], None], given: set[int]) -> None:
        """Call `do` with everything but the sources `given`, in any order and from several
        threads; a source that was dealt with is added to those.

        Raises as `read`, and what `do` raises.
        """
        left = [source for source in self._places if source not in given]
        for source in left:
            if source >= len(self._chunks):
                for content in self.read(source):
                    do(content)
                given.add(source)
        wanted = {self._chunks[source]: source for source in left if source < len(self._chunks)}

        def take(name: bytes, data: bytes) -> None:
            for content in self._contents(wanted[name], data):
                do(content)
            given.add(wanted[name])

        self._reader.each(wanted, take)

    def close(self) -> None:
        """Read no more."""
        self._reader.close()

    def _contents(self, source: int, data: bytes | U8) -> Iterator[Content]:
        whole = np.frombuffer(data, dtype=np.uint8)
        for place in self._places[source]:
            piece = whole[place.offset * PAGE : (place.offset + place.count) * PAGE]
            if len(piece) != place.count * PAGE:
                what = f"Chunk {self._chunks[source].hex()}"
                raise Damaged(what, "it has fewer pages than the image says")
            self.digests[place.name][place.at : place.at + place.count] = digests_of(piece)
            yield Content(place.name, place.first, piece)

    def _take_local(self, local: AtHand, wanted: Mask, source: I64, offset: I64) -> None:
        at = local.at[wanted[local.mask]].astype(np.int64)
        here = local.mask & wanted
        first = len(self._chunks) + len(self._local)
        source[here] = first + at // CHUNK_PAGES
        offset[here] = at % CHUNK_PAGES
        size = CHUNK_PAGES * PAGE
        whole = local.content
        self._local += [whole[start : start + size] for start in range(0, len(whole), size)]

    def _place(self, name: str, pages: U64, wanted: I64, source: I64, offset: I64) -> None:
        if not len(wanted):
            return
        pages, source, offset = pages[wanted], source[wanted], offset[wanted]
        next_to = pages[1:] == pages[:-1] + np.uint64(1)
        same = next_to & (source[1:] == source[:-1]) & (offset[1:] == offset[:-1] + 1)
        starts = np.concatenate(([0], np.flatnonzero(~same) + 1))
        counts = np.diff(np.append(starts, len(pages)))
        columns = (pages[starts], wanted[starts], source[starts], offset[starts], counts)
        for first, at, number, slot, count in zip(*(c.tolist() for c in columns), strict=True):
            self._places[number].append(_Place(name, first, at, slot, count))
        self._sources[name] = pages[starts].tolist(), source[starts].tolist()
        edges = np.concatenate(([0], np.flatnonzero(~next_to) + 1, [len(pages)]))
        self._stretches[name] = [
            (int(pages[start]), int(pages[end - 1]) + 1)
            for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        ]
