"""Which chunk is where: an index of the known packs that takes the same memory for any number.

It is a temporary database (`checkpoint.scratch`), beside some 300 bytes for each pack. Chunks have
numbers in it, so that what is said of many at once, such as which of them a checkpoint needs, takes
one bit each.
"""

from __future__ import annotations

import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

from checkpoint.blobs import BlobStore
from checkpoint.errors import Damaged
from checkpoint.keys import SessionKeys
from checkpoint.packs import Entry, Location, PackRef, decode_index, read_tail
from checkpoint.scratch import database, no_room

_BATCH = 500  # ids in one question
_ROWS = 4096
_WHAT = "The index of chunks"

_TABLE = """
CREATE TABLE chunk (
    number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE,
    pack INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL, plain INTEGER NOT NULL)
"""
_ADD = """
INSERT INTO chunk (id, pack, offset, length, plain) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    pack = excluded.pack, offset = excluded.offset, length = excluded.length, plain = excluded.plain
"""


class Row(NamedTuple):
    """A chunk of the index: its number, its sealed length."""

    number: int
    pack: PackRef
    length: int


class PackIndex:
    """Which chunks the known packs hold; kept between the checkpoints of a node's life.

    Thread-safe. Every method raises `StoreFull` when this machine's disk is full.
    """

    def __init__(self, store: BlobStore, keys: SessionKeys) -> None:
        self.store = store
        self.keys = keys
        self._packs: dict[PackRef, int] = {}
        self._refs: dict[int, PackRef] = {}
        self._next = 0
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._db = database()
        weakref.finalize(self, self._db.close)
        self._db.execute(_TABLE)

    def __len__(self) -> int:
        """How many chunks are known."""
        return int(self._one("SELECT count(*) FROM chunk")[0])

    @property
    def packs(self) -> frozenset[PackRef]:
        """The known packs."""
        return frozenset(self._packs)

    def load(self, refs: Iterable[PackRef]) -> None:
        """Learn what these packs hold, reading the indices not yet known. Raises `Damaged`."""
        new = [ref for ref in refs if ref not in self._packs]
        if len(new) == 1:
            self._read(new[0])
        elif new:
            with ThreadPoolExecutor(min(8, len(new)), "pack-index") as pool:
                for _ in pool.map(self._read, new):
                    """What one of them raises is raised here."""

    def _read(self, ref: PackRef) -> None:
        tail = read_tail(self.store, ref)
        with self._reading:  # entries take ten times the memory of what they are read from
            self.add(ref, decode_index(self.keys, ref, tail))

    def add(self, ref: PackRef, entries: list[Entry]) -> None:
        """A pack that is in the store, and what it holds."""
        with self._lock:
            pack = self._packs.get(ref)
            if pack is None:
                pack = self._packs[ref] = self._next
                self._refs[pack] = ref
                self._next += 1
            rows = ((name, pack, offset, length, plain) for name, offset, length, plain in entries)
            try:
                self._db.executemany(_ADD, rows)
            except sqlite3.OperationalError as error:
                raise no_room(_WHAT, error) from error

    def forget(self, refs: Iterable[PackRef]) -> None:
        """Know nothing of these packs any more."""
        with self._lock:
            gone = [self._packs.pop(ref) for ref in refs if ref in self._packs]
            for pack in gone:
                del self._refs[pack]
        numbers = iter(gone)
        while batch := list(islice(numbers, _BATCH)):
            self._do(f"DELETE FROM chunk WHERE pack IN ({_marks(batch)})", batch)  # noqa: S608

    def number(self, name: bytes) -> int | None:
        """The number of a chunk; None of one that is not known."""
        found = self._one("SELECT number FROM chunk WHERE id = ?", (name,))
        return None if found is None else int(found[0])

    def numbers(self, names: Iterable[bytes]) -> Iterator[int]:
        """The numbers of these chunks, in any order. Raises `KeyError`, with the id of one that is
        not known.
        """
        left = iter(names)
        while batch := set(islice(left, _BATCH)):
            query = f"SELECT number, id FROM chunk WHERE id IN ({_marks(batch)})"  # noqa: S608
            found = self._all(query, tuple(batch))
            if len(found) < len(batch):
                raise KeyError(next(iter(batch.difference(name for _, name in found))))
            yield from (number for number, _ in found)

    def plain(self, name: bytes) -> int | None:
        """The length of a chunk's content in bytes, as `number`."""
        found = self._one("SELECT plain FROM chunk WHERE id = ?", (name,))
        return None if found is None else int(found[0])

    def locate(self, name: bytes) -> Location:
        """Where a chunk is. Raises `Damaged` when no known pack holds it."""
        found = self._one("SELECT pack, offset, length, plain FROM chunk WHERE id = ?", (name,))
        if found is None:
            raise Damaged(f"Chunk {name.hex()}", "no pack of the checkpoint holds it")
        return Location(self._refs[found[0]], *found[1:])

    def rows(self) -> Iterator[Row]:
        """All chunks, by their numbers."""
        query = "SELECT number, pack, length FROM chunk WHERE number > ? ORDER BY number LIMIT ?"
        last = 0
        while found := self._all(query, (last, _ROWS)):
            for number, pack, length in found:
                yield Row(number, self._refs[pack], length)
            last = found[-1][0]

    def _do(self, query: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        with self._lock:
            try:
                return self._db.execute(query, values)
            except sqlite3.OperationalError as error:
                raise no_room(_WHAT, error) from error

    def _one(self, query: str, values: Sequence[object] = ()) -> Any:
        with self._lock:
            try:
                return self._db.execute(query, values).fetchone()
            except sqlite3.OperationalError as error:
                raise no_room(_WHAT, error) from error

    def _all(self, query: str, values: Sequence[object]) -> list[Any]:
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.OperationalError as error:
                raise no_room(_WHAT, error) from error


class Numbers:
    """A set of chunk numbers, one bit each. Thread-safe."""

    def __init__(self) -> None:
        self._bits = bytearray()
        self._lock = threading.Lock()

    def __contains__(self, number: int) -> bool:
        at = number >> 3
        return at < len(self._bits) and bool(self._bits[at] >> (number & 7) & 1)

    def update(self, numbers: Iterable[int]) -> None:
        with self._lock:
            for number in numbers:
                at = number >> 3
                if at >= len(self._bits):
                    self._bits.extend(bytes(at + 4096 - len(self._bits)))
                self._bits[at] |= 1 << (number & 7)


def _marks(values: Iterable[object]) -> str:
    return ",".join("?" for _ in values)
