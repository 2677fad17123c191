"""Scanning a directory: what did not change since the last scan is neither read nor written.

A file is unchanged when inode, size, mtime and ctime are, and its ctime lay safely before the
moment it was read: time stamps advance in ticks of some milliseconds, so a file read in the tick
of its last change may change again without a trace. Writes through a shared mapping also leave
none while the page is dirty: name such files in `reread`.

A file that changes while it is read is read again, a few times; when it never stands still it is
in `Tree.torn`.

The tree may belong to somebody who changes it meanwhile, so every step is taken relative to an
open directory and follows no symbolic link.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import NamedTuple

from checkpoint.chunks import chunk_id
from checkpoint.errors import FileTreeError
from checkpoint.files import ignore
from checkpoint.files.content import pieces_of, xattrs_of
from checkpoint.files.key import inode_of, key_of, settled
from checkpoint.files.pending import Pending, Spill
from checkpoint.files.scanned import Directory, Leaf, Skipped, Tree
from checkpoint.files.tree import KIND_OF_MODE, Entry, Kind, Segment
from checkpoint.writer import Writer

SOCKET = "sockets cannot be saved"
_ATTEMPTS = 3  # at reading a file that changes meanwhile
_AGAIN_BYTES = 16 << 20  # a larger one is read once
_COMPARE_BYTES = 1 << 20  # a changed file above this is compared piece by piece before it is copied
_MAX_DEPTH = 250
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def scan(
    root: str | os.PathLike[str],
    previous: Tree | None,
    writer: Writer,
    *,
    copy: bool = False,
    exclude: AbstractSet[bytes] = frozenset(),
    reread: AbstractSet[bytes] = frozenset(),
    in_use: AbstractSet[bytes] = frozenset(),
    spill: str | os.PathLike[str] | None = None,
) -> Tree:
    """The tree below `root`, reading the files that changed since `previous`.

    Contents go into `writer` as they are read; with `copy` they are copied instead, into memory
    and above 64 MiB into an unnamed file in the directory `spill`, until `Tree.store`. The tree is
    consistent if nothing changes during the scan. `exclude`, `reread` and `in_use` are paths
    relative to `root`: what is left out with all below it, what is read even if it looks unchanged,
    and files that are saved whatever a `.sessionkeeperignore` says (a process has them open, and
    cannot be restored without). Sockets, other file systems mounted below, and what cannot be read
    are left out and listed in `skipped`.

    Raises `FileTreeError` when `root` is no directory, and what the writer raises.
    """
    try:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise FileTreeError(f"{os.fspath(root)} cannot be read: {error.strerror}.") from error
    try:
        before = previous.root if previous else None
        aside = Spill(spill) if copy else None
        scanner = _Scanner(writer, aside, exclude, reread, in_use, os.fstat(fd), before)
        directory = scanner.directory(fd, b"", before, _Place(0, (), False))
    finally:
        os.close(fd)
    return Tree(
        directory,
        scanner.skipped,
        scanner.ignored,
        scanner.torn,
        scanner.read_bytes,
        scanner.copied_bytes,
    )


class _Place(NamedTuple):
    """Where a scan is: how deep, what rules count there, and whether they leave it out as a whole
    but for what is in use.
    """

    depth: int
    rules: tuple[ignore.Rules, ...]
    left_out: bool


class _Scanner:
    def __init__(
        self,
        writer: Writer,
        spill: Spill | None,
        exclude: AbstractSet[bytes],
        reread: AbstractSet[bytes],
        in_use: AbstractSet[bytes],
        root: os.stat_result,
        previous: Directory | None,
    ) -> None:
        self.skipped: list[Skipped] = []
        self.ignored: list[bytes] = []
        self.torn: list[bytes] = []
        self.read_bytes = self.copied_bytes = 0
        self._writer = writer
        self._spill = spill
        self._exclude = exclude
        self._reread = reread
        self._in_use = {*in_use, *(above for path in in_use for above in _above(path))}
        self._device = root.st_dev
        self._links: dict[int, Leaf] = {}
        self._previous = previous
        self._large: dict[int, Leaf] | None = None

    def directory(self, fd: int, path: bytes, before: Directory | None, at: _Place) -> Directory:
        entry = replace(Entry.of(os.fstat(fd), Kind.DIRECTORY), xattrs=xattrs_of(fd))
        with os.scandir(fd) as iterator:
            names = sorted(os.fsencode(item.name) for item in iterator)
        if ignore.NAME in names:
            at = at._replace(rules=(*at.rules, *self._rules(fd, path)))
        known = before.children if before else {}
        children: dict[bytes, Leaf | Directory] = {}
        for name in names:
            below = path + b"/" + name if path else name
            if below in self._exclude:
                continue
            try:
                child = self._child(fd, name, below, known.get(name), at)
            except FileNotFoundError:
                continue  # removed meanwhile
            except OSError as error:
                self.skipped.append(Skipped(below, error.strerror or str(error)))
                continue
            if child is not None:
                children[name] = child
        if before is not None and before.entry == entry and before.children == children:
            return before
        return Directory(entry, children)

    def _rules(self, fd: int, path: bytes) -> tuple[ignore.Rules, ...]:
        """What the directory's ignore file says; what of it does not count is among the skipped."""
        where = path + b"/" + ignore.NAME if path else ignore.NAME
        try:
            rules = ignore.read_rules(fd, path)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            self.skipped.append(Skipped(where, f"nothing is ignored: {why}"))
            return ()
        self.skipped += [Skipped(where, reason) for reason in rules.refused]
        return (rules,)

    def _child(
        self, fd: int, name: bytes, path: bytes, before: Leaf | Directory | None, at: _Place
    ) -> Leaf | Directory | None:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        kind = KIND_OF_MODE.get(stat.S_IFMT(status.st_mode))
        directory = kind is Kind.DIRECTORY
        left_out = at.left_out or ignore.left_out(at.rules, path, directory=directory)
        if left_out and path not in self._in_use:
            self.ignored.append(path)
            return None
        if kind is None:
            self.skipped.append(Skipped(path, SOCKET))
            return None
        if kind is Kind.DIRECTORY:
            if status.st_dev != self._device or at.depth >= _MAX_DEPTH:
                why = "another file system" if at.depth < _MAX_DEPTH else "nested too deep"
                self.skipped.append(Skipped(path, why))
                return None
            inner = os.open(name, _DIRECTORY, dir_fd=fd)
            try:
                known = before if isinstance(before, Directory) else None
                return self.directory(inner, path, known, _Place(at.depth + 1, at.rules, left_out))
            finally:
                os.close(inner)
        leaf = before if isinstance(before, Leaf) else None
        return self._leaf(fd, name, path, kind, status, leaf)

    def _leaf(
        self,
        fd: int,
        name: bytes,
        path: bytes,
        kind: Kind,
        status: os.stat_result,
        before: Leaf | None,
    ) -> Leaf:
        key = key_of(status)
        linked = status.st_nlink > 1
        if linked and (seen := self._links.get(status.st_ino)) is not None:
            return seen
        if (
            before is not None
            and before.key == key
            and (before.entry.link != 0) == linked
            and path not in self._reread
            and self._held(before)
        ):
            leaf = before
        elif kind is Kind.FILE:
            leaf = self._file(fd, name, path, before)
        else:
            leaf = self._special(fd, name, kind, status)
        if linked:
            if leaf.entry.link != status.st_ino:
                entry = replace(leaf.entry, link=status.st_ino)
                leaf = Leaf(entry, leaf.key, leaf.pending, leaf.listed)
            self._links[status.st_ino] = leaf
        return leaf

    def _held(self, leaf: Leaf) -> bool:
        """Whether the contents may be kept:

        not when the checkpoint they were added to was aborted.
        """
        return self._writer.holds(segment.chunk for segment in leaf.entry.segments)

    def _special(self, fd: int, name: bytes, kind: Kind, status: os.stat_result) -> Leaf:
        path = b"/proc/self/fd/%d/%s" % (fd, name)
        target = os.readlink(name, dir_fd=fd) if kind is Kind.SYMLINK else b""
        rdev = status.st_rdev if kind in (Kind.CHARACTER, Kind.BLOCK) else 0
        entry = replace(Entry.of(status, kind), rdev=rdev, target=target, xattrs=xattrs_of(path))
        return Leaf(entry, settled(key_of(status), time.time_ns()))

    def _file(self, directory: int, name: bytes, path: bytes, before: Leaf | None) -> Leaf:
        fd = os.open(name, _FILE, dir_fd=directory)
        try:
            for _ in range(_ATTEMPTS):
                leaf, still = self._read(fd, before)
                if still:
                    return leaf
                if leaf.entry.size > _AGAIN_BYTES:
                    break
        finally:
            os.close(fd)
        self.torn.append(path)
        return leaf

    def _read(self, fd: int, before: Leaf | None) -> tuple[Leaf, bool]:
        """The open file, and whether it stood still meanwhile."""
        started = time.time_ns()
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError  # replaced meanwhile
        entry = replace(Entry.of(status, Kind.FILE), size=status.st_size, xattrs=xattrs_of(fd))
        leaf = Leaf(entry, None)
        known = self._known(status, before)
        segments: list[Segment] = []
        pending: list[Pending] = []
        for offset, data in pieces_of(fd, status):
            self.read_bytes += len(data)
            segment = self._segment(pending, offset, data, known)
            if segment is not None:
                segments.append(segment)
        leaf.entry, leaf.pending = replace(entry, segments=tuple(segments)), tuple(pending)
        still = key_of(os.fstat(fd)) == key_of(status)
        if still:
            leaf.key = settled(key_of(status), started)
        return leaf, still

    def _known(self, status: os.stat_result, before: Leaf | None) -> dict[int, Segment]:
        """What a large file had, under whatever name: most of it can be compared, not copied."""
        if self._spill is None or status.st_size < _COMPARE_BYTES or self._previous is None:
            return {}
        if self._large is None:
            leaves = self._previous.leaves()
            large = (leaf for leaf in leaves if leaf.entry.size >= _COMPARE_BYTES)
            self._large = {inode_of(leaf.key): leaf for leaf in large if leaf.key}
        before = self._large.get(status.st_ino, before)
        return {segment.offset: segment for segment in before.entry.segments} if before else {}

    def _segment(
        self, pending: list[Pending], offset: int, data: bytes, known: dict[int, Segment]
    ) -> Segment | None:
        """The piece as a segment, or None when it was copied for later."""
        if self._spill is None:
            return Segment(offset, len(data), self._writer.add(data))
        old = known.get(offset)
        if old is not None and old.length == len(data):
            name = chunk_id(self._writer.keys, data)
            if name == old.chunk and self._writer.holds([name]):
                return old
        pending.append(self._spill.keep(offset, data))
        self.copied_bytes += len(data)
        return None


def _above(path: bytes) -> Iterator[bytes]:
    """The directories that `path` is in."""
    while path := path.rpartition(b"/")[0]:
        yield path
