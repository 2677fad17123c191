"""What a restore has to know twice: on disk, as it may be much."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator

from checkpoint.reader import Reader
from checkpoint.scratch import database, no_room

_WHAT = "What a restore has to remember"


class Remembered:
    """The chunks that a file tree is made of, each read once. Raises `StoreFull` beside what the
    reader raises.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._db = database()
        self._db.execute("CREATE TABLE chunk (id BLOB PRIMARY KEY, data BLOB)")

    def size(self, name: bytes) -> int:
        """Length of the chunk's content in bytes."""
        return self._reader.size(name)

    def read(self, names: Iterable[bytes]) -> Iterator[bytes]:
        """The contents of the chunks, in the order asked for."""
        names = list(names)
        new = [name for name in dict.fromkeys(names) if self._known(name) is None]
        for name, data in zip(new, self._reader.read(new), strict=True):
            try:
                self._db.execute("INSERT INTO chunk VALUES (?, ?)", (name, data))
            except sqlite3.OperationalError as error:
                raise no_room(_WHAT, error) from error
        for name in names:
            known = self._known(name)
            assert known is not None
            yield known

    def _known(self, name: bytes) -> bytes | None:
        found = self._db.execute("SELECT data FROM chunk WHERE id = ?", (name,)).fetchone()
        return None if found is None else bytes(found[0])


class FirstNames:
    """Where a file that has several names was made: its directory and its name there."""

    def __init__(self) -> None:
        self._db: sqlite3.Connection | None = None

    def put(self, link: int, place: bytes, name: bytes) -> None:
        """Raises `StoreFull`."""
        try:
            if self._db is None:
                self._db = database()
                self._db.execute("CREATE TABLE file (link TEXT PRIMARY KEY, place BLOB, name BLOB)")
            self._db.execute("INSERT INTO file VALUES (?, ?, ?)", (f"{link}", place, name))
        except sqlite3.OperationalError as error:
            raise no_room(_WHAT, error) from error

    def get(self, link: int) -> tuple[bytes, bytes] | None:
        """None when none was made."""
        if self._db is None:
            return None
        query = "SELECT place, name FROM file WHERE link = ?"
        found = self._db.execute(query, (f"{link}",)).fetchone()
        return None if found is None else (bytes(found[0]), bytes(found[1]))
