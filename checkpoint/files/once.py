"""Files of a tree by their inode numbers: on disk where they are many."""

from __future__ import annotations

import sqlite3

from checkpoint.files.key import inode_of
from checkpoint.files.listing import LEAF, Listing, Pieces, Record
from checkpoint.files.tree import size_in
from checkpoint.scratch import Scratch, database, no_room

_WHAT = "The list of files"
_TABLE = "CREATE TABLE file (inode TEXT PRIMARY KEY, what, key, head, count, here, at, scratch)"


class Links:
    """What was seen under an inode number, for a file that has several names."""

    def __init__(self) -> None:
        self._db: sqlite3.Connection | None = None
        self._scratches: list[Scratch | None] = [None]

    def put(self, inode: int, leaf: Record) -> None:
        """Raises `StoreFull`."""
        pieces = leaf.pieces
        if pieces.where not in self._scratches:
            self._scratches.append(pieces.where)
        scratch = self._scratches.index(pieces.where)
        row = (f"{inode}", leaf.what, leaf.key, leaf.head, pieces.number, pieces.here, pieces.at)
        try:
            if self._db is None:
                self._db = database()
                self._db.execute(_TABLE)
            self._db.execute("INSERT INTO file VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, scratch))
        except sqlite3.OperationalError as error:
            raise no_room(_WHAT, error) from error

    def get(self, inode: int) -> Record | None:
        """Raises `StoreFull`."""
        if self._db is None:
            return None
        try:
            found = self._db.execute("SELECT * FROM file WHERE inode = ?", (f"{inode}",)).fetchone()
        except sqlite3.OperationalError as error:
            raise no_room(_WHAT, error) from error
        if found is None:
            return None
        _, what, key, head, count, here, at, scratch = found
        return Record(what, key, head, Pieces(count, here, self._scratches[scratch], at))


class LargeFiles:
    """What large files of a listing are made of."""

    def __init__(self, listing: Listing, least: int) -> None:
        """`least` is the size of what is large, in bytes."""
        self._listing = listing
        self._least = least
        self._found: Links | None = None

    def find(self, inode: int, guess: Record | None) -> Pieces | None:
        """The pieces of the file that had this inode number, perhaps `guess`; where none had, those
        of `guess`. Raises `StoreFull`.
        """
        if guess is not None and (guess.key is None or inode_of(guess.key) == inode):
            return guess.pieces
        if self._found is None:
            self._found = Links()
            for record in self._listing.records():
                if record.what == LEAF and record.key and size_in(record.head) >= self._least:
                    known = inode_of(record.key)
                    if self._found.get(known) is None:
                        self._found.put(known, record)
        found = self._found.get(inode) or guess
        return found.pieces if found is not None else None
