"""Reading single files and directories of a stored tree, as a file browser does."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import chain, islice

from checkpoint.errors import Damaged, FileTreeError
from checkpoint.files.tree import Entry, Kind, Segment, entries_in, segments_in
from checkpoint.objects import Chunks, stream_objects
from checkpoint.reader import Reader

_CACHED = 20_000  # entries of all directories that are remembered
_MAX_LINKS = 40
_AT_ONCE = 8  # chunks of a file that is streamed
_PIECE = 1 << 20


class TreeView:
    """A stored tree, seen with `root` as the root directory: links lead nowhere outside it.

    Paths are relative to the root, `bytes` or `str` (file system encoding), with or without a
    leading `/`. Every method raises `FileTreeError`, `Damaged`, and what the store raises.
    Thread-safe. What it remembers is bounded, and no file or directory is in memory as a whole but
    the one that is listed.
    """

    def __init__(self, reader: Reader, root: bytes) -> None:
        self._reader = reader
        self._root = root_of(reader, root)
        self._cache: dict[bytes, dict[bytes, Entry]] = {}
        self._cached = 0

    def list(self, path: bytes | str) -> Mapping[bytes, Entry]:
        """The entries of a directory by name, sorted. Links to directories are followed."""
        entry = self._find(path, follow=True)
        if entry.kind is not Kind.DIRECTORY:
            raise FileTreeError(f"{_shown(path)} is not a directory.")
        assert entry.content is not None
        known = self._cache.get(entry.content)
        return known if known is not None else dict(entries_of(self._reader, entry.content))

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
            for segment in segments_of(self._reader, entry)
            if segment.offset < end and segment.offset + segment.length > start
        ]
        names = [segment.chunk for segment in wanted]
        for segment, data in zip(wanted, self._reader.read(names), strict=True):
            begin = max(0, start - segment.offset)
            piece = data[begin : end - segment.offset]
            at = segment.offset + begin - start
            content[at : at + len(piece)] = piece
        return bytes(content)

    def stream(self, path: bytes | str) -> Iterator[bytes]:
        """All of a file, in pieces of at most `_PIECE` bytes; a few chunks are in memory at a time.
        Links are followed.
        """
        entry = self._find(path, follow=True)
        if entry.kind is not Kind.FILE:
            raise FileTreeError(f"{_shown(path)} is not a file.")
        segments, position = segments_of(self._reader, entry), 0
        while batch := list(islice(segments, _AT_ONCE)):
            contents = self._reader.read([segment.chunk for segment in batch])
            for segment, data in zip(batch, contents, strict=True):
                yield from _zeros(segment.offset - position)
                for start in range(0, segment.length, _PIECE):
                    yield bytes(data[start : min(start + _PIECE, segment.length)])
                position = segment.offset + segment.length
        yield from _zeros(entry.size - position)

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
            entry = self._look_up(trail[-1], name)
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

    def _look_up(self, directory: Entry, name: bytes) -> Entry | None:
        assert directory.content is not None
        known = self._cache.get(directory.content)
        if known is None:
            entries = entries_of(self._reader, directory.content)
            known = dict(islice(entries, _CACHED))
            after = next(entries, None)
            if after is not None:  # too many to be remembered
                rest = (entry for found, entry in chain((after,), entries) if found == name)
                return known.get(name) or next(rest, None)
            if self._cached + len(known) > _CACHED:
                self._cache, self._cached = {}, 0
            self._cache[directory.content] = known
            self._cached += len(known) + 1
        return known.get(name)


def root_of(chunks: Chunks, content: bytes) -> Entry:
    """The directory that a tree begins with. Raises `Damaged`, and what the store raises."""
    entry = dict(entries_of(chunks, content)).get(b"")
    if entry is None or entry.kind is not Kind.DIRECTORY:
        raise Damaged("The root of the file tree", "it is not a directory")
    return entry


def entries_of(chunks: Chunks, content: bytes) -> Iterator[tuple[bytes, Entry]]:
    """What is in a directory, sorted by name. Raises `Damaged`, also in the middle, and what the
    store raises.
    """
    for pieces in stream_objects(chunks, [content]):
        yield from entries_in(pieces)


def segments_of(chunks: Chunks, entry: Entry) -> Iterator[Segment]:
    """The segments of a file. Raises as `entries_of`."""
    if entry.content is None:
        yield from entry.segments
        return
    for pieces in stream_objects(chunks, [entry.content]):
        yield from segments_in(pieces, entry.size)


def _zeros(size: int) -> Iterator[bytes]:
    for start in range(0, size, _PIECE):
        yield bytes(min(_PIECE, size - start))


def _shown(path: bytes | str) -> str:
    return repr(os.fsdecode(path))
