"""What is too much for memory and of no use after the process: the beginning in memory, the rest in
files without a name, which nobody else can open and which end with the process.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from typing import IO

from checkpoint.errors import StoreFull

_CACHE_KIB = 16 << 10


def database() -> sqlite3.Connection:
    """An empty database of which at most some 16 MiB are in memory. It has no transactions; any
    thread may use it, one at a time.
    """
    found = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    found.execute("PRAGMA journal_mode = OFF")
    found.execute("PRAGMA temp_store = FILE")
    found.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    found.execute("BEGIN")  # never ended: each statement would be its own transaction else
    return found


def no_room(what: str, error: OSError | sqlite3.Error) -> StoreFull:
    """The error to raise where a full disk is in the way of `what`."""
    why = error.strerror if isinstance(error, OSError) else error
    return StoreFull(f"{what} cannot be kept on this machine's disk: {why}.")


class Scratch:
    """Bytes that are appended and read: the first `room` of them in memory, the rest in a file in
    `directory` (None: where the machine has its temporary files).
    """

    def __init__(
        self, what: str, room: int, directory: str | os.PathLike[str] | None = None
    ) -> None:
        """`what` is said in errors."""
        self.size = 0
        self._what = what
        self._room = room
        self._directory = directory
        self._memory = bytearray()
        self._file: IO[bytes] | None = None

    def append(self, data: bytes | bytearray) -> int:
        """Keep the bytes; where they begin. Raises `StoreFull`."""
        at = self.size
        if self._file is None and len(self._memory) + len(data) <= self._room:
            self._memory += data
            self.size += len(data)
            return at
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115
            view, offset = memoryview(data), at - len(self._memory)
            while view:
                written = os.pwrite(self._file.fileno(), view, offset)
                view, offset = view[written:], offset + written
        except OSError as error:
            raise no_room(self._what, error) from error
        self.size += len(data)
        return at

    def read(self, at: int, length: int) -> bytes:
        """At most `length` bytes from `at` on; of those in memory and in the file not both."""
        if at < len(self._memory) or self._file is None:
            return bytes(self._memory[at : at + length])
        return os.pread(self._file.fileno(), length, at - len(self._memory))

    def stream(self, at: int, length: int, piece: int) -> Iterator[bytes]:
        """Exactly these bytes, in pieces."""
        end = at + length
        while at < end:
            data = self.read(at, min(piece, end - at))
            if not data:
                raise EOFError
            at += len(data)
            yield data
