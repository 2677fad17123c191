"""Process images as they are stored: where each page of each pagemap is, and the small files.

Root object, JSON: `version`, `chunks` (object: list of chunk ids), `tables` (pagemap file name to
object: runs), `files` (name to `[offset, size]` in the object `small`, or to the id of an object
of its own), `small`. A table is the pages of a pagemap's present entries, in order, as runs of
neighbouring slots of one chunk: three columns, little-endian: u32 chunk (difference to the run
before), u16 first slot, u32 count. A slot is 4 KiB. Chunk number 2^32 - 1 stands for pages that
are all zero.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from checkpoint.criu.identity import OpenFiles
from checkpoint.criu.pagemap import PAGE, U16, U32, U64, Mask, Pagemap, decode_pagemap, spread
from checkpoint.errors import Damaged, InvalidImage, UnknownFormat
from checkpoint.objects import load_list, load_object, load_stored, store_list, store_object
from checkpoint.reader import Reader
from checkpoint.writer import Writer

ZERO = 0xFFFF_FFFF
VERSION = 1


@dataclass(frozen=True)
class Runs:
    """Neighbouring pages that are neighbouring slots:

    pages `at`, … in slots `slot`, … of `chunk`.
    """

    chunk: U32
    slot: U16
    count: U32
    at: U64


@dataclass(frozen=True)
class Table:
    """The present pages of one pagemap, in order: page number, and the chunk and slot it is in.

    `digests` (two u64 a page) are None in an image that was loaded from a repository.
    """

    pages: U64
    chunk: U32
    slot: U16
    digests: U64 | None = None

    def runs(self) -> Runs:
        """The table in compact form."""
        if not len(self.pages):
            return Runs(self.chunk, self.slot, self.chunk, self.pages)
        same = (self.chunk[1:] == self.chunk[:-1]) & (
            (self.slot[1:] == self.slot[:-1] + np.uint16(1)) | (self.chunk[1:] == ZERO)
        )
        starts = np.concatenate(([0], np.flatnonzero(~same) + 1))
        counts = np.diff(np.append(starts, len(self.pages)))
        return Runs(
            self.chunk[starts],
            self.slot[starts],
            counts.astype(np.uint32),
            starts.astype(np.uint64),
        )


@dataclass(frozen=True)
class Image:
    """A process image in a repository. `chunks` may name chunks that no page is in any more."""

    root: bytes
    chunks: list[bytes]
    tables: dict[str, Table]
    pagemaps: dict[str, Pagemap]
    open_files: OpenFiles = field(default_factory=OpenFiles)

    @property
    def size(self) -> int:
        """Bytes of memory in it."""
        return sum(len(table.pages) for table in self.tables.values()) * PAGE

    def live(self) -> Mask:
        """For each chunk whether any page is in it."""
        live = np.zeros(len(self.chunks), dtype=np.bool_)
        for table in self.tables.values():
            live[table.chunk[table.chunk != ZERO]] = True
        return live


def encode_table(table: Table) -> bytes:
    """The table's runs as bytes."""
    runs = table.runs()
    delta = np.diff(runs.chunk, prepend=np.uint32(0)).astype("<u4")
    columns = (delta, runs.slot.astype("<u2"), runs.count.astype("<u4"))
    return b"".join([column.tobytes() for column in columns])


def decode_table(data: bytes, pages: U64, chunks: int, name: str) -> Table:
    """Inverse of `encode_table`, for these pages and this many chunks. Raises `Damaged`."""
    n, rest = divmod(len(data), 10)
    chunk = np.cumsum(np.frombuffer(data, "<u4", n), dtype=np.uint32)
    slot = np.frombuffer(data, "<u2", n, 4 * n)
    count = np.frombuffer(data, "<u4", n, 6 * n).astype(np.uint64)
    named = chunk[chunk != ZERO]
    if rest or int(count.sum()) != len(pages) or (len(named) and int(named.max()) >= chunks):
        raise Damaged(f"The table of pages of {name}", "it does not fit its pagemap")
    slots = spread(slot.astype(np.uint64), count).astype(np.uint16)
    full = np.repeat(chunk, count.astype(np.int64))
    slots[full == ZERO] = 0
    return Table(pages, full, slots)


def store_image(
    writer: Writer,
    chunks: list[bytes],
    tables: dict[str, Table],
    files: Iterable[tuple[str, bytes]],
    large: dict[str, bytes],
) -> bytes:
    """Store tables and `files`; `large` names objects stored already. The root's chunk id."""
    places: dict[str, list[int] | str] = {name: root.hex() for name, root in large.items()}
    small = bytearray()
    for name, data in files:
        places[name] = [len(small), len(data)]
        small += data
    root = {
        "version": VERSION,
        "chunks": store_list(writer, chunks).id.hex(),
        "tables": {
            name: store_object(writer, encode_table(table)).id.hex()
            for name, table in tables.items()
        },
        "files": places,
        "small": store_object(writer, bytes(small)).id.hex(),
    }
    return store_object(writer, json.dumps(root, separators=(",", ":")).encode()).id


@dataclass(frozen=True)
class Stored:
    """An image read back: what `Image` holds, and its files (`large` ones by object id)."""

    image: Image
    files: dict[str, bytes]
    large: dict[str, bytes]


def load_whole(reader: Reader, root: bytes) -> Stored:
    """Read everything of an image but its pages. Raises `Damaged`, `UnknownFormat`."""
    what = "The root of a process image"
    try:
        fields = json.loads(load_object(reader, root))
        if fields["version"] > VERSION:
            raise UnknownFormat(what, fields["version"], VERSION)
        chunks = load_list(reader, bytes.fromhex(fields["chunks"]))
        small = load_object(reader, bytes.fromhex(fields["small"]))
        files, large = {}, {}
        for name, place in fields["files"].items():
            if "/" in name or name in (".", ".."):
                raise Damaged(what, f"{name!r} in it is not a file name")
            if isinstance(place, str):
                large[name] = bytes.fromhex(place)
            else:
                files[name] = small[place[0] : place[0] + place[1]]
        names = list(fields["tables"])
        encoded = load_stored(reader, [bytes.fromhex(fields["tables"][name]) for name in names])
        pagemaps = {name: decode_pagemap(files[name], name) for name in names}
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError, InvalidImage):
        raise Damaged(what, "its fields are not those of a process image") from None
    tables = {
        name: decode_table(data, pagemaps[name].present().page_numbers(), len(chunks), name)
        for name, (data, _) in zip(names, encoded, strict=True)
    }
    return Stored(Image(root, chunks, tables, pagemaps), files, large)


def load_image(reader: Reader, root: bytes) -> Image:
    """The image whose root chunk is `root`, without its pages.

    Raises `Damaged`, `UnknownFormat`.
    """
    return load_whole(reader, root).image
