"""A stored tree to a directory.

Every step is taken relative to an open directory: a tree may be nested deeper than a path can say.
What fails for one entry is a problem of that entry, and the rest is restored.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from checkpoint.errors import Damaged, FilesNotWritten, FileTreeError
from checkpoint.files.key import key_of, settled
from checkpoint.files.scanned import Directory, Leaf, Skipped, Tree
from checkpoint.files.tree import MODE_OF_KIND, Entry, Kind, decode_directory
from checkpoint.files.view import segments_of
from checkpoint.objects import load_object, load_stored
from checkpoint.reader import Reader

_BATCH_FILES = 256
_MAX_PATH = 4000  # bytes of a path that one system call takes (PATH_MAX, less a little)
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_NOTHING_CAN_BE_WRITTEN = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EROFS,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ESTALE,
    errno.ENOTCONN,
}


@dataclass(frozen=True)
class Restored:
    """What was written:

    the tree, to go on scanning from, and what of it could not be restored or set, and why.
    """

    tree: Tree
    problems: list[Skipped]


def materialize(
    reader: Reader, root_id: bytes, root: str | os.PathLike[str], below: bytes = b""
) -> Restored:
    """Write the tree to the directory `root`, created if it is not there; it must be empty.

    With `below`, a path in the tree, only what is in that directory.

    Contents, names, kinds, modes, times, links and holes are exactly as they were, at any depth.
    Owners are set for root only. What this file system or this user cannot have is in `problems`:
    an entry is then not there at all (of a directory its own path stands for all below it), or an
    attribute is not set. Raises `FileTreeError` when `root` is not an empty directory, or the tree
    has no directory `below`, `FilesNotWritten` when nothing can be written there (any more),
    `Damaged`, and what the store raises.
    """
    path = os.fsencode(root)
    try:
        os.makedirs(path, exist_ok=True)
        if os.listdir(path):
            raise FileTreeError(f"{os.fsdecode(path)} is not empty.")
        if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with _Places(path) as places:
            return _Materializer(reader, places).run(root_id, below)
    except OSError as error:
        raise FilesNotWritten(error.strerror or str(error)) from error


class _Places:
    """Directories below a root by their path in it, of any length. Nobody else changes them."""

    def __init__(self, root: bytes) -> None:
        self._root = os.open(root, _DIRECTORY & ~os.O_NOFOLLOW)
        self._path, self._fd = b"", os.dup(self._root)

    def __enter__(self) -> _Places:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        os.close(self._root)

    def at(self, path: bytes) -> int:
        """The directory, open until the next call."""
        if path != self._path:
            opened = self.open(path)
            os.close(self._fd)
            self._path, self._fd = path, opened
        return self._fd

    def open(self, path: bytes) -> int:
        """The directory, for the caller to close."""
        fd = os.dup(self._root)
        while path:
            cut = len(path) if len(path) <= _MAX_PATH else path.rindex(b"/", 0, _MAX_PATH)
            try:
                below = os.open(path[:cut], _DIRECTORY, dir_fd=fd)
            finally:
                os.close(fd)
            fd, path = below, path[cut + 1 :]
        return fd


@dataclass(frozen=True, slots=True)
class _Made:
    """A file that was made: its name in a directory, and what it is in the tree."""

    place: bytes
    name: bytes
    directory: Directory
    leaf: Leaf


class _Materializer:
    def __init__(self, reader: Reader, places: _Places) -> None:
        self._reader = reader
        self._places = places
        self._problems: list[Skipped] = []
        self._links: dict[int, list[_Made]] = {}
        self._files: list[_Made] = []
        self._directories: list[tuple[bytes, Entry, Directory]] = []

    def run(self, root_id: bytes, below: bytes) -> Restored:
        top = decode_directory(load_object(self._reader, root_id)).get(b"")
        if top is None or top.kind is not Kind.DIRECTORY:
            raise Damaged("The root of the file tree", "it is not a directory")
        for name in filter(None, below.split(b"/")):
            found = decode_directory(load_object(self._reader, top.content or b"")).get(name)
            if found is None or found.kind is not Kind.DIRECTORY:
                raise FileTreeError(f"The tree has no directory {os.fsdecode(below)}.")
            top = found
        root = Directory(top.with_content(None), {})
        self._directories.append((b"", top, root))
        level = [(b"", top.content or b"", root)]
        while level:
            level = self._level(level)
        self._write_files()
        now = time.time_ns()
        while self._directories:
            self._finish_directory(*self._directories.pop(), now)
        return Restored(Tree(root, []), self._problems)

    def _level(
        self, level: list[tuple[bytes, bytes, Directory]]
    ) -> list[tuple[bytes, bytes, Directory]]:
        """Fill these directories (path, object, where to note it); those in them are returned."""
        below = []
        loaded = load_stored(self._reader, [content for _, content, _ in level])
        for (place, _, directory), (data, stored) in zip(level, loaded, strict=True):
            directory.stored = stored
            for name, entry in decode_directory(data).items():
                if entry.kind is not Kind.DIRECTORY:
                    self._leaf(place, name, entry, directory)
                    continue
                with self._problem(place, name, directory):
                    os.mkdir(name, 0o700, dir_fd=self._places.at(place))
                    child = Directory(entry.with_content(None), {})
                    directory.children[name] = child
                    inner = _joined(place, name)
                    below.append((inner, entry.content or b"", child))
                    self._directories.append((inner, entry, child))
        return below

    def _leaf(self, place: bytes, name: bytes, entry: Entry, directory: Directory) -> None:
        made = self._links.get(entry.link, []) if entry.link else []
        if entry.link:
            # Link numbers are inode numbers of a node: what has any is stored anew from here.
            directory.stored = None
        if made:
            first = made[0]
            with self._problem(place, name, directory):
                source = self._places.open(first.place)
                try:
                    target = self._places.at(place)
                    os.link(
                        first.name,
                        name,
                        src_dir_fd=source,
                        dst_dir_fd=target,
                        follow_symlinks=False,
                    )
                finally:
                    os.close(source)
                directory.children[name] = first.leaf
                made.append(_Made(place, name, directory, first.leaf))
            return
        new = _Made(place, name, directory, Leaf(entry, None))
        with self._problem(place, name, directory):
            if entry.kind is Kind.FILE:
                os.close(os.open(name, _CREATE, 0o600, dir_fd=self._places.at(place)))
                self._files.append(new)
            else:
                self._special(place, name, entry)
            directory.children[name] = new.leaf
            if entry.link:
                self._links[entry.link] = [new]
        if len(self._files) >= _BATCH_FILES:
            self._write_files()

    def _special(self, place: bytes, name: bytes, entry: Entry) -> None:
        fd = self._places.at(place)
        if entry.kind is Kind.SYMLINK:
            os.symlink(entry.target, name, dir_fd=fd)
        else:
            os.mknod(name, MODE_OF_KIND[entry.kind] | 0o600, entry.rdev, dir_fd=fd)
        if os.geteuid() == 0:
            os.chown(name, entry.uid, entry.gid, dir_fd=fd, follow_symlinks=False)
        # There is no call for a link's attributes by directory; the path through /proc is short.
        self._attributes(b"/proc/self/fd/%d/%s" % (fd, name), place, name, entry)
        if entry.kind is not Kind.SYMLINK:
            os.chmod(name, entry.mode, dir_fd=fd)
        times = entry.mtime_ns, entry.mtime_ns
        os.utime(name, ns=times, dir_fd=fd, follow_symlinks=False)

    def _write_files(self) -> None:
        batch, self._files = self._files, []
        where: dict[bytes, list[tuple[int, int, int]]] = {}
        opened: list[tuple[int, _Made]] = []
        failed: dict[int, OSError] = {}
        guard = threading.Lock()
        try:
            for made in batch:
                leaf = made.leaf
                with self._problem(made.place, made.name, made.directory, made):
                    fd = os.open(made.name, _OPEN, dir_fd=self._places.at(made.place))
                    opened.append((fd, made))
                    os.ftruncate(fd, leaf.entry.size)  # what is not written stays a hole
                    if leaf.entry.content is not None:
                        segments, leaf.listed = segments_of(self._reader, leaf.entry)
                        leaf.entry = replace(leaf.entry, segments=segments)
                    for offset, length, chunk in leaf.entry.segments:
                        where.setdefault(chunk, []).append((fd, offset, length))

            def write(chunk: bytes, data: bytes) -> None:
                for fd, offset, length in where[chunk]:
                    if len(data) != length:
                        raise Damaged(f"Chunk {chunk.hex()}", "its length is not the file's")
                    try:
                        _write_at(fd, data, offset)
                    except OSError as error:
                        if error.errno in _NOTHING_CAN_BE_WRITTEN:
                            raise
                        with guard:
                            failed[fd] = error

            self._reader.each(where, write)
            for fd, made in opened:
                if made.directory.children.get(made.name) is not made.leaf:
                    continue
                with self._problem(made.place, made.name, made.directory, made):
                    if fd in failed:
                        raise failed[fd]
                    self._finish(fd, made.place, made.name, made.leaf.entry)
        finally:
            for fd, _ in opened:
                os.close(fd)

    def _finish_directory(self, place: bytes, entry: Entry, directory: Directory, now: int) -> None:
        fd = self._places.at(place)
        above, _, name = place.rpartition(b"/")
        for leaf_name, leaf in directory.children.items():
            if isinstance(leaf, Directory):
                # What is stored of a directory says what is stored of those in it.
                directory.stored = directory.stored if leaf.stored else None
                continue
            status = os.stat(leaf_name, dir_fd=fd, follow_symlinks=False)
            if leaf.entry.link:
                leaf.entry = replace(leaf.entry, link=status.st_ino)
            leaf.key = settled(key_of(status), now)
        with self._problem(above, name):
            self._finish(fd, above, name, entry)

    def _finish(self, fd: int, place: bytes, name: bytes, entry: Entry) -> None:
        """Owner, attributes, mode and time, in the order in which none undoes another."""
        if os.geteuid() == 0:
            os.fchown(fd, entry.uid, entry.gid)
        self._attributes(fd, place, name, entry)
        os.fchmod(fd, entry.mode)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def _attributes(self, where: int | bytes, place: bytes, name: bytes, entry: Entry) -> None:
        for key, value in entry.xattrs:
            try:
                os.setxattr(where, key, value, follow_symlinks=isinstance(where, int))
            except OSError as error:  # ENOSPC here is one attribute that is too large
                why = f"attribute {os.fsdecode(key)}: {error.strerror or error}"
                self._problems.append(Skipped(_joined(place, name), why))

    @contextmanager
    def _problem(
        self,
        place: bytes,
        name: bytes,
        directory: Directory | None = None,
        made: _Made | None = None,
    ) -> Iterator[None]:
        """Make a failure inside a problem of the entry `name` in `place`, unless it means that
        nothing can be written. With `directory`, the entry is not in it then; with `made`, what is
        there of the file is removed, under all its names.
        """
        try:
            yield
        except OSError as error:
            if error.errno in _NOTHING_CAN_BE_WRITTEN:
                raise
            self._problems.append(Skipped(_joined(place, name), error.strerror or str(error)))
            if directory is not None:
                directory.children.pop(name, None)
                directory.stored = None
            if made is not None:
                self._remove(made)

    def _remove(self, made: _Made) -> None:
        """A file that is not what it was is not to be there."""
        for one in self._links.pop(made.leaf.entry.link, [made]):
            with suppress(OSError):
                os.unlink(one.name, dir_fd=self._places.at(one.place))
            one.directory.children.pop(one.name, None)
            one.directory.stored = None
            if one is not made:
                why = f"it is a link to {os.fsdecode(_joined(made.place, made.name))}"
                self._problems.append(Skipped(_joined(one.place, one.name), why))


def _joined(place: bytes, name: bytes) -> bytes:
    return place + b"/" + name if place else name


def _write_at(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
