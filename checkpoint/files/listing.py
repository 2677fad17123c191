"""A tree as a file of records, so that memory does not grow with it: each directory, what is in it
sorted by name, and where it ends, depth first. A scan reads the listing of the scan before in that
order and writes its own beside.

A record has an entry as it will be stored, without what it holds; what it holds of a file are
*pieces*, of 52 bytes: a segment, and 1 + where its bytes are copied to until they are stored, or 0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from checkpoint.files.key import Key
from checkpoint.files.tree import INLINE_SEGMENTS, Segment, encode_segments, name_in
from checkpoint.scratch import Scratch

LEAF, UNSTORED, DIRECTORY, END = range(4)
"""What a record is; `UNSTORED` is a leaf that has bytes which are not stored yet."""

PIECE = 52
SEGMENT = 44
_NO_KEY = bytes(32)
_RECORD = struct.Struct("<BIIQ32s")
_PLACE = struct.Struct("<Q")
_STORED = bytes(_PLACE.size)
_MEMORY = 8 << 20
_BLOCK = 128 << 10
_PIECES_AT_ONCE = 1024 * PIECE


def piece_of(segment: Segment, place: int | None = None) -> bytes:
    """A piece of a file; `place` is where its bytes are until they are stored."""
    return encode_segments((segment,)) + (_STORED if place is None else _PLACE.pack(place + 1))


def place_of(piece: bytes) -> int | None:
    """Where the bytes of a piece are; None when they are stored."""
    return int(_PLACE.unpack_from(piece, SEGMENT)[0]) - 1 if piece[SEGMENT:] != _STORED else None


def chunk_of(piece: bytes) -> bytes:
    """The chunk that a piece is stored in."""
    return piece[SEGMENT - 32 : SEGMENT]


class Record(NamedTuple):
    """One name, or the end of a directory. `head` is of `checkpoint.files.tree.encode_head`, but of
    a link or a device all that is stored. `key` is None when the file must be read again. `raw` is
    the record as a listing has it, "" of one that is new.
    """

    what: int
    key: Key | None
    head: bytes
    pieces: Pieces
    raw: bytes = b""

    @property
    def name(self) -> bytes:
        return name_in(self.head)


class Pieces(NamedTuple):
    """The pieces of a file: few are `here`, many in a scratch `where`, from `at` on."""

    number: int
    here: bytes = b""
    where: Scratch | None = None
    at: int = 0

    def blocks(self) -> Iterator[bytes]:
        """All of them, many at a time."""
        if self.where is None:
            if self.here:
                yield self.here
            return
        yield from self.where.stream(self.at, self.number * PIECE, _PIECES_AT_ONCE)

    def each(self) -> Iterator[bytes]:
        """All of them, one by one."""
        for block in self.blocks():
            for at in range(0, len(block), PIECE):
                yield block[at : at + PIECE]


NOTHING = Pieces(0)


class Listing:
    """Written record by record, then read any number of times."""

    def __init__(self) -> None:
        self.unstored = False
        """Whether there is a record of that kind."""
        self._records = Scratch("The list of files", _MEMORY)
        self._many = Scratch("The list of files", _MEMORY)
        self._buffer = bytearray()

    def enter(self, head: bytes) -> None:
        """A directory; what follows is in it. Every method raises `StoreFull`."""
        self._write(DIRECTORY, None, head, NOTHING)

    def leave(self) -> None:
        """The end of the directory that was entered last."""
        self._write(END, None, b"", NOTHING)

    def copy(self, record: Record) -> None:
        """A leaf of this or another listing."""
        if record.raw and record.pieces.where is None:
            self._append(record.raw)
        else:
            unstored = record.what == UNSTORED
            self.leaf(record.key, record.head, record.pieces, unstored=unstored)

    def leaf(self, key: Key | None, head: bytes, pieces: Pieces, *, unstored: bool = False) -> None:
        """Anything but a directory. Pieces of another listing are copied."""
        self.unstored |= unstored
        if pieces.where is not None and pieces.where is not self._many:
            gathered = self.gather()
            for block in pieces.blocks():
                gathered.add(block)
            pieces = gathered.pieces()
        self._write(UNSTORED if unstored else LEAF, key, head, pieces)

    def gather(self) -> Gathered:
        """Pieces of a file, to be read one file at a time."""
        return Gathered(self._many)

    def records(self) -> Iterator[Record]:
        """All records, after the last one was written."""
        self._flush()
        end, at, read, data = self._records.size, 0, 0, b""
        while read < end or at < len(data):
            try:
                what, length, count, where, key = _RECORD.unpack_from(data, at)
                start = at + _RECORD.size
                here = start + length
                stop = here + count * PIECE if count <= INLINE_SEGMENTS else here
                if stop > len(data):
                    raise struct.error
            except struct.error:
                more = self._records.read(read, max(_BLOCK, 2 * (len(data) - at)))
                if not more:
                    raise EOFError from None
                data, at = data[at:] + more, 0
                read += len(more)
                continue
            pieces = NOTHING
            if count > INLINE_SEGMENTS:
                pieces = Pieces(count, b"", self._many, where)
            elif count:
                pieces = Pieces(count, data[here:stop])
            known = key if key != _NO_KEY else None
            yield Record(what, known, data[start:here], pieces, data[at:stop])
            at = stop

    def _write(self, what: int, key: Key | None, head: bytes, pieces: Pieces) -> None:
        row = _RECORD.pack(what, len(head), pieces.number, pieces.at, key or _NO_KEY)
        self._append(row + head + pieces.here)

    def _append(self, raw: bytes) -> None:
        self._buffer += raw
        if len(self._buffer) >= _BLOCK:
            self._flush()

    def _flush(self) -> None:
        if self._buffer:
            self._records.append(self._buffer)
            self._buffer = bytearray()


class Gathered:
    """The pieces of one file as they come."""

    def __init__(self, many: Scratch) -> None:
        self._many = many
        self._here = bytearray()
        self._at: int | None = None
        self._count = 0

    def add(self, pieces: bytes) -> None:
        """One or more. Raises `StoreFull`."""
        self._here += pieces
        self._count += len(pieces) // PIECE
        if len(self._here) >= _PIECES_AT_ONCE:
            self._put()

    def pieces(self) -> Pieces:
        """All of them. Raises `StoreFull`."""
        if self._count <= INLINE_SEGMENTS:
            return Pieces(self._count, bytes(self._here))
        self._put()
        assert self._at is not None
        return Pieces(self._count, b"", self._many, self._at)

    def _put(self) -> None:
        if self._here:
            at = self._many.append(self._here)
            self._at = at if self._at is None else self._at
            self._here = bytearray()


class Cursor:
    """Goes through a listing beside a scan of the same directory, each name in its order."""

    def __init__(self, listing: Listing) -> None:
        self._records = listing.records()
        self._next = next(self._records, None)

    def find(self, name: bytes) -> Record | None:
        """The record of `name` in this directory, if there is one; those before it are passed."""
        while (record := self._next) is not None and record.what != END:
            found = record.name
            if found >= name:
                return record if found == name else None
            self.skip()
        return None

    def enter(self) -> None:
        """Go on in the directory that `find` has found."""
        self._next = next(self._records, None)

    def leave(self) -> None:
        """Go on behind the end of this directory."""
        while self._next is not None and self._next.what != END:
            self.skip()
        self._next = next(self._records, None)

    def skip(self) -> None:
        """Pass what `find` has found, with all in it."""
        depth = 0
        while self._next is not None:
            depth += (self._next.what == DIRECTORY) - (self._next.what == END)
            self._next = next(self._records, None)
            if depth == 0:
                return

    def at(self, record: Record | None) -> bool:
        """Whether `record` was found and is not passed yet."""
        return record is not None and self._next is record
