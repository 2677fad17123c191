"""A dump to chunks: pages compared with the checkpoint before, changed ones cut along addresses.

A page whose digest (`checkpoint.criu.digests`) is that of the same address in the previous image
keeps its place; the others go into new chunks of up to 64 pages. A chunk of which less than half is
still in use gives up its pages to new chunks, as soon as all of these are at hand, so that about
half of what is stored is waste at most.

Of a dump that was captured (`checkpoint.criu.capture`) only pages are at hand that were not known.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from checkpoint.criu.digests import ZERO_DIGEST, Known, digests_of
from checkpoint.criu.dump import Dump, PageFile, mapped
from checkpoint.criu.identity import OPEN_FILES, Mark, OpenFiles, find_marks, marks_still
from checkpoint.criu.image import ZERO, Image, Table, store_image
from checkpoint.criu.pagemap import (
    I64,
    IN_PARENT,
    PAGE,
    U8,
    U16,
    U32,
    U64,
    Mask,
    Pagemap,
    decode_pagemap,
)
from checkpoint.criu.spent import Spent
from checkpoint.errors import InvalidImage
from checkpoint.objects import store_object
from checkpoint.writer import Writer

CHUNK_PAGES = 64

_SMALL = 64 << 10


@dataclass
class _Dumped:
    """One pagemap of the dump under way. `row` is where in `content` each page is; -1: nowhere."""

    pages: U64
    content: U8  # rows × PAGE
    row: I64
    digests: U64
    chunk: U32
    slot: U16
    changed: Mask
    spent: Spent | None = None


def known(writer: Writer, previous: Image | None) -> Known | None:
    """What a dump need not bring when `writer` is to store it. None if that is nothing."""
    image = _usable(writer, previous)
    return None if image is None else Known.of(image, _sparse(writer, image))


def encode(
    writer: Writer,
    dump: Dump | str | os.PathLike[str],
    previous: Image | None,
    *,
    spend: bool = False,
) -> Image:
    """Add a full dump, or that in a directory, which stays as it is until `writer.finish()`.

    With `spend` the pages of a directory, on tmpfs, are given back while they are stored: it is of
    no use after.

    `previous` is the image last encoded of the same process tree, or `Materialized.image()` of the
    one it was restored from: what it shares with this one is neither written nor hashed for its
    name. A dump in which something is left out as known knows it itself.

    Raises `InvalidImage`, and what the writer raises.
    """
    if not isinstance(dump, Dump):
        dump = Dump.read(dump, spend=spend)
    before = _usable(writer, dump.known.image if dump.known is not None else previous)
    if dump.known is not None and before is None:
        raise InvalidImage("A dump left out pages that are not in the repository any more.")
    paths = sorted(dump.directory.iterdir())
    files = {path.name: path for path in paths if path.is_file()}
    pagemaps = {
        name: decode_pagemap(path.read_bytes(), name)
        for name, path in files.items()
        if name.startswith("pagemap-")
    }
    page_files = {name: f"pages-{pagemap.pages_id}.img" for name, pagemap in pagemaps.items()}
    dumped = {
        name: _compare(dump, page_files[name], name, pagemap, before)
        for name, pagemap in pagemaps.items()
    }
    open_files = _marked(OpenFiles.read(dump.directory), dumped, before)
    chunks = list(before.chunks) if before else []
    _give_up_sparse(writer, chunks, dumped)
    for table in dumped.values():
        _store_changed(writer, chunks, table)
    image = _compacted(chunks, dumped)
    writer.keep([name for name, live in zip(image.chunks, image.live(), strict=True) if live])
    rest = {
        name: path
        for name, path in files.items()
        if name not in (OPEN_FILES, *page_files.values()) and not name.endswith(".log")
    }
    large = {
        name: store_object(writer, mapped(path)).id
        for name, path in rest.items()
        if name not in pagemaps and path.stat().st_size > _SMALL
    }
    small = [(name, path.read_bytes()) for name, path in rest.items() if name not in large]
    if open_files.files:
        small.append((OPEN_FILES, open_files.encode()))
    root = store_image(writer, image.chunks, image.tables, small, large)
    return Image(root, image.chunks, image.tables, pagemaps, open_files)


def _usable(writer: Writer, previous: Image | None) -> Image | None:
    """`previous` if its chunks are (still) in the writer's packs:

    not after an aborted checkpoint.
    """
    if previous is None:
        return None
    live = previous.live()
    held = writer.holds(name for name, used in zip(previous.chunks, live, strict=True) if used)
    return previous if held else None


def _compare(dump: Dump, file: str, name: str, pagemap: Pagemap, before: Image | None) -> _Dumped:
    if np.any(pagemap.flags & IN_PARENT):
        raise InvalidImage(f"{name} refers to an earlier dump; a full dump is needed.")
    present = pagemap.present()
    count = int(present.counts.sum())
    there = dump.pages.get(file)
    if there is None:
        raise InvalidImage(f"{file}, which {name} names, is missing.")
    row = _rows(there)
    if len(row) != count:
        raise InvalidImage(f"{file} has {len(row)} pages; {name} lists {count} of {PAGE} bytes.")
    pages = present.page_numbers()
    digests = there.digests if there.digests is not None else digests_of(there.content)
    chunk = np.full(len(pages), ZERO, dtype=np.uint32)
    slot = np.zeros(len(pages), dtype=np.uint16)
    changed = np.any(digests != ZERO_DIGEST, axis=1)
    table = before.tables.get(name) if before else None
    if table is not None and table.digests is not None and len(table.pages):
        at = np.minimum(np.searchsorted(table.pages, pages), len(table.pages) - 1)
        same = (table.pages[at] == pages) & np.all(table.digests[at] == digests, axis=1) & changed
        if dump.known is not None:  # what is elsewhere as well can leave a chunk that is given up
            same[same] = (row[same] >= 0) | ~dump.known.but[table.chunk[at[same]]]
        chunk[same], slot[same] = table.chunk[at[same]], table.slot[at[same]]
        changed &= ~same
    moved = changed & (row < 0)
    if moved.any():
        assert dump.known is not None
        chunk[moved], slot[moved] = dump.known.places(digests[moved])
        changed &= ~moved
    return _Dumped(pages, there.content, row, digests, chunk, slot, changed, there.spent)


def _rows(file: PageFile) -> I64:
    if file.kept is None:
        if len(file.content) % PAGE:
            raise InvalidImage(f"A pages file has {len(file.content)} bytes: not whole pages.")
        return np.arange(len(file.content) // PAGE, dtype=np.int64)
    return np.where(file.kept, np.cumsum(file.kept) - 1, -1)


def _marked(noted: OpenFiles, dumped: dict[str, _Dumped], before: Image | None) -> OpenFiles:
    """Find where memory has the identities of open files: where it had them, and where it changed.

    Shared memory is left out: it has no place of its own in a process's heap.
    """
    marks = []
    former = before.open_files.marks if before else ()
    for name, table in dumped.items():
        if noted.files and "shmem" not in name:
            addresses = [mark.address for mark in former if mark.table == name]
            there = table.row >= 0
            pages, changed = table.pages[there], table.changed[there]
            found = marks_still(pages, table.content, addresses, noted.files)
            found |= find_marks(pages, table.content, changed, noted.files)
            marks += [Mark(name, address, file) for address, file in sorted(found.items())]
    return OpenFiles(noted.files, tuple(marks))


def _sparse(writer: Writer, image: Image) -> Mask:
    """Which chunks of an image are used by less than half."""
    return _less_than_half(writer, image.chunks, [table.chunk for table in image.tables.values()])


def _less_than_half(writer: Writer, chunks: list[bytes], used_by: list[U32]) -> Mask:
    used = np.zeros(len(chunks), dtype=np.int64)
    for chunk in used_by:
        used += np.bincount(chunk[chunk != ZERO], minlength=len(chunks))
    index = writer.index
    size = [(index.plain(name) or 0) // PAGE for name in chunks]
    less: Mask = used * 2 < np.array(size, dtype=np.int64)
    return less


def _give_up_sparse(writer: Writer, chunks: list[bytes], dumped: dict[str, _Dumped]) -> None:
    sparse = _less_than_half(writer, chunks, [table.chunk for table in dumped.values()])
    for table in dumped.values():
        sparse[table.chunk[(table.chunk != ZERO) & (table.row < 0)]] = False  # not at hand
    if not sparse.any():
        return
    for table in dumped.values():
        kept = np.flatnonzero(table.chunk != ZERO)
        given_up = kept[sparse[table.chunk[kept]]]
        table.chunk[given_up] = ZERO
        table.changed[given_up] = True


def _store_changed(writer: Writer, chunks: list[bytes], table: _Dumped) -> None:
    changed = np.flatnonzero(table.changed)
    rows = table.content.reshape(-1, PAGE)
    for start, end in cut(table.pages[changed]):
        at = changed[start:end]
        where = table.row[at]
        first, last = int(where[0]), int(where[-1])
        if last - first == end - start - 1:
            data = table.content[first * PAGE : (last + 1) * PAGE].data
        else:
            data = rows[where].reshape(-1).data
        table.chunk[at] = len(chunks)
        table.slot[at] = np.arange(end - start, dtype=np.uint16)
        done = table.spent.upto((last + 1) * PAGE) if table.spent is not None else None
        chunks.append(writer.add(data, done))


def cut(pages: U64) -> Iterator[tuple[int, int]]:
    """Cut ascending page numbers into chunks of at most `CHUNK_PAGES`: (start, end) each.

    Cuts fall on multiples of `CHUNK_PAGES` in the address space, so that the same memory gives the
    same chunks whatever changed before it; blocks with few pages are joined.
    """
    if not len(pages):
        return
    blocks = pages // np.uint64(CHUNK_PAGES)
    inner = (np.flatnonzero(blocks[1:] != blocks[:-1]) + 1).tolist()
    begin = 0
    for start, end in pairwise([0, *inner, len(pages)]):
        size = start - begin
        if size and (size >= CHUNK_PAGES // 2 or end - begin > CHUNK_PAGES):
            yield begin, start
            begin = start
    yield begin, len(pages)


def _compacted(chunks: list[bytes], dumped: dict[str, _Dumped]) -> Image:
    """The new image, its chunk list free of unused entries when those are the majority."""
    tables = {
        name: Table(part.pages, part.chunk, part.slot, part.digests)
        for name, part in dumped.items()
    }
    image = Image(b"", chunks, tables, {})
    live = image.live()
    if 2 * int(live.sum()) >= len(chunks):
        return image
    number = np.append(np.cumsum(live, dtype=np.int64) - 1, 0).astype(np.uint32)
    for name, table in tables.items():
        zero = table.chunk == ZERO
        renumbered = number[np.where(zero, len(chunks), table.chunk)]
        renumbered[zero] = ZERO
        tables[name] = Table(table.pages, renumbered, table.slot, table.digests)
    return Image(b"", [name for name, used in zip(chunks, live, strict=True) if used], tables, {})
