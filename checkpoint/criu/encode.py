"""A dump to chunks: pages compared with the checkpoint before, changed ones cut along addresses.

Every page has a digest (XXH3-128 under a seed that only this process knows, since whoever fills
the memory must not be able to make two pages look alike). A page whose digest is that of the same
address in the previous image keeps its place; the others go into new chunks of up to 64 pages. A
chunk of which less than half is still in use gives up its pages to new chunks, so that at most
half of what is stored is waste.
"""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from xxhash import xxh3_128_digest

from checkpoint.blobs import Buffer
from checkpoint.criu.identity import OPEN_FILES, Mark, OpenFiles, find_marks, marks_still
from checkpoint.criu.image import ZERO, Image, Table, store_image
from checkpoint.criu.pagemap import (
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
_SEED = secrets.randbits(64)
_ZERO_DIGEST = np.frombuffer(xxh3_128_digest(bytes(PAGE), _SEED), dtype=np.uint64)


@dataclass
class _Dumped:
    """One pagemap of the dump under way."""

    pages: U64
    content: U8  # pages × PAGE
    digests: U64
    chunk: U32
    slot: U16
    changed: Mask
    spent: Spent | None = None


def encode(
    writer: Writer,
    directory: str | os.PathLike[str],
    previous: Image | None,
    *,
    spend: bool = False,
) -> Image:
    """Add the images in `directory`, a full dump that stays as it is until `writer.finish()`.

    With `spend` its pages, on tmpfs, are given back while they are stored: it is of no use after.

    `previous` is the image last encoded of the same process tree, or `Materialized.image()` of the
    one it was restored from: what it shares with this one is neither written nor hashed for its
    name. Raises `InvalidImage`, and what the writer raises.
    """
    directory = Path(directory)
    files = {entry.name: entry for entry in sorted(directory.iterdir()) if entry.is_file()}
    pagemaps = {
        name: decode_pagemap(path.read_bytes(), name)
        for name, path in files.items()
        if name.startswith("pagemap-")
    }
    page_files = {name: f"pages-{pagemap.pages_id}.img" for name, pagemap in pagemaps.items()}
    before = _usable(writer, previous)
    dumped = {
        name: _compare(directory / page_files[name], name, pagemap, before, spend)
        for name, pagemap in pagemaps.items()
    }
    open_files = _marked(OpenFiles.read(directory), dumped, before)
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
        name: store_object(writer, _mapped(path)).id
        for name, path in rest.items()
        if name not in pagemaps and path.stat().st_size > _SMALL
    }
    small = [(name, path.read_bytes()) for name, path in rest.items() if name not in large]
    if open_files.files:
        small.append((OPEN_FILES, open_files.encode()))
    root = store_image(writer, image.chunks, image.tables, small, large)
    return Image(root, image.chunks, image.tables, pagemaps, open_files)


def digests_of(content: U8) -> U64:
    """The digest of each page: two u64 a row."""
    view = content.data
    seed = _SEED
    ends = range(PAGE, len(view) + 1, PAGE)
    joined = b"".join([xxh3_128_digest(view[end - PAGE : end], seed) for end in ends])
    return np.frombuffer(joined, dtype=np.uint64).reshape(-1, 2)


def map_pages(path: Path) -> U8:
    """The bytes of a pages file, mapped."""
    return np.frombuffer(_mapped(path), dtype=np.uint8)


def _to_spend(path: Path) -> tuple[U8, Spent | None]:
    """The bytes of a pages file, mapped to be given back piece by piece."""
    with path.open("r+b") as file:
        if not os.fstat(file.fileno()).st_size:
            return np.empty(0, dtype=np.uint8), None
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        mapped = mmap.mmap(file.fileno(), 0, flags=flags)
        return np.frombuffer(mapped, dtype=np.uint8), Spent(mapped)


def _mapped(path: Path) -> Buffer:
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return b""
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        return memoryview(mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ))


def _usable(writer: Writer, previous: Image | None) -> Image | None:
    """`previous` if its chunks are (still) in the writer's packs:

    not after an aborted checkpoint.
    """
    if previous is None:
        return None
    live = previous.live()
    held = writer.holds(name for name, used in zip(previous.chunks, live, strict=True) if used)
    return previous if held else None


def _compare(path: Path, name: str, pagemap: Pagemap, before: Image | None, spend: bool) -> _Dumped:
    if np.any(pagemap.flags & IN_PARENT):
        raise InvalidImage(f"{name} refers to an earlier dump; a full dump is needed.")
    present = pagemap.present()
    count = int(present.counts.sum())
    try:
        content, spent = _to_spend(path) if spend else (map_pages(path), None)
    except FileNotFoundError:
        raise InvalidImage(f"{path.name}, which {name} names, is missing.") from None
    if len(content) != count * PAGE:
        raise InvalidImage(
            f"{path.name} has {len(content)} bytes; {name} lists {count} pages of {PAGE}."
        )
    pages = present.page_numbers()
    digests = digests_of(content)
    chunk = np.full(len(pages), ZERO, dtype=np.uint32)
    slot = np.zeros(len(pages), dtype=np.uint16)
    changed = np.any(digests != _ZERO_DIGEST, axis=1)
    table = before.tables.get(name) if before else None
    if table is not None and table.digests is not None and len(table.pages):
        at = np.minimum(np.searchsorted(table.pages, pages), len(table.pages) - 1)
        same = (table.pages[at] == pages) & np.all(table.digests[at] == digests, axis=1) & changed
        chunk[same], slot[same] = table.chunk[at[same]], table.slot[at[same]]
        changed &= ~same
    return _Dumped(pages, content, digests, chunk, slot, changed, spent)


def _marked(noted: OpenFiles, dumped: dict[str, _Dumped], before: Image | None) -> OpenFiles:
    """Find where memory has the identities of open files: where it had them, and where it changed.

    Shared memory is left out: it has no place of its own in a process's heap.
    """
    marks = []
    former = before.open_files.marks if before else ()
    for name, table in dumped.items():
        if noted.files and "shmem" not in name:
            known = [mark.address for mark in former if mark.table == name]
            found = marks_still(table.pages, table.content, known, noted.files)
            found |= find_marks(table.pages, table.content, table.changed, noted.files)
            marks += [Mark(name, address, file) for address, file in sorted(found.items())]
    return OpenFiles(noted.files, tuple(marks))


def _give_up_sparse(writer: Writer, chunks: list[bytes], dumped: dict[str, _Dumped]) -> None:
    used = np.zeros(len(chunks), dtype=np.int64)
    for table in dumped.values():
        used += np.bincount(table.chunk[table.chunk != ZERO], minlength=len(chunks))
    index = writer.index
    size = [(index.plain(name) or 0) // PAGE for name in chunks]
    sparse = used * 2 < np.array(size, dtype=np.int64)
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
        first, last = int(at[0]), int(at[-1])
        if last - first == end - start - 1:
            data = table.content[first * PAGE : (last + 1) * PAGE].data
        else:
            data = rows[at].reshape(-1).data
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
