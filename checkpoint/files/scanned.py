"""A scanned tree: what is stored of it already, and what is not yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from checkpoint.files.listing import (
    DIRECTORY,
    END,
    LEAF,
    PIECE,
    SEGMENT,
    UNSTORED,
    Listing,
    Pieces,
    Record,
    chunk_of,
    place_of,
)
from checkpoint.files.tree import (
    INLINE_SEGMENTS,
    VERSION,
    Kind,
    segments_elsewhere,
    segments_here,
)
from checkpoint.objects import ObjectWriter
from checkpoint.scratch import Scratch
from checkpoint.writer import Writer

MOST_NAMED = 10_000
COPIED_IN_MEMORY = 64 << 20
"""Bytes of changed files that a scan copies into memory; more go to disk."""

LISTED = 256 * SEGMENT
"""Bytes of a file's list of segments in one chunk: a change in 32 MiB of the file costs 11 kB of
the list. Whole segments, so that it changes one of the chunks."""

T = TypeVar("T")


class Skipped(NamedTuple):
    """A path (relative to the root) that is not in the tree, and why."""

    path: bytes
    reason: str


class Named(list[T]):
    """What is to be told, up to `MOST_NAMED`; of what comes after those there is the number `more`
    alone: every file of a tree may be among it.
    """

    def __init__(self, items: Iterable[T] = ()) -> None:
        super().__init__()
        self.more = 0
        for item in items:
            self.note(item)

    def note(self, item: T) -> None:
        if len(self) < MOST_NAMED:
            self.append(item)
        else:
            self.more += 1


@dataclass(eq=False)
class Tree:
    """A scanned directory.

    `skipped` is what could not be saved, `ignored` what `.sessionkeeperignore` leaves out (of a
    directory its own path alone), `torn` are files that changed whenever they were read: their
    content may be of several moments. `read_bytes` were read from changed files, `copied_bytes` of
    them kept. `round` is `Writer.round` when the writer was seen to hold all that is not in
    `copies`; None when it has to be asked.
    """

    listing: Listing
    skipped: Named[Skipped] = field(default_factory=Named)
    ignored: Named[bytes] = field(default_factory=Named)
    torn: Named[bytes] = field(default_factory=Named)
    read_bytes: int = 0
    copied_bytes: int = 0
    copies: Scratch | None = None
    round: int | None = None

    def store(self, writer: Writer) -> bytes:
        """Make the tree part of the writer's checkpoint:

        its root chunk. Raises what the writer does.
        """
        stored = Listing() if self.listing.unstored else None
        root = _Storing(writer, self.copies, stored).run(self.listing)
        if stored is not None:
            self.listing, self.copies = stored, None
        return root


class _Storing:
    """Stores a listing, and writes it once more into `stored`, where it has what is not stored."""

    def __init__(self, writer: Writer, copies: Scratch | None, stored: Listing | None) -> None:
        self._writer = writer
        self._copies = copies
        self._stored = stored
        self._kept: list[bytes] = []

    def run(self, listing: Listing) -> bytes:
        root = self._object()
        above: list[tuple[bytes, ObjectWriter]] = []
        inner = root
        for record in listing.records():
            if record.what == DIRECTORY:
                above.append((record.head, inner))
                inner = self._object()
                if self._stored is not None:
                    self._stored.enter(record.head)
            elif record.what == END:
                content = inner.close()
                head, inner = above.pop()
                inner.write(head + content)
                if self._stored is not None:
                    self._stored.leave()
            else:
                inner.write(record.head + self._tail(record))
        self._keep(0)
        return root.close()

    def _object(self) -> ObjectWriter:
        made = ObjectWriter(self._writer)
        made.write(bytes([VERSION]))
        return made

    def _tail(self, record: Record) -> bytes:
        pieces = record.pieces
        if record.what == UNSTORED:
            pieces = self._store(pieces)
        else:
            for block in pieces.blocks():
                self._kept += [
                    block[at + SEGMENT - 32 : at + SEGMENT] for at in range(0, len(block), PIECE)
                ]
                self._keep(1000)
        if self._stored is not None:
            same = record.what != UNSTORED
            self._stored.copy(record if same else Record(LEAF, record.key, record.head, pieces))
        if record.head[0] != Kind.FILE:
            return b""
        if pieces.number <= INLINE_SEGMENTS:
            return segments_here(pieces.number, b"".join(map(_segments_of, pieces.blocks())))
        listed = ObjectWriter(self._writer, LISTED)
        for block in pieces.blocks():
            listed.write(_segments_of(block))
        return segments_elsewhere(listed.close())

    def _store(self, pieces: Pieces) -> Pieces:
        assert self._stored is not None
        assert self._copies is not None
        gathered = self._stored.gather()
        for piece in pieces.each():
            place = place_of(piece)
            if place is None:
                self._kept.append(chunk_of(piece))
                gathered.add(piece)
                continue
            length = int.from_bytes(piece[8:12], "little")
            data = self._copies.read(place, length)
            gathered.add(piece[:12] + self._writer.add(data) + bytes(PIECE - SEGMENT))
        self._keep(1000)
        return gathered.pieces()

    def _keep(self, least: int) -> None:
        if len(self._kept) > least:
            self._writer.keep(self._kept)
            self._kept = []


def _segments_of(block: bytes) -> bytes:
    return b"".join([block[at : at + SEGMENT] for at in range(0, len(block), PIECE)])
