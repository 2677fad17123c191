"""The stored form of a file tree: one object per directory.

A directory object is a version byte and its entries, sorted by name, little-endian:

    kind u8 | mode u16 | uid u32 | gid u32 | mtime_ns i64 | size u64 | link u64 | rdev u64
    | name length u16 | number of xattrs u16 | name
    | per xattr: name length u16, value length u32, name, value
    | file: number of segments u32, segments (offset u64, length u32, chunk id 32);
            or 2^32 - 1 and the id of an object of segments
      directory: id of its object
      symbolic link: length u16, target

What no segment covers is a hole. Entries with the same `link` other than 0 are one file with
several names. The tree's root is an object with one entry, named "", for the root directory
itself.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple

from checkpoint.chunks import ID_BYTES
from checkpoint.errors import Damaged, UnknownFormat

VERSION = 1
INLINE_SEGMENTS = 16

_HEAD = struct.Struct("<BHIIqQQQHH")
_XATTR = struct.Struct("<HI")
_SEGMENT = struct.Struct(f"<QI{ID_BYTES}s")
_U16, _U32 = struct.Struct("<H"), struct.Struct("<I")
_MAX_SIZE = 2**63 - 1
_ELSEWHERE = 0xFFFF_FFFF
_WHAT = "A directory of the file tree"


class Kind(IntEnum):
    FILE = 0
    DIRECTORY = 1
    SYMLINK = 2
    FIFO = 3
    CHARACTER = 4
    BLOCK = 5


KIND_OF_MODE = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFBLK: Kind.BLOCK,
}
MODE_OF_KIND = {kind: mode for mode, kind in KIND_OF_MODE.items()}


class Segment(NamedTuple):
    """`length` bytes of a file from `offset` on, in one chunk."""

    offset: int
    length: int
    chunk: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory. `mode` is the permission bits; `link` is 0 for a file with one name.

    `content` is a directory's object, or a file's object of segments when there are too many to be
    in `segments`.
    """

    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    link: int = 0
    rdev: int = 0
    target: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    segments: tuple[Segment, ...] = ()
    content: bytes | None = None

    @classmethod
    def of(cls, status: os.stat_result, kind: Kind) -> Entry:
        """An entry with what `os.stat_result` says."""
        return cls(
            kind=kind,
            mode=stat.S_IMODE(status.st_mode),
            uid=status.st_uid,
            gid=status.st_gid,
            mtime_ns=status.st_mtime_ns,
        )

    def with_content(self, content: bytes | None) -> Entry:
        return replace(self, content=content)


def encode_directory(entries: Iterable[tuple[bytes, Entry]]) -> bytes:
    """The object of a directory with these (name, entry)s, sorted by name."""
    parts = [bytes([VERSION])]
    for name, entry in entries:
        parts.append(
            _HEAD.pack(
                entry.kind,
                entry.mode,
                entry.uid,
                entry.gid,
                entry.mtime_ns,
                entry.size,
                entry.link,
                entry.rdev,
                len(name),
                len(entry.xattrs),
            )
        )
        parts.append(name)
        for key, value in entry.xattrs:
            parts += (_XATTR.pack(len(key), len(value)), key, value)
        match entry.kind:
            case Kind.FILE if entry.content is not None:
                parts += (_U32.pack(_ELSEWHERE), entry.content)
            case Kind.FILE:
                parts += (_U32.pack(len(entry.segments)), encode_segments(entry.segments))
            case Kind.DIRECTORY:
                assert entry.content is not None
                parts.append(entry.content)
            case Kind.SYMLINK:
                parts += (_U16.pack(len(entry.target)), entry.target)
    return b"".join(parts)


def decode_directory(data: bytes) -> dict[bytes, Entry]:
    """The entries of a directory object by name. Raises `Damaged`, `UnknownFormat`.

    Names are checked: never empty (but for the root's), never `.` or `..`, without `/`, each once;
    so are sizes, links' targets and attributes' names: a file system could have them.
    """
    if data[:1] > bytes([VERSION]):
        raise UnknownFormat(_WHAT, data[0], VERSION)
    entries: dict[bytes, Entry] = {}
    try:
        if data[:1] != bytes([VERSION]):
            raise ValueError
        last, at = None, 1
        while at < len(data):
            name, entry, at = _decode_entry(data, at)
            if (last is not None and name <= last) or name in (b".", b"..") or set(name) & {0, 47}:
                raise ValueError
            entries[name] = entry
            last = name
        if b"" in entries and len(entries) > 1:
            raise ValueError
    except (ValueError, struct.error):
        raise Damaged(_WHAT, "its entries are not those of a directory") from None
    return entries


def _decode_entry(data: bytes, at: int) -> tuple[bytes, Entry, int]:
    take = _Taker(data, at)
    (kind, mode, uid, gid, mtime_ns, size, link, rdev, name_length, xattr_count) = take.fields(
        _HEAD
    )
    name = take.bytes(name_length)
    xattrs = []
    for _ in range(xattr_count):
        key_length, value_length = take.fields(_XATTR)
        xattrs.append((take.bytes(key_length), take.bytes(value_length)))
    target, content = b"", None
    segments: tuple[Segment, ...] = ()
    match Kind(kind):
        case Kind.FILE:
            (count,) = take.fields(_U32)
            if count == _ELSEWHERE:
                content = take.bytes(ID_BYTES)
            else:
                segments = tuple(decode_segments(take.bytes(count * _SEGMENT.size), size))
        case Kind.DIRECTORY:
            content = take.bytes(ID_BYTES)
        case Kind.SYMLINK:
            target = take.bytes(*take.fields(_U16))
    names = [key for key, _ in xattrs] + [target] * (kind == Kind.SYMLINK)
    if size > _MAX_SIZE or any(not word or b"\0" in word for word in names):
        raise ValueError
    entry = Entry(
        Kind(kind),
        mode,
        uid,
        gid,
        mtime_ns,
        size,
        link,
        rdev,
        target,
        tuple(xattrs),
        segments,
        content,
    )
    return name, entry, take.at


def encode_segments(segments: Iterable[Segment]) -> bytes:
    return b"".join([_SEGMENT.pack(*segment) for segment in segments])


def decode_segments(data: bytes, size: int) -> Iterator[Segment]:
    """The segments of a file of `size` bytes, checked to be in order and inside it.

    Raises `Damaged`.
    """
    if len(data) % _SEGMENT.size:
        raise Damaged("A list of file segments", "its length does not fit")
    end = 0
    for offset, length, chunk in _SEGMENT.iter_unpack(data):
        if offset < end or offset + length > size:
            raise Damaged("A list of file segments", "they overlap, or pass the end of the file")
        end = offset + length
        yield Segment(offset, length, chunk)


class _Taker:
    """Reads fields one after the other. Raises `ValueError` at the end of the data."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def bytes(self, length: int) -> bytes:
        end = self.at + length
        if end > len(self.data):
            raise ValueError
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def fields(self, layout: struct.Struct) -> tuple[int, ...]:
        fields = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return fields
