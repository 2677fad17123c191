"""The journal of one kernel: what it was asked, and what it said, in order.

* `inputs`: numbered requests. They stay until a committed checkpoint contains them (`release`).
* `outputs`: messages under a *cursor*, our own number. The newest 256 MB are kept, and four times
  as much for a client that is still reading; then the log is `full`.

Written before it is acknowledged to anyone, so an acknowledged message outlives this process. A
`Snapshot` of it, kept elsewhere, outlives the machine: a journal made of one *branches off* there.
"""

from __future__ import annotations

import json
import struct
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from gateway import durable
from gateway.records import RecordLog, Segment

MB = 1_000_000
# Of a message (bytes): what takes so long to write that everything else must not wait for it.
LARGE = 16 * MB
# Of a request (bytes): what is kept in memory until it is sent for the first time.
SMALL = 1 << 16
# cursor, epoch, seq, applied, request, flags
_OUTPUT = struct.Struct(">QIQQQB")
# number, flags
_INPUT = struct.Struct(">QB")

MUTED = 1  # re-run of something that was shown already
SYNTHETIC = 2  # said by the gateway, not by the kernel
REPLY = 4  # the reply to `request`
IDLE = 8  # the idle that ends `request`
MARK = 16  # a note to ourselves, for nobody else
ABORTED = 32  # a REPLY that says that the request was not run
_VOID = 1
_VOID_ALL = 2
_INTERRUPTED = 4


class OutputRecord(NamedTuple):
    """One message of the journal.

    `epoch`, `seq`: its stamp (0, 0 if synthetic); `applied`: last input known to be applied when it
    came; `request`: number of the input that a REPLY or IDLE belongs to, else 0.
    """

    cursor: int
    epoch: int
    seq: int
    applied: int
    request: int
    flags: int
    payload: bytes

    @property
    def hidden(self) -> bool:
        """Not for clients."""
        return bool(self.flags & (MUTED | MARK))


class OutputLog:
    """Messages by cursor, from `first` to `last`. Beyond `keep` bytes the oldest go, unless they
    are still to be read.
    """

    def __init__(self, directory: Path, keep: int = 256 * MB, segment: int = 16 * MB) -> None:
        self._log = RecordLog(directory, "outputs", segment)
        self._keep = keep
        self.last = 0
        # The last cursor that everybody has who reads: what is above it stays.
        self.passed: Callable[[], int] = lambda: self.last

    @property
    def first(self) -> int:
        """The lowest cursor kept (`last + 1` when there is none)."""
        return self._log.segments[0].first if self._log.segments else self.last + 1

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._log.size

    def recover(self) -> Iterator[OutputRecord]:
        """All records, once, before anything else."""
        for body, _, _ in self._log.recover():
            record = _record(bytes(body))
            self.last = record.cursor
            yield record
        if self._log.segments:
            self.last = max(self.last, self._log.segments[-1].first - 1)

    def append(
        self,
        payload: bytes | memoryview,
        stamp: tuple[int, int] = (0, 0),
        applied: int = 0,
        request: int = 0,
        flags: int = 0,
        prepared: Prepared | None = None,
    ) -> int:
        """Keep a message, which was perhaps `prepare`d; its cursor. Raises `JournalFull`."""
        cursor = self.last + 1
        meta = _OUTPUT.pack(cursor, *stamp, applied, request, flags)
        if prepared is None:
            self._log.append(cursor, [meta, payload])
        else:
            crc = prepared.crc
            if meta != prepared.meta:
                crc = zlib.crc32(payload, zlib.crc32(meta))
            self._log.append_prepared(cursor, meta, len(payload), crc, prepared.path)
        self.last = cursor
        self.trim()
        return cursor

    def prepare(
        self, payload: bytes | memoryview, stamp: tuple[int, int] = (0, 0), applied: int = 0
    ) -> Prepared:
        """Write a message of more than `LARGE` bytes down ahead of `append`, of which little is
        left to do then, the less if these are its `stamp` and `applied`; one at a time, in any
        thread. Raises `JournalFull`.
        """
        meta = _OUTPUT.pack(self.last + 1, *stamp, applied, 0, 0)
        with ThreadPoolExecutor(1) as beside:  # who waits for the message waits for both
            crc = beside.submit(zlib.crc32, payload, zlib.crc32(meta))
            path = self._log.prepare(_OUTPUT.size, payload)
            return Prepared(path, meta, crc.result(), payload)

    def trim(self) -> None:
        """Let go of the oldest, where there is more than is kept and nobody has to read them."""
        while self._log.size > self._keep and not self._awaited():
            self._log.drop_first()

    @property
    def full(self) -> bool:
        """No more should come before somebody has read on."""
        return self._log.size >= 4 * self._keep and len(self._log.segments) > 1 and self._awaited()

    def _awaited(self) -> bool:
        """Whether the oldest must stay."""
        segments = self._log.segments
        return len(segments) < 2 or segments[1].first > self.passed() + 1

    def read(self, start: int) -> Iterator[OutputRecord]:
        """Messages from cursor `start` on, to the newest there is now."""
        for body in self._log.read(start):
            yield _record(body)

    def read_back(self, start: int) -> Iterator[OutputRecord]:
        """Messages from cursor `start` down to the oldest."""
        for body in self._log.read_back(start):
            yield _record(body)

    def files(self) -> tuple[tuple[Path, int], ...]:
        """The files there are, and their bytes now."""
        return self._log.files()

    def close(self) -> None:
        self._log.close()


