"""Runs: neighbouring chunks of one pack, read with one range request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from checkpoint.blobs import BlobStore
from checkpoint.errors import Damaged, NotFound
from checkpoint.pack_index import PackIndex
from checkpoint.packs import Location, PackRef

RUN_BYTES = 4 << 20
GAP_BYTES = 64 << 10  # reading over a gap of this size costs less than another request


class Run(NamedTuple):
    pack: PackRef
    start: int
    length: int
    chunks: list[tuple[bytes, Location]]


def plan(index: PackIndex, names: Iterable[bytes]) -> Iterator[Run]:
    """The runs that together hold the chunks `names` (distinct ids). Raises `Damaged`."""
    located = [(name, index.locate(name)) for name in names]
    located.sort(key=lambda item: item[1])
    return plan_located(located)


def plan_located(located: Iterable[tuple[bytes, Location]]) -> Iterator[Run]:
    """The runs of these chunks, which are in the order of packs and offsets."""
    chunks: list[tuple[bytes, Location]] = []
    start = end = 0
    for name, location in located:
        new_end = location.offset + location.length
        if chunks and (
            location.pack != chunks[-1][1].pack
            or location.offset - end > GAP_BYTES
            or new_end - start > RUN_BYTES
        ):
            yield Run(chunks[-1][1].pack, start, end - start, chunks)
            chunks = []
        if not chunks:
            start = location.offset
        end = new_end
        chunks.append((name, location))
    if chunks:
        yield Run(chunks[-1][1].pack, start, end - start, chunks)


def read_sealed(store: BlobStore, run: Run) -> Iterator[tuple[bytes, Location, memoryview]]:
    """The sealed chunks of a run. Raises `Damaged` when the pack is missing or cut short."""
    what = f"Pack {run.pack.id.hex()}"
    try:
        view = memoryview(store.get(run.pack.key, run.start, run.length))
    except NotFound:
        raise Damaged(what, "it is missing from the store") from None
    if len(view) != run.length:
        raise Damaged(what, "it is cut short")
    for name, location in run.chunks:
        begin = location.offset - run.start
        yield name, location, view[begin : begin + location.length]
