"""A stored tree to a directory."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace

from checkpoint.errors import Damaged, FileTreeError
from checkpoint.files.scan import Directory, Leaf, Skipped, Tree, settled
from checkpoint.files.tree import MODE_OF_KIND, Entry, Kind, decode_directory
from checkpoint.files.view import segments_of
from checkpoint.objects import load_object, load_stored
from checkpoint.reader import Reader

_BATCH_FILES = 256


@dataclass(frozen=True)
class Restored:
    """What was written:

    the tree, to go on scanning from, and what of it could not be set, and why.
    """

    tree: Tree
    problems: list[Skipped]


def materialize(
    reader: Reader, root_id: bytes, root: str | os.PathLike[str], below: bytes = b""
) -> Restored:
    """Write the tree to the directory `root`, created if it is not there; it must be empty.

    With `below`, a path in the tree, only what is in that directory.

    Contents, names, kinds, modes, times, links and holes are exactly as they were. Owners are set
    for root only; devices and attributes that this user may not set are in `problems`. Raises
    `FileTreeError` when `root` is not an empty directory or cannot be written, or the tree has no
    directory `below`, `Damaged`, and what the store raises.
    """
    path = os.fsencode(root)
    try:
        os.makedirs(path, exist_ok=True)
        if os.listdir(path):
            raise FileTreeError(f"{os.fsdecode(path)} is not empty.")
        return _Materializer(reader, path).run(root_id, below)
    except OSError as error:
        raise FileTreeError(f"The files cannot be written: {error}.") from error


class _Materializer:
    def __init__(self, reader: Reader, root: bytes) -> None:
        self._reader = reader
        self._root = root
        self._problems: list[Skipped] = []
        self._links: dict[int, tuple[bytes, Leaf]] = {}
        self._files: list[tuple[bytes, Leaf]] = []
        self._leaves: list[tuple[bytes, Leaf]] = []
        self._directories: list[tuple[bytes, Entry]] = []

    def run(self, root_id: bytes, below: bytes) -> Restored:
        top = decode_directory(load_object(self._reader, root_id)).get(b"")
        if top is None or top.kind is not Kind.DIRECTORY:
            raise Damaged("The root of the file tree", "it is not a directory")
        for name in filter(None, below.split(b"/")):
            found = decode_directory(load_object(self._reader, top.content or b"")).get(name)
            if found is None or found.kind is not Kind.DIRECTORY:
                raise FileTreeError(f"The tree has no directory {os.fsdecode(below)}.")
            top = found
        directory = self._skeleton(top)
        for start in range(0, len(self._files), _BATCH_FILES):
            self._write(self._files[start : start + _BATCH_FILES])
        for path, entry in reversed(self._directories):
            self._finish(path, entry)
        now = time.time_ns()
        for path, leaf in self._leaves:
            status = os.lstat(path)
            if leaf.entry.link:
                leaf.entry = replace(leaf.entry, link=status.st_ino)
            key = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            leaf.key = settled(key, now)
        return Restored(Tree(directory, []), self._problems)

    def _skeleton(self, top: Entry) -> Directory:
        """Make all directories, links and special files; note the files to be written."""
        root = Directory(top.with_content(None), {})
        level = [(self._root, top, root)]
        self._directories.append((self._root, top))
        while level:
            objects = [entry.content or b"" for _, entry, _ in level]
            below = []
            loaded = load_stored(self._reader, objects)
            for (path, _, directory), (data, stored) in zip(level, loaded, strict=True):
                linked = False
                for name, entry in decode_directory(data).items():
                    inner = path + b"/" + name
                    if entry.kind is Kind.DIRECTORY:
                        os.mkdir(inner, 0o700)
                        child = Directory(entry.with_content(None), {})
                        directory.children[name] = child
                        below.append((inner, entry, child))
                        self._directories.append((inner, entry))
                    elif (leaf := self._leaf(inner, entry)) is not None:
                        directory.children[name] = leaf
                        linked = linked or entry.link != 0
                # Link numbers are inode numbers of a node: what has any is stored anew from here.
                directory.stored = None if linked else stored
            level = below
        return root

    def _leaf(self, path: bytes, entry: Entry) -> Leaf | None:
        if entry.link and entry.link in self._links:
            first, leaf = self._links[entry.link]
            os.link(first, path, follow_symlinks=False)
            return leaf
        leaf = Leaf(entry, None)
        if entry.kind is Kind.FILE:
            segments, listed = segments_of(self._reader, entry)
            leaf.entry = replace(entry, segments=segments)
            leaf.chunks = (*(segment.chunk for segment in segments), *listed)
            os.close(_create(path))
            self._files.append((path, leaf))
        elif not self._special(path, entry):
            return None
        if entry.link:
            self._links[entry.link] = (path, leaf)
        self._leaves.append((path, leaf))
        return leaf

    def _special(self, path: bytes, entry: Entry) -> bool:
        try:
            if entry.kind is Kind.SYMLINK:
                os.symlink(entry.target, path)
            else:
                os.mknod(path, MODE_OF_KIND[entry.kind] | 0o600, entry.rdev)
        except PermissionError as error:
            self._problem(path, error)
            return False
        self._finish(path, entry)
        return True

    def _write(self, files: list[tuple[bytes, Leaf]]) -> None:
        places: dict[bytes, list[tuple[int, int, int]]] = {}
        fds: list[int] = []
        try:
            for path, leaf in files:
                fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                fds.append(fd)
                os.ftruncate(fd, leaf.entry.size)  # what is not written stays a hole
                for offset, length, chunk in leaf.entry.segments:
                    places.setdefault(chunk, []).append((fd, offset, length))

            def write(chunk: bytes, data: bytes) -> None:
                for fd, offset, length in places[chunk]:
                    if len(data) != length:
                        raise Damaged(f"Chunk {chunk.hex()}", "its length is not the file's")
                    view = memoryview(data)
                    while view:
                        written = os.pwrite(fd, view, offset)
                        view, offset = view[written:], offset + written

            self._reader.each(places, write)
        finally:
            for fd in fds:
                os.close(fd)
        for path, leaf in files:
            self._finish(path, leaf.entry)

    def _finish(self, path: bytes, entry: Entry) -> None:
        """Owner, attributes, mode and time, in the order in which none undoes another."""
        if os.geteuid() == 0:
            os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
        for name, value in entry.xattrs:
            try:
                os.setxattr(path, name, value, follow_symlinks=False)
            except OSError as error:
                self._problem(path, error)
        if entry.kind is not Kind.SYMLINK:
            os.chmod(path, entry.mode)
        os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)

    def _problem(self, path: bytes, error: OSError) -> None:
        reason = error.strerror or str(error)
        self._problems.append(Skipped(os.path.relpath(path, self._root), reason))


def _create(path: bytes) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, 0o600)
