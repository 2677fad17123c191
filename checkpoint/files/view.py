"""Reading single files and directories of a stored tree, as a file browser does."""

from __future__ import annotations

import os
from collections.abc import Mapping

from checkpoint.errors import FileTreeError
from checkpoint.files.tree import Entry, Kind, Segment, decode_directory, decode_segments
from checkpoint.objects import load_object, load_stored
from checkpoint.reader import Reader

_CACHED = 1000
_MAX_LINKS = 40


class TreeView:
    """A stored tree, seen with `root` as the root directory: links lead nowhere outside it.

    Paths are relative to the root, `bytes` or `str` (file system encoding), with or without a
    leading `/`. Every method raises `FileTreeError`, `Damaged`, and what the store raises.
    Thread-safe.
    """

    def __init__(self, reader: Reader, root: bytes) -> None:
        self._reader = reader
        self._root = self._directory(root)[b""]
        self._cache: dict[bytes, dict[bytes, Entry]] = {}

    def list(self, path: bytes | str) -> Mapping[bytes, Entry]:
        """The entries of a directory by name, sorted. Links to directories are followed."""
        entry = self._find(path, follow=True)
        if entry.kind is not Kind.DIRECTORY:
            raise FileTreeError(f"{_shown(path)} is not a directory.")
        return self._entries(entry)

    def stat(self, path: bytes | str, *, follow: bool = False) -> Entry:
        """What is at `path`; with `follow`, what a symbolic link there leads to."""
        return self._find(path, follow=follow)

    def read(self, path: bytes | str, start: int = 0, length: int | None = None) -> bytes:
        """At most `length` bytes of a file from `start` on. Links are followed."""
        entry = self._find(path, follow=True)
        if entry.kind is not Kind.FILE:
            raise FileTreeError(f"{_shown(path)} is not a file.")
        end = entry.size if length is None else min(entry.size, start + length)
        content = bytearray(max(0, end - start))
        wanted = [
            segment
            for segment in segments_of(self._reader, entry)[0]
            if segment.offset < end and segment.offset + segment.length > start
        ]
        names = [segment.chunk for segment in wanted]
        for segment, data in zip(wanted, self._reader.read(names), strict=True):
            begin = max(0, start - segment.offset)
            piece = data[begin : end - segment.offset]
            at = segment.offset + begin - start
            content[at : at + len(piece)] = piece
        return bytes(content)

    def _find(self, path: bytes | str, *, follow: bool) -> Entry:
        rest = [part for part in reversed(os.fsencode(path).split(b"/")) if part not in (b"", b".")]
        trail = [self._root]
        links = 0
        while rest:
            name = rest.pop()
            if trail[-1].kind is not Kind.DIRECTORY:
                raise FileTreeError(f"{_shown(path)} does not exist: part of it is no directory.")
            if name == b"..":
                trail = trail[:-1] or trail
                continue
            entry = self._entries(trail[-1]).get(name)
            if entry is None:
                raise FileTreeError(f"{_shown(path)} does not exist.")
            if entry.kind is Kind.SYMLINK and (rest or follow):
                links += 1
                if links > _MAX_LINKS:
                    raise FileTreeError(f"{_shown(path)} leads through too many links.")
                if entry.target.startswith(b"/"):
                    trail = trail[:1]
                parts = reversed(entry.target.split(b"/"))
                rest += [part for part in parts if part not in (b"", b".")]
            else:
                trail.append(entry)
        return trail[-1]

    def _entries(self, directory: Entry) -> dict[bytes, Entry]:
        assert directory.content is not None
        entries = self._cache.get(directory.content)
        if entries is None:
            entries = self._directory(directory.content)
            if len(self._cache) >= _CACHED:
                self._cache.clear()
            self._cache[directory.content] = entries
        return entries

    def _directory(self, root: bytes) -> dict[bytes, Entry]:
        return decode_directory(load_object(self._reader, root))


def segments_of(reader: Reader, entry: Entry) -> tuple[tuple[Segment, ...], tuple[bytes, ...]]:
    """The segments of a file, and the chunks of their list when it is not in the entry."""
    if entry.content is None:
        return entry.segments, ()
    [(data, stored)] = load_stored(reader, [entry.content])
    return tuple(decode_segments(data, entry.size)), stored.chunks


def _shown(path: bytes | str) -> str:
    return repr(os.fsdecode(path))