class Prepared(NamedTuple):
    """A payload that is written down, all but what stands before it. If that is `meta`, as it was
    thought to be, `crc` is the checksum of both.
    """

    path: Path
    meta: bytes
    crc: int
    payload: bytes | memoryview


class InputLog:
    """Requests by consecutive number; an `InputStore` of the link."""

    def __init__(self, directory: Path, segment: int = 4 * MB) -> None:
        self._log = RecordLog(directory, "inputs", segment)
        self._at: dict[int, tuple[Segment, int]] = {}
        self._void: set[int] = set()
        self._newest: tuple[int, bytes | memoryview] = (0, b"")  # it is sent next, most likely
        self._last = 0
        self.withdrawn = 0  # all inputs up to this number are void
        self.interrupted: set[int] = set()

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._log.size

    @property
    def last(self) -> int:
        return self._last

    def recover(self) -> Iterator[tuple[int, bytes]]:
        """`(number, payload)` of every input kept, once, before anything else."""
        for body, segment, at in self._log.recover():
            number, flags = _INPUT.unpack_from(body)
            if flags & _VOID_ALL:
                self.withdrawn = number
                self._last = max(self._last, number)
                continue
            if flags & _INTERRUPTED:
                self.interrupted.add(number)
                continue
            if flags & _VOID:
                self._void.add(number)
                self._last = max(self._last, number)
                continue
            self._last = number
            self._at[number] = (segment, at)
            yield number, bytes(body[_INPUT.size :])
        if self._log.segments:
            self._last = max(self._last, self._log.segments[-1].first - 1)

    def append(self, payload: bytes | memoryview) -> int:
        number = self._last + 1
        self._at[number] = self._log.append(number, [_INPUT.pack(number, 0), payload])
        self._last = number
        if len(payload) <= SMALL:
            self._newest = (number, payload)
        return number

    def prepare(self, number: int, *pieces: bytes | memoryview) -> Prepared:
        """Write a request of more than `LARGE` bytes down ahead of `append_prepared`, of which
        little is left to do then; one at a time, in any thread. Raises `JournalFull`.
        """
        path = self._log.prepare(_INPUT.size, *pieces)
        crc = zlib.crc32(meta := _INPUT.pack(number, 0))
        for piece in pieces:
            crc = zlib.crc32(piece, crc)
        return Prepared(path, meta, crc, self._log.of_prepared(path, _INPUT.size))

    def append_prepared(self, prepared: Prepared) -> int:
        """As `append`, of what was prepared."""
        number, size = self._last + 1, len(prepared.payload)
        ahead, crc = _INPUT.pack(number, 0), prepared.crc
        if ahead != prepared.meta:  # another client was faster
            crc = zlib.crc32(prepared.payload, zlib.crc32(ahead))
        self._at[number] = self._log.append_prepared(number, ahead, size, crc, prepared.path)
        self._last = number
        return number

    def get(self, number: int, ahead: bytes = b"") -> bytes | memoryview:
        """The payload after `ahead`; a large one is not copied."""
        if not self.held(number):
            return ahead
        if number == self._newest[0]:
            payload, self._newest = self._newest[1], (0, b"")
            return b"".join((ahead, payload))
        segment, at = self._at[number]
        if segment.size > LARGE:
            return self._log.view(segment, at, _INPUT.size, ahead)
        return ahead + self._log.body(segment, at)[_INPUT.size :]

    def held(self, number: int) -> bool:
        """Whether the payload is still there."""
        return number in self._at and number not in self._void and number > self.withdrawn

    def gone(self, number: int) -> bool:
        """Whether the payload was there, and was pruned."""
        return number not in self._at and not self.is_void(number)

    def is_void(self, number: int) -> bool:
        """Whether it was withdrawn."""
        return number in self._void or number <= self.withdrawn

    def void(self, number: int) -> None:
        self._log.append(self._last + 1, [_INPUT.pack(number, _VOID), b""])
        self._void.add(number)

    def interrupt(self, number: int) -> None:
        """Note that what this input asked for was interrupted."""
        if number not in self.interrupted:
            self._log.append(self._last + 1, [_INPUT.pack(number, _INTERRUPTED), b""])
            self.interrupted.add(number)

    def void_all(self) -> None:
        """Withdraw all that there were."""
        self._log.append(self._last + 1, [_INPUT.pack(self._last, _VOID_ALL), b""])
        self.withdrawn = self._last

    def release(self, upto: int) -> None:
        """Whole segments go; the newest stays, so that numbers and msg_ids are known again."""
        while len(self._log.segments) > 1 and self._log.segments[1].first <= upto + 1:
            gone = self._log.segments[0]
            for number in range(gone.first, self._log.segments[1].first):
                self._at.pop(number, None)
                self._void.discard(number)
                self.interrupted.discard(number)
            self._log.drop_first()

    def skip_to(self, number: int) -> None:
        if number > self._last + 1:
            self._log.append(number - 1, [_INPUT.pack(number - 1, _VOID), b""])
            self._void.add(number - 1)
            self._last = number - 1

    def files(self) -> tuple[tuple[Path, int], ...]:
        """As of `OutputLog`."""
        return self._log.files()

    def close(self) -> None:
        self._log.close()


