"""Chunks to a directory that CRIU restores from: whole, or as an increment to one that is there.

An incremental directory has a link `parent` to the other one; entries of its pagemaps that are
marked as in the parent have no pages of their own (CRIU `criu/pagemap.c`). So a node that was sent
an earlier checkpoint ahead of time writes what changed since, and no more.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np

from checkpoint.criu.digests import digests_of
from checkpoint.criu.dump import map_pages
from checkpoint.criu.identity import GONE, WORD, OpenFiles, identity_below, word_at
from checkpoint.criu.image import ZERO, Image, Stored, Table, load_whole
from checkpoint.criu.pagemap import IN_PARENT, LAZY, PAGE, PRESENT, Mask, Pagemap, encode_pagemap
from checkpoint.errors import Damaged
from checkpoint.objects import load_object
from checkpoint.reader import Reader


@dataclass(eq=False)
class Materialized:
    """An image directory on this node.

    `own` says which pages of a table are in its own pages file, `patched` which of them `refer_to`
    wrote to: they are not what the repository has.
    """

    directory: Path
    loaded: Image
    parent: Materialized | None
    own: dict[str, Mask]
    patched: dict[str, set[int]] = field(default_factory=dict)
    _image: Image | None = field(default=None, repr=False)

    def image(self) -> Image:
        """The image with digests, as `previous` for the next `encode`. Raises `OSError`.

        Reads every page (about 0.15 s per GB), so call it from a thread once the process runs
        again, and before the directory is removed.
        """
        if self._image is None:
            before = self.parent.image() if self.parent else None
            tables = {name: self._with_digests(name, before) for name in self.loaded.tables}
            loaded = self.loaded
            open_files = OpenFiles.read(self.directory)
            self._image = Image(loaded.root, loaded.chunks, tables, loaded.pagemaps, open_files)
        return self._image

    def refer_to(self, root: str | os.PathLike[str]) -> None:
        """Let what the processes remember of their open files be true of the files below `root`.

        Call it when `root` is what they will see as `/`, before they are restored from here; again
        for another `root`. A file that is not there any more gets an identity that no file has.
        Raises `Damaged`, `UnknownFormat` and `OSError`.
        """
        known = OpenFiles.read(self.directory)
        identities = [identity_below(root, os.fsencode(file.path)) or GONE for file in known.files]
        for mark in known.marks:
            for number, value in enumerate(identities[mark.file]):
                self._overwrite(mark.table, mark.address + number * WORD, value)

    def _overwrite(self, name: str, address: int, value: int) -> None:
        """Write one u64, which lies in one page, to this directory's pages or the parent's."""
        table = self.loaded.tables.get(name)
        word = word_at(table.pages, address) if table else None
        if word is None:
            raise Damaged("The list of open files", f"{name} has no page at {address:#x}")
        self._image = None
        page, offset = divmod(word * WORD, PAGE)
        if not self.own[name][page]:
            assert self.parent is not None
            self.parent._overwrite(name, address, value)
            return
        self.patched.setdefault(name, set()).add(page)
        at = int(self.own[name][:page].sum()) * PAGE + offset
        path = self.directory / f"pages-{self.loaded.pagemaps[name].pages_id}.img"
        with path.open("r+b") as file:
            os.pwrite(file.fileno(), struct.pack("<Q", value), at)

    def size(self) -> int:
        """Bytes of all its pages, those of the parent included."""
        return sum(len(table.pages) for table in self.loaded.tables.values()) * PAGE

    def in_parent(self, name: str) -> Mask:
        """Which pages of a table are those of the parent."""
        return ~self.own[name]

    def _with_digests(self, name: str, before: Image | None) -> Table:
        table, own = self.loaded.tables[name], self.own[name]
        digests = np.zeros((len(table.pages), 2), dtype=np.uint64)
        pages_id = self.loaded.pagemaps[name].pages_id
        digests[own] = digests_of(map_pages(self.directory / f"pages-{pages_id}.img"))
        shared = self.in_parent(name)
        if before is not None and shared.any():
            known = before.tables[name]
            assert known.digests is not None
            digests[shared] = known.digests[np.searchsorted(known.pages, table.pages[shared])]
        digests[sorted(self.patched.get(name, ()))] = 0  # so that they count as changed
        return Table(table.pages, table.chunk, table.slot, digests)


def materialize(reader: Reader, root: bytes, directory: str | os.PathLike[str]) -> Materialized:
    """Write the image `root` to `directory`, which is created, and must be empty if it is there.

    Raises `Damaged`, what the store raises, and `OSError` when the directory cannot be written.
    """
    stored = load_whole(reader, root)
    own = write_image(reader, stored, Path(directory), None)
    return Materialized(Path(directory), stored.image, None, own)


def materialize_delta(
    reader: Reader, root: bytes, directory: str | os.PathLike[str], parent: Materialized
) -> Materialized:
    """Write what of the image `root` is not in `parent`, and a link to it.

    CRIU restores from `directory` as long as both are there and keep their places relative to each
    other. Raises as `materialize`.
    """
    stored = load_whole(reader, root)
    own = write_image(reader, stored, Path(directory), parent)
    return Materialized(Path(directory), stored.image, parent, own)


def write_image(
    reader: Reader,
    stored: Stored,
    directory: Path,
    parent: Materialized | None,
    later: Mapping[str, Mask] = MappingProxyType({}),
) -> dict[str, Mask]:
    """Write all files of an image, but of its pages neither those that are in `parent` nor those
    that come `later`. Returns which it wrote.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    image = stored.image
    own = {}
    for name in image.tables:
        own[name] = own_pages(name, image, parent)
        if name in later:
            own[name] &= ~later[name]
    for name, data in stored.files.items():
        if name in image.pagemaps and (name in later or not own[name].all()):
            data = encode_pagemap(_split(image.pagemaps[name], own[name], later.get(name)))
        (directory / name).write_bytes(data)
    for name, object_id in stored.large.items():
        (directory / name).write_bytes(load_object(reader, object_id))
    if parent is not None:
        (directory / "parent").symlink_to(os.path.relpath(parent.directory, directory))
    _write_pages(reader, image, directory, own)
    return own


