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
MAX_ENTRY = 64 << 20
"""Bytes of an entry, nearly all of them extended attributes."""

_HEAD = struct.Struct("<BHIIqQQQHH")
_XATTR = struct.Struct("<HI")
_SEGMENT = struct.Struct(f"<QI{ID_BYTES}s")
_U16, _U32 = struct.Struct("<H"), struct.Struct("<I")
_SIZE, _LINK, _NAME_LENGTH = 19, 27, 43  # where these are in a head
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
        parts += (encode_head(name, entry), encode_tail(entry))
    return b"".join(parts)


def encode_head(name: bytes, entry: Entry) -> bytes:
    """An entry without what it holds."""
    head = _HEAD.pack(
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
    if not entry.xattrs:
        return head + name
    parts = [head, name]
    for key, value in entry.xattrs:
        parts += (_XATTR.pack(len(key), len(value)), key, value)
    return b"".join(parts)


def encode_tail(entry: Entry) -> bytes:
    """What an entry holds: segments or where they are, a directory's object, a link's target."""
    match entry.kind:
        case Kind.FILE if entry.content is not None:
            return segments_elsewhere(entry.content)
        case Kind.FILE:
            return segments_here(len(entry.segments), encode_segments(entry.segments))
        case Kind.DIRECTORY:
            assert entry.content is not None
            return entry.content
        case Kind.SYMLINK:
            return _U16.pack(len(entry.target)) + entry.target
    return b""


def segments_here(count: int, encoded: bytes) -> bytes:
    """The tail of a file with these segments; at most `INLINE_SEGMENTS`."""
    return _U32.pack(count) + encoded


def segments_elsewhere(content: bytes) -> bytes:
    """The tail of a file whose segments are the object `content`."""
    return _U32.pack(_ELSEWHERE) + content


def name_in(head: bytes) -> bytes:
    """The name in an encoded entry."""
    (length,) = _U16.unpack_from(head, _NAME_LENGTH)
    return head[_HEAD.size : _HEAD.size + length]


def link_in(head: bytes) -> int:
    """The link number in an encoded entry."""
    return int.from_bytes(head[_LINK : _LINK + 8], "little")


def size_in(head: bytes) -> int:
    """The size in an encoded entry, in bytes."""
    return int.from_bytes(head[_SIZE : _SIZE + 8], "little")


def with_link(head: bytes, link: int) -> bytes:
    """The encoded entry with another link number."""
    return head[:_LINK] + link.to_bytes(8, "little") + head[_LINK + 8 :]


def with_name(head: bytes, name: bytes) -> bytes:
    """The encoded entry with another name."""
    rest = head[_HEAD.size + len(name_in(head)) :]
    after = head[_NAME_LENGTH + 2 : _HEAD.size]
    return b"".join((head[:_NAME_LENGTH], _U16.pack(len(name)), after, name, rest))


def decode_directory(data: bytes) -> dict[bytes, Entry]:
    """The entries of a directory object by name. Raises as `entries_in`."""
    return dict(entries_in(iter((data,))))


def entries_in(pieces: Iterator[bytes]) -> Iterator[tuple[bytes, Entry]]:
    """The (name, entry)s of a directory object, which comes in pieces. Raises `Damaged`, also in
    the middle, and `UnknownFormat`.

    Names are checked: never empty (but for the root's), never `.` or `..`, without `/`, each once;
    so are sizes, links' targets and attributes' names: a file system could have them.
    """
    data = next(pieces, b"")
    if data[:1] > bytes([VERSION]):
        raise UnknownFormat(_WHAT, data[0], VERSION)
    try:
        if data[:1] != bytes([VERSION]):
            raise ValueError
        last, at = None, 1
        while True:
            try:
                if at == len(data):
                    raise _CutShort
                name, entry, at = _decode_entry(data, at)
            except _CutShort:
                more = next(pieces, None)
                if more is None and at == len(data):
                    return
                if more is None or len(data) - at > MAX_ENTRY:
                    raise ValueError from None
                data, at = data[at:] + more, 0
                continue
            if last is not None and (name <= last or not last):
                raise ValueError
            if name in (b".", b"..") or b"\0" in name or b"/" in name:
                raise ValueError
            yield name, entry
            last = name
    except (ValueError, struct.error):
        raise Damaged(_WHAT, "its entries are not those of a directory") from None


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
    """As `segments_in`, all of them in `data`."""
    return segments_in(iter((data,)), size)


def segments_in(pieces: Iterator[bytes], size: int) -> Iterator[Segment]:
    """The segments of a file of `size` bytes, checked to be in order and inside it. Their list
    comes in pieces. Raises `Damaged`, also in the middle.
    """
    end, rest = 0, b""
    for piece in pieces:
        data = rest + piece
        whole = len(data) // _SEGMENT.size * _SEGMENT.size
        for offset, length, chunk in _SEGMENT.iter_unpack(memoryview(data)[:whole]):
            if offset < end or offset + length > size:
                why = "they overlap, or pass the end of the file"
                raise Damaged("A list of file segments", why)
            end = offset + length
            yield Segment(offset, length, chunk)
        rest = data[whole:]
    if rest:
        raise Damaged("A list of file segments", "its length does not fit")


class _CutShort(ValueError):
    """The data ends within what is to be read."""


class _Taker:
    """Reads fields one after the other. Raises `_CutShort` at the end of the data."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def bytes(self, length: int) -> bytes:
        end = self.at + length
        if end > len(self.data):
            raise _CutShort
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def fields(self, layout: struct.Struct) -> tuple[int, ...]:
        if self.at + layout.size > len(self.data):
            raise _CutShort
        fields = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return fields
