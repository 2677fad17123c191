"""Append-only files of numbered records, cut into segments, whole again after a crash at any byte.

    segment  = magic, record*          named <prefix>-<number of its first record>.log
    record   = length u32, crc32 u32, body of that length (at least the 8 bytes of its number)

A record counts when its checksum does; what follows the last good one of the last segment is cut
off when the log is opened. `append` has handed the bytes to the operating system when it returns:
they survive this process, not the machine (that is what checkpoints are for).
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

from gateway.errors import JournalDamaged, JournalFull

MAGIC = b"SKLOG\x00\x01\n"
_HEAD = struct.Struct(">II")
_NUMBER = struct.Struct(">Q")
# One entry of the sparse index per this many bytes.
_STRIDE = 1 << 16
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Segment:
    """One file. `index` holds (number, offset) pairs, one for about every 64 KiB."""

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        self.first = first
        self.size = len(MAGIC)
        self.index: list[tuple[int, int]] = []

    def note(self, number: int, at: int) -> None:
        if not self.index or at - self.index[-1][1] >= _STRIDE:
            self.index.append((number, at))


class RecordLog:
    """Records under `directory`, in files that start with `prefix`, of `segment_size` bytes or so.

    Raises `JournalDamaged` if a file there is not one of ours.
    """

    def __init__(self, directory: Path, prefix: str, segment_size: int) -> None:
        self.directory = directory
        self.prefix = prefix
        self.segment_size = segment_size
        self.segments: list[Segment] = []
        self._fd = -1
        self._closed = False
        self.size = 0
        """Bytes in all segments."""
        (directory / f"{prefix}.large").unlink(missing_ok=True)
        for path in sorted(directory.glob(f"{prefix}-*.log")):
            self.segments.append(Segment(path, int(path.stem.rpartition("-")[2])))

    def recover(self) -> Iterator[tuple[memoryview, Segment, int]]:
        """Check all records, in order, and cut off a torn tail: `(body, segment, offset)` each.

        To be run to its end once, before anything else. The views die with the next step.
        """
        for segment in self.segments:
            end = len(MAGIC)
            last = segment is self.segments[-1]
            with segment.path.open("r+b") as file:
                size = os.fstat(file.fileno()).st_size
                if size < len(MAGIC) and last:
                    file.truncate(0)
                    file.write(MAGIC)
                    segment.size = end
                    self.size += end
                    continue
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                    if mapped[: len(MAGIC)] != MAGIC:
                        raise JournalDamaged(f"{segment.path} is not a journal of ours.")
                    with memoryview(mapped) as view:
                        for body, at, end in _walk(view, len(MAGIC)):  # noqa: B007
                            segment.note(_NUMBER.unpack_from(body)[0], at)
                            yield body, segment, at
                            body.release()
                segment.size = end
                self.size += end
                if end < size:
                    if not last:
                        raise JournalDamaged(f"{segment.path} is damaged at byte {end}.")
                    file.truncate(end)

    def append(self, number: int, body: list[bytes | memoryview]) -> tuple[Segment, int]:
        """Write one record, whose body starts with its number; where it is.

        Raises `JournalFull`; the log is then as before.
        """
        if self._closed:
            raise ValueError(f"{self.directory} is closed.")
        try:
            if self._fd < 0 or self.segments[-1].size >= self.segment_size:
                self._open(number)
            segment = self.segments[-1]
            length = crc = 0
            for part in body:
                length += len(part)
                crc = zlib.crc32(part, crc)
            _write_all(self._fd, [_HEAD.pack(length, crc), *body])
        except OSError as error:
            if self._fd >= 0:
                os.ftruncate(self._fd, self.segments[-1].size)
            if error.errno in _FULL:
                raise JournalFull(f"The journal cannot be written: {error.strerror}.") from error
            raise
        at = segment.size
        segment.size += _HEAD.size + length
        self.size += _HEAD.size + length
        segment.note(number, at)
        return segment, at

    def prepare(self, ahead: int, *tail: bytes | memoryview) -> Path:
        """Write most of a large record to a file of its own, `ahead` bytes of it left out; may be
        called in another thread. Raises `JournalFull`.
        """
        path = self.directory / f"{self.prefix}.large"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                os.lseek(fd, len(MAGIC) + _HEAD.size + ahead, os.SEEK_SET)
                _write_all(fd, [*tail])
            finally:
                os.close(fd)
        except OSError as error:
            path.unlink(missing_ok=True)
            if error.errno in _FULL:
                raise JournalFull(f"The journal cannot be written: {error.strerror}.") from error
            raise
        return path

    def of_prepared(self, prepared: Path, ahead: int) -> memoryview:
        """What of a record `prepare` has written."""
        with prepared.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return memoryview(mapped)[len(MAGIC) + _HEAD.size + ahead :]

    def append_prepared(
        self, number: int, ahead: bytes, size: int, crc: int, prepared: Path
    ) -> tuple[Segment, int]:
        """Have the record of `prepare` as a segment of its own; where it is. What was left out is
        `ahead`; `size` is that of the rest, `crc` of all.
        """
        if self._closed:
            raise ValueError(f"{self.directory} is closed.")
        path = self.directory / f"{self.prefix}-{number:020d}.log"
        head = _HEAD.pack(len(ahead) + size, crc)
        fd = os.open(prepared, os.O_WRONLY)
        try:
            os.pwrite(fd, MAGIC + head + ahead, 0)
        finally:
            os.close(fd)
        prepared.rename(path)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        segment = Segment(path, number)
        segment.note(number, segment.size)
        at = segment.size
        segment.size += _HEAD.size + len(ahead) + size
        self.size += segment.size
        self.segments.append(segment)
        return segment, at

    def _open(self, number: int) -> None:
        """Make the last segment writable; begin another one if it is full."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if not self.segments or self.segments[-1].size >= self.segment_size:
            path = self.directory / f"{self.prefix}-{number:020d}.log"
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o600)
            try:
                _write_all(fd, [MAGIC])
            except OSError:
                os.close(fd)
                path.unlink()
                raise
            self.segments.append(Segment(path, number))
            self.size += len(MAGIC)
            self._fd = fd
        else:
            self._fd = os.open(self.segments[-1].path, os.O_WRONLY | os.O_APPEND)

    def body(self, segment: Segment, at: int) -> bytes:
        """The body of the record at an offset. Raises `JournalDamaged`."""
        fd = os.open(segment.path, os.O_RDONLY)
        try:
            length, crc = _HEAD.unpack(os.pread(fd, _HEAD.size, at))
            body = os.pread(fd, length, at + _HEAD.size)
        finally:
            os.close(fd)
        if len(body) != length or zlib.crc32(body) != crc:
            raise JournalDamaged(f"{segment.path} is damaged at byte {at}.")
        return body

    def view(self, segment: Segment, at: int, skip: int, ahead: bytes) -> memoryview:
        """The body of the record at an offset without its first `skip` bytes, after `ahead` (of up
        to `skip` + 16 bytes), as the file has it: neither copied nor checked.
        """
        with segment.path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        length, _ = _HEAD.unpack_from(mapped, at)
        begin = at + _HEAD.size + skip
        mapped[begin - len(ahead) : begin] = ahead  # in this mapping alone
        return memoryview(mapped)[begin - len(ahead) : at + _HEAD.size + length]

    def read(self, start: int) -> Iterator[bytes]:
        """Bodies of the records numbered `start` or higher, to the end as it is now."""
        if not self.segments:
            return
        last = self.segments[-1]
        end = last.size
        begin = max(0, bisect_right([s.first for s in self.segments], start) - 1)
        for segment in self.segments[begin:]:
            near = max(0, bisect_right([n for n, _ in segment.index], start) - 1)
            at = segment.index[near][1] if segment.index else len(MAGIC)
            stop = end if segment is last else segment.size
            with segment.path.open("rb") as file:
                file.seek(at)
                while at < stop:
                    length, crc = _HEAD.unpack(file.read(_HEAD.size))
                    body = file.read(length)
                    at += _HEAD.size + length
                    if len(body) != length or zlib.crc32(body) != crc:
                        raise JournalDamaged(f"{segment.path} is damaged before byte {at}.")
                    if _number(body) >= start:
                        yield body

    def read_back(self, start: int) -> Iterator[bytes]:
        """Bodies of the records numbered `start` or lower, down to the oldest: some 64 KiB of them
        are in memory at a time.
        """
        stop = start + 1
        for first in reversed([number for segment in self.segments for number, _ in segment.index]):
            if first >= stop:
                continue
            some = []
            for body in self.read(first):
                if _number(body) >= stop:
                    break
                some.append(body)
            yield from reversed(some)
            stop = first

    def files(self) -> tuple[tuple[Path, int], ...]:
        """Each segment's file, and its bytes now: what is there already does not change."""
        return tuple((segment.path, segment.size) for segment in self.segments)

    def drop_first(self) -> None:
        """Delete the oldest segment."""
        segment = self.segments.pop(0)
        self.size -= segment.size
        segment.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing is appended any more: another one may have the files now."""
        self._closed = True
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _number(body: bytes) -> int:
    number: int = _NUMBER.unpack_from(body)[0]
    return number


def _walk(view: memoryview, at: int) -> Iterator[tuple[memoryview, int, int]]:
    """Good records from `at` on: body, its offset, the offset after it."""
    size = len(view)
    while size - at >= _HEAD.size:
        length, crc = _HEAD.unpack_from(view, at)
        end = at + _HEAD.size + length
        if end > size or length < _NUMBER.size:
            return
        body = view[at + _HEAD.size : end]
        if zlib.crc32(body) != crc:
            body.release()
            return
        yield body, at, end
        at = end


def _write_all(fd: int, parts: list[bytes | memoryview]) -> None:
    sent = os.writev(fd, parts)
    total = sum(len(p) for p in parts)
    if sent == total:
        return
    for part in parts:
        if sent >= len(part):
            sent -= len(part)
            continue
        rest = memoryview(part)[sent:]
        sent = 0
        while rest:
            rest = rest[os.write(fd, rest) :]