def own_pages(name: str, image: Image, parent: Materialized | None) -> Mask:
    """Which pages of a table are to be written: those not at the same place in the parent.

    Shared memory is written whole: its segments get new names with every restore.
    """
    table = image.tables[name]
    known = parent.loaded.tables.get(name) if parent else None
    if parent is None or known is None or not len(known.pages) or "shmem" in name:
        return np.ones(len(table.pages), dtype=np.bool_)
    number = {chunk: at for at, chunk in enumerate(image.chunks)}
    # Numbers of the parent's chunks in this image; one that no page has where there is none.
    numbers = [number.get(chunk, ZERO - 1) for chunk in parent.loaded.chunks]
    renumbered = np.array([*numbers, ZERO], dtype=np.uint32)
    at = np.minimum(np.searchsorted(known.pages, table.pages), len(known.pages) - 1)
    last = np.uint32(len(renumbered) - 1)
    chunk = renumbered[np.minimum(known.chunk[at], last)]
    same = (known.pages[at] == table.pages) & (chunk == table.chunk)
    own: Mask = ~(same & (known.slot[at] == table.slot))
    return own


def _split(pagemap: Pagemap, own: Mask, later: Mask | None) -> Pagemap:
    """The pagemap with its present entries split along `own` and `later`;

    those that are neither are marked as in the parent.
    """
    addresses: list[int] = []
    counts: list[int] = []
    flags: list[int] = []
    kinds = np.where(own, PRESENT, IN_PARENT)
    if later is not None:
        kinds[later] = LAZY
    at = 0
    rows = zip(
        pagemap.addresses.tolist(), pagemap.counts.tolist(), pagemap.flags.tolist(), strict=True
    )
    for address, count, flag in rows:
        if not flag & PRESENT:
            edges, kept = [0, count], [flag]
        else:
            mine = kinds[at : at + count]
            inner = (np.flatnonzero(mine[1:] != mine[:-1]) + 1).tolist()
            edges = [0, *inner, count]
            # Lazy in an entry with pages is how CRIU marks what it might leave out.
            kept = [flag & ~LAZY if kind == PRESENT else kind for kind in mine[edges[:-1]].tolist()]
            at += count
        for start, end, kind in zip(edges, edges[1:], kept, strict=False):
            addresses.append(address + start * PAGE)
            counts.append(end - start)
            flags.append(kind)
    columns = (np.array(column, dtype=np.uint64) for column in (addresses, counts, flags))
    return Pagemap(pagemap.pages_id, *columns)


def _write_pages(reader: Reader, image: Image, directory: Path, own: dict[str, Mask]) -> None:
    fds: list[int] = []
    wanted: dict[bytes, list[tuple[int, int, int, int]]] = {}  # fd, offset, offset in chunk, length
    try:
        for name, table in image.tables.items():
            path = directory / f"pages-{image.pagemaps[name].pages_id}.img"
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fds.append(fd)
            mine = own[name]
            os.ftruncate(fd, int(mine.sum()) * PAGE)  # pages not written stay holes: zero
            runs = Table(table.pages[mine], table.chunk[mine], table.slot[mine]).runs()
            columns = (runs.chunk, runs.at, runs.slot, runs.count)
            for chunk, at, slot, count in zip(*(c.tolist() for c in columns), strict=True):
                if chunk != ZERO:
                    place = (fd, at * PAGE, slot * PAGE, count * PAGE)
                    wanted.setdefault(image.chunks[chunk], []).append(place)

        def write(name: bytes, data: bytes) -> None:
            view = memoryview(data)
            for fd, offset, start, length in wanted[name]:
                piece = view[start : start + length]
                if len(piece) != length:
                    raise Damaged(f"Chunk {name.hex()}", "it has fewer pages than the image says")
                while piece:
                    written = os.pwrite(fd, piece, offset)
                    piece, offset = piece[written:], offset + written

        reader.each(wanted, write)
    finally:
        for fd in fds:
            os.close(fd)
