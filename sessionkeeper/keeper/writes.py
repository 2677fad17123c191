"""What was written to a workspace from outside its kernels: recorded first, then done.

A record is on disk before anybody is told that it is done, so a file saved in the UI survives
the node it was sent to, and this process. A checkpoint says up to which record it contains
(``meta["writes"]``); records up to there are dropped, later ones are done again wherever the
session comes back.

Layout: ``log`` (one JSON object per line), ``<number>.data`` (the bytes of one write).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Operation = Literal["write", "append", "mkdir", "rename", "copy", "delete"]


@dataclass(frozen=True)
class Write:
    """One recorded operation. ``size`` is that of its data file in bytes, ``at`` Unix seconds.

    ``path`` and ``to`` are relative to the workspace; bytes that are no UTF-8 are surrogate
    escapes.
    """

    number: int
    operation: Operation
    path: str
    to: str | None = None
    recursive: bool = False
    size: int | None = None
    at: float = 0.0


class WriteJournal:
    """The recorded writes of one session, in the directory ``base``. Not thread-safe; calls touch
    the disk.
    """

    def __init__(self, base: Path) -> None:
        self._base = base
        base.mkdir(parents=True, exist_ok=True)
        self._writes: dict[int, Write] = {}
        self._last = 0
        self._read()
        self._open()

    @property
    def last(self) -> int:
        """The number of the newest record; 0 before the first."""
        return self._last

    def data(self, number: int) -> Path:
        """Return where the bytes of write ``number`` are."""
        return self._base / f"{number}.data"

    def incoming(self) -> Path:
        """Return a path on the same file system for data that is still arriving."""
        return self._base / "incoming" / os.urandom(8).hex()

    def record(
        self,
        operation: Operation,
        path: str,
        *,
        to: str | None = None,
        recursive: bool = False,
        data: Path | None = None,
        at: float = 0.0,
    ) -> Write:
        """Record an operation and return it once it is on disk. ``data`` is moved into the journal.

        Raises OSError (a full disk, say); nothing is recorded then.
        """
        number = self._last + 1
        size = None
        if data is not None:
            size = data.stat().st_size
            _sync(data)
            data.rename(self.data(number))
        write = Write(number, operation, path, to, recursive, size, at)
        try:
            self._append(asdict(write))
        except OSError:
            self.data(number).unlink(missing_ok=True)
            raise
        self._writes[number] = write
        self._last = number
        return write

    def void(self, number: int) -> None:
        """Take back a record whose operation was refused, so that it is not done later."""
        self._append({"void": number})
        self._writes.pop(number, None)
        self.data(number).unlink(missing_ok=True)

    def skip_to(self, number: int) -> None:
        """Let the next record have a number above ``number``: a checkpoint of another journal
        contains as many.
        """
        if number > self._last:
            self._append({"last": number})
            self._last = number

    def after(self, number: int) -> list[Write]:
        """Return the records above ``number``, in order."""
        return [w for n, w in sorted(self._writes.items()) if n > number]

    def release(self, number: int) -> None:
        """Forget the records up to ``number``: a committed checkpoint contains them."""
        gone = [n for n in self._writes if n <= number]
        if not gone:
            return
        for n in gone:
            del self._writes[n]
        temporary = self._base / "log.new"
        with temporary.open("wb") as log:
            log.write(json.dumps({"last": self._last}).encode() + b"\n")
            for write in self.after(0):
                log.write(json.dumps(asdict(write)).encode() + b"\n")
            log.flush()
            os.fsync(log.fileno())
        temporary.rename(self._base / "log")
        self._log.close()
        self._open()
        for n in gone:
            self.data(n).unlink(missing_ok=True)

    def close(self) -> None:
        self._log.close()

    def _append(self, record: dict[str, object]) -> None:
        line = json.dumps(record).encode() + b"\n"
        start = os.fstat(self._log.fileno()).st_size
        try:
            while line:
                line = line[self._log.write(line) :]
            os.fsync(self._log.fileno())
        except OSError:
            # Half a line would make the next record unreadable.
            with contextlib.suppress(OSError):
                os.ftruncate(self._log.fileno(), start)
            raise

    def _open(self) -> None:
        # Without a buffer: what could not be written must not be written with the next record.
        self._log = (self._base / "log").open("ab", buffering=0)

    def _read(self) -> None:
        shutil.rmtree(self._base / "incoming", ignore_errors=True)
        (self._base / "incoming").mkdir()
        path = self._base / "log"
        path.touch()
        intact = 0
        for line, record in _records(path):
            intact += len(line)
            if "last" in record:
                self._last = int(str(record["last"]))
            elif "void" in record:
                self._writes.pop(int(str(record["void"])), None)
            else:
                write = Write(**record)  # type: ignore[arg-type]
                self._writes[write.number] = write
                self._last = max(self._last, write.number)
        if intact < path.stat().st_size:
            os.truncate(path, intact)  # a torn last line: it was never acknowledged
        for data in self._base.glob("*.data"):
            if int(data.stem) not in self._writes:
                data.unlink()  # of a record that was not made, or is not needed any more


def _records(path: Path) -> Iterator[tuple[bytes, dict[str, object]]]:
    with path.open("rb") as log:
        for line in log:
            try:
                if not line.endswith(b"\n"):
                    return
                yield line, json.loads(line)
            except ValueError:
                return


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