class Snapshot(NamedTuple):
    """A journal at one moment: so many bytes (`files`) of files that only grow.

    Another journal that is made of it shares the cursors up to `last` with this one. `origin` is
    what `begin` takes, beside the files.
    """

    origin: dict[str, Any]
    files: tuple[tuple[Path, int], ...]


class Journal:
    """Inputs and outputs of one kernel under `directory`. Recover both before use.

    `name` tells this journal from another one of the same kernel (on another disk); `before` has
    those that it branched off, with the last cursor that it shares with each.
    """

    def __init__(self, directory: Path, keep: int = 256 * MB) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.inputs = InputLog(directory)
        self.outputs = OutputLog(directory, keep)
        if not exists(directory):
            _name(directory, {})
        said = json.loads((directory / _NAMED).read_text())
        self.name: str = said["name"]
        self.before: dict[str, int] = said.get("before", {})

    @property
    def branched_at(self) -> int:
        """The last cursor of the journal it branched off, -1 if it did not."""
        return max(self.before.values(), default=-1)

    def shared(self, name: str, cursor: int) -> int | None:
        """The last cursor, `cursor` at most, up to which this journal has what `name` (empty: this
        one) has; None if that cannot be told.
        """
        if name in {"", self.name}:
            return cursor if cursor <= self.outputs.last else None
        upto = self.before.get(name)
        return None if upto is None else min(upto, cursor)

    def snapshot(self) -> Snapshot:
        """The journal as it is now."""
        last = self.outputs.last
        shared = {name: min(cursor, last) for name, cursor in self.before.items()}
        files = (*self.outputs.files(), *self.inputs.files())
        return Snapshot({"name": self.name, "last": last, "before": shared}, files)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.inputs.size + self.outputs.size

    def close(self) -> None:
        self.inputs.close()
        self.outputs.close()


_NAMED = "journal.json"


def exists(directory: Path) -> bool:
    """Whether there is a journal."""
    return (directory / _NAMED).exists()


def begin(directory: Path, origin: Mapping[str, Any]) -> None:
    """Make a journal of the files of a snapshot, which are in `directory`, and its `origin`."""
    _name(directory, {**origin["before"], str(origin["name"]): int(origin["last"])})


def _name(directory: Path, before: Mapping[str, int]) -> None:
    said = {"version": 1, "name": uuid.uuid4().hex, "before": before}
    durable.replace(directory / _NAMED, json.dumps(said))


def _record(body: bytes) -> OutputRecord:
    cursor, epoch, seq, applied, request, flags = _OUTPUT.unpack_from(body)
    return OutputRecord(cursor, epoch, seq, applied, request, flags, body[_OUTPUT.size :])
