"""A stored tree to a directory.

Every step is taken relative to an open directory: a tree may be nested deeper than a path can say.
What fails for one entry is a problem of that entry, and the rest is restored.

First all files are made, level by level, so that many directories are read from the store at once;
then a walk sets what directories have, the deepest first, and notes what is there now. What has to
be known between is on disk (`checkpoint.scratch`).
"""

from __future__ import annotations

import errno
import os
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice

from checkpoint.errors import Damaged, FilesNotWritten, FileTreeError
from checkpoint.files.key import key_of, settled
from checkpoint.files.listing import NOTHING, Listing, Pieces, piece_of
from checkpoint.files.places import Places
from checkpoint.files.remembered import FirstNames, Remembered
from checkpoint.files.scanned import Named, Skipped, Tree
from checkpoint.files.tree import (
    MODE_OF_KIND,
    Entry,
    Kind,
    Segment,
    encode_head,
    encode_tail,
    entries_in,
    with_link,
)
from checkpoint.files.view import entries_of, root_of, segments_of
from checkpoint.objects import stream_objects
from checkpoint.reader import Reader
from checkpoint.scratch import Scratch

_BATCH_FILES = 256
_BATCH_DIRECTORIES = 4096
_BATCH_SEGMENTS = 4096
_QUEUE_IN_MEMORY = 4 << 20
_QUEUED = struct.Struct("<I32s")
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC

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
    problems: Named[Skipped]


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
    `Damaged`, and what the store raises. Memory does not grow with the tree; `StoreFull` is raised
    when this machine's disk for temporary files is full.
    """
    path = os.fsencode(root)
    try:
        os.makedirs(path, exist_ok=True)
        if os.listdir(path):
            raise FileTreeError(f"{os.fsdecode(path)} is not empty.")
        if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        with Places(path) as places:
            return _Materializer(reader, places).run(root_id, below)
    except OSError as error:
        raise FilesNotWritten(error.strerror or str(error)) from error


@dataclass(slots=True)
class _Made:
    """A file that was made: its name in a directory, and what it is in the tree."""

    place: bytes
    name: bytes
    entry: Entry
    failed: bool = False


@dataclass(slots=True)
class _Open:
    """A directory of the walk at the end: where it is, and what is still to come of it."""

    place: bytes
    entry: Entry
    left: Iterator[tuple[bytes, Entry]]


class _Materializer:
    def __init__(self, reader: Reader, places: Places) -> None:
        self._reader = reader
        self._tree = Remembered(reader)
        self._places = places
        self._problems = Named[Skipped]()
        self._links = FirstNames()
        self._failed: dict[int, bytes] = {}  # links, and the name whose content was not written
        self._files: list[_Made] = []

    def run(self, root_id: bytes, below: bytes) -> Restored:
        top = root_of(self._reader, root_id)
        for name in filter(None, below.split(b"/")):
            inside = entries_of(self._reader, top.content or b"")
            found = next((entry for one, entry in inside if one == name), None)
            if found is None or found.kind is not Kind.DIRECTORY:
                raise FileTreeError(f"The tree has no directory {os.fsdecode(below)}.")
            top = found
        self._make(top)
        self._write_files()
        return Restored(Tree(self._walk(top)), self._problems)

    def _make(self, top: Entry) -> None:
        """Make all that is in the tree, level by level."""
        queue = Scratch("The list of directories", _QUEUE_IN_MEMORY)
        _put(queue, b"", top)
        at = 0
        while at < queue.size:
            batch, at = _take(queue, at)
            objects = stream_objects(self._tree, [content for _, content in batch])
            for (place, _), pieces in zip(batch, objects, strict=True):
                for name, entry in entries_in(pieces):
                    if entry.kind is not Kind.DIRECTORY:
                        self._leaf(place, name, entry)
                        continue
                    with self._problem(place, name):
                        os.mkdir(name, 0o700, dir_fd=self._places.at(place))
                        _put(queue, _joined(place, name), entry)

    def _leaf(self, place: bytes, name: bytes, entry: Entry) -> None:
        if entry.link in self._failed:
            self._is_link_to_nothing(place, name, entry)
            return
        first = self._links.get(entry.link) if entry.link else None
        if first is not None:
            with self._problem(place, name):
                source = self._places.open(first[0])
                try:
                    target = self._places.at(place)
                    os.link(
                        first[1],
                        name,
                        src_dir_fd=source,
                        dst_dir_fd=target,
                        follow_symlinks=False,
                    )
                finally:
                    os.close(source)
            return
        with self._problem(place, name):
            if entry.kind is Kind.FILE:
                os.close(os.open(name, _CREATE, 0o600, dir_fd=self._places.at(place)))
                self._files.append(_Made(place, name, entry))
            else:
                self._special(place, name, entry)
            if entry.link:
                self._links.put(entry.link, place, name)
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
        opened: list[tuple[int, _Made]] = []
        try:
            for made in batch:
                with self._problem(made.place, made.name, made):
                    fd = os.open(made.name, _OPEN, dir_fd=self._places.at(made.place))
                    opened.append((fd, made))
                    os.ftruncate(fd, made.entry.size)  # what is not written stays a hole
            small = [(fd, made) for fd, made in opened if made.entry.content is None]
            self._write(
                (made, fd, segment) for fd, made in small for segment in made.entry.segments
            )
            for fd, made in opened:
                if made.entry.content is None:
                    continue
                segments = segments_of(self._tree, made.entry)
                while not made.failed and (some := list(islice(segments, _BATCH_SEGMENTS))):
                    self._write((made, fd, segment) for segment in some)
            for fd, made in opened:
                if not made.failed:
                    with self._problem(made.place, made.name, made):
                        self._finish(fd, made.place, made.name, made.entry)
        finally:
            for fd, _ in opened:
                os.close(fd)

    def _write(self, segments: Iterable[tuple[_Made, int, Segment]]) -> None:
        where: dict[bytes, list[tuple[_Made, int, Segment]]] = {}
        for item in segments:
            where.setdefault(item[2].chunk, []).append(item)
        errors: dict[int, tuple[_Made, OSError]] = {}
        guard = threading.Lock()

        def write(chunk: bytes, data: bytes) -> None:
            for made, fd, segment in where[chunk]:
                if len(data) != segment.length:
                    raise Damaged(f"Chunk {chunk.hex()}", "its length is not the file's")
                try:
                    _write_at(fd, data, segment.offset)
                except OSError as error:
                    if error.errno in _NOTHING_CAN_BE_WRITTEN:
                        raise
                    with guard:
                        errors[fd] = made, error

        self._reader.each(where, write)
        for made, error in errors.values():
            with self._problem(made.place, made.name, made):
                raise error

    def _walk(self, top: Entry) -> Listing:
        """Set what directories have, and list what is there."""
        listing, now = Listing(), time.time_ns()
        listing.enter(encode_head(b"", top))
        above = [_Open(b"", top, entries_of(self._tree, top.content or b""))]
        while above:
            inner = above[-1]
            for name, entry in inner.left:
                if entry.kind is not Kind.DIRECTORY:
                    self._list(listing, inner.place, name, entry, now)
                elif self._status(inner.place, name) is not None:
                    listing.enter(encode_head(name, entry))
                    place = _joined(inner.place, name)
                    content = entries_of(self._tree, entry.content or b"")
                    above.append(_Open(place, entry, content))
                    break
            else:
                above.pop()
                listing.leave()
                place, _, name = inner.place.rpartition(b"/")
                with self._problem(place, name):
                    self._finish(self._places.at(inner.place), place, name, inner.entry)
        return listing

    def _list(self, listing: Listing, place: bytes, name: bytes, entry: Entry, now: int) -> None:
        status = self._status(place, name)
        if status is None:
            return
        if entry.link in self._failed:  # it was made before the content could not be written
            with suppress(OSError):
                os.unlink(name, dir_fd=self._places.at(place))
            self._is_link_to_nothing(place, name, entry)
            return
        head, pieces = encode_head(name, entry), NOTHING
        if entry.kind is Kind.FILE:
            pieces = self._pieces(listing, entry)
        else:
            head += encode_tail(entry)
        # Link numbers are inode numbers of a node.
        head = with_link(head, status.st_ino) if entry.link else head
        listing.leaf(settled(key_of(status), now), head, pieces)

    def _pieces(self, listing: Listing, entry: Entry) -> Pieces:
        gathered = listing.gather()
        for segment in segments_of(self._tree, entry):
            gathered.add(piece_of(segment))
        return gathered.pieces()

    def _status(self, place: bytes, name: bytes) -> os.stat_result | None:
        """None of what is not there: that is a problem which is noted already."""
        try:
            return os.stat(name, dir_fd=self._places.at(place), follow_symlinks=False)
        except FileNotFoundError:
            return None

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
                self._problems.note(Skipped(_joined(place, name), why))

    @contextmanager
    def _problem(self, place: bytes, name: bytes, made: _Made | None = None) -> Iterator[None]:
        """Make a failure inside a problem of the entry `name` in `place`, unless it means that
        nothing can be written. With `made`, what is there of the file is removed.
        """
        try:
            yield
        except OSError as error:
            if error.errno in _NOTHING_CAN_BE_WRITTEN:
                raise
            self._problems.note(Skipped(_joined(place, name), error.strerror or str(error)))
            if made is not None:
                made.failed = True
                with suppress(OSError):
                    os.unlink(name, dir_fd=self._places.at(place))
                if made.entry.link:
                    self._failed[made.entry.link] = _joined(place, name)

    def _is_link_to_nothing(self, place: bytes, name: bytes, entry: Entry) -> None:
        why = f"it is a link to {os.fsdecode(self._failed[entry.link])}"
        self._problems.note(Skipped(_joined(place, name), why))


def _put(queue: Scratch, place: bytes, directory: Entry) -> None:
    queue.append(_QUEUED.pack(len(place), directory.content or b"") + place)


def _take(queue: Scratch, at: int) -> tuple[list[tuple[bytes, bytes]], int]:
    """Directories (path, object) from `at` on, and where the next ones are."""
    batch: list[tuple[bytes, bytes]] = []
    while at < queue.size and len(batch) < _BATCH_DIRECTORIES:
        length, content = _QUEUED.unpack(queue.read(at, _QUEUED.size))
        batch.append((queue.read(at + _QUEUED.size, length), content))
        at += _QUEUED.size + length
    return batch, at


def _joined(place: bytes, name: bytes) -> bytes:
    return place + b"/" + name if place else name


def _write_at(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
