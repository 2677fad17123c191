"""Contents copied under freeze, to be stored later:

in memory, and above a bound in an unnamed file.
"""

from __future__ import annotations

import os
import tempfile
from typing import IO

from checkpoint.errors import StoreFull

MEMORY_BYTES = 64 << 20


class Pending:
    """A piece of a file. `read` gives its bytes."""

    __slots__ = ("_at", "_data", "_file", "length", "offset")

    def __init__(self, offset: int, data: bytes, file: IO[bytes] | None, at: int) -> None:
        self.offset = offset
        self.length = len(data)
        self._data = None if file else data
        self._file = file
        self._at = at

    def read(self) -> bytes:
        if self._data is not None:
            return self._data
        assert self._file is not None
        return os.pread(self._file.fileno(), self.length, self._at)


class Spill:
    """Keeps pieces: the first `MEMORY_BYTES` in memory, the rest in a file in `directory`."""

    def __init__(self, directory: str | os.PathLike[str] | None) -> None:
        self._directory = directory
        self._room = MEMORY_BYTES
        self._file: IO[bytes] | None = None
        self._end = 0

    def keep(self, offset: int, data: bytes) -> Pending:
        """Raises `StoreFull` when the file cannot take it."""
        if len(data) <= self._room:
            self._room -= len(data)
            return Pending(offset, data, None, 0)
        at = self._end
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115
            view = memoryview(data)
            while view:
                written = os.pwrite(self._file.fileno(), view, self._end)
                self._end += written
                view = view[written:]
        except OSError as error:
            raise StoreFull(f"Changed files cannot be copied aside: {error.strerror}.") from error
        return Pending(offset, data, self._file, at)
