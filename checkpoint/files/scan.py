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
import sqlite3
import stat
import time
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from checkpoint.chunks import chunk_id
from checkpoint.errors import FileTreeError
from checkpoint.files import ignore, scanned
from checkpoint.files.content import pieces_of, xattrs_of
from checkpoint.files.key import key_of, settled
from checkpoint.files.listing import (
    DIRECTORY,
    LEAF,
    NOTHING,
    UNSTORED,
    Cursor,
    Listing,
    Pieces,
    Record,
    chunk_of,
    piece_of,
)
from checkpoint.files.once import LargeFiles, Links
from checkpoint.files.scanned import Skipped, Tree
from checkpoint.files.tree import (
    KIND_OF_MODE,
    MAX_ENTRY,
    Entry,
    Kind,
    Segment,
    encode_head,
    encode_tail,
    link_in,
    with_link,
    with_name,
)
from checkpoint.scratch import Scratch, database, no_room
from checkpoint.writer import Writer

SOCKET = "sockets cannot be saved"
_ATTEMPTS = 3  # at reading a file that changes meanwhile
_AGAIN_BYTES = 16 << 20  # a larger one is read once
_COMPARE_BYTES = 1 << 20  # a changed file above this is compared piece by piece before it is copied
_MAX_DEPTH = 250
_MANY_NAMES = 50_000  # in one directory; more are sorted on disk
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

    Memory does not grow with the tree (`checkpoint.files.listing`). Raises `FileTreeError` when
    `root` is no directory, `StoreFull` when this machine's disk is full, and what the writer
    raises.
    """
    held = writer.round
    try:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise FileTreeError(f"{os.fspath(root)} cannot be read: {error.strerror}.") from error
    try:
        aside = Scratch("What is copied of changed files", scanned.COPIED_IN_MEMORY, spill)
        scanner = _Scanner(
            writer, aside if copy else None, exclude, reread, in_use, os.fstat(fd), previous
        )
        before = Cursor(previous.listing) if previous is not None else None
        found = before is not None and before.find(b"") is not None
        scanner.directory(fd, b"", b"", before, found, _Place(0, (), False))
    finally:
        os.close(fd)
    tree = scanner.tree
    tree.copies = aside
    tree.round = held if writer.round == held else None
    return tree


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
        copies: Scratch | None,
        exclude: AbstractSet[bytes],
        reread: AbstractSet[bytes],
        in_use: AbstractSet[bytes],
        root: os.stat_result,
        previous: Tree | None,
    ) -> None:
        self.tree = Tree(Listing())
        self._listing = self.tree.listing
        self._writer = writer
        self._copies = copies
        self._exclude = exclude
        self._reread = reread
        self._in_use = {*in_use, *(above for path in in_use for above in _above(path))}
        self._device = root.st_dev
        self._links = Links()
        self._held_since = previous.round if previous is not None else None
        self._large = LargeFiles(previous.listing if previous else Listing(), _COMPARE_BYTES)

    def directory(
        self, fd: int, name: bytes, path: bytes, before: Cursor | None, found: bool, at: _Place
    ) -> None:
        """Add the open directory, which `before` has found if `found`, and what is in it."""
        entry = replace(Entry.of(os.fstat(fd), Kind.DIRECTORY), xattrs=xattrs_of(fd))
        head = _checked(encode_head(name, entry))
        names, has_rules = _names(fd)
        if before is not None and found:
            before.enter()
        else:
            before = None
        if has_rules:
            at = at._replace(rules=(*at.rules, *self._rules(fd, path)))
        self._listing.enter(head)
        for one in names:
            below = path + b"/" + one if path else one
            if below in self._exclude:
                continue
            record = before.find(one) if before is not None else None
            try:
                self._child(fd, one, below, before, record, at)
            except FileNotFoundError:
                pass  # removed meanwhile
            except OSError as error:
                self.tree.skipped.note(Skipped(below, error.strerror or str(error)))
            if before is not None and before.at(record):
                before.skip()
        self._listing.leave()
        if before is not None:
            before.leave()

    def _rules(self, fd: int, path: bytes) -> tuple[ignore.Rules, ...]:
        """What the directory's ignore file says; what of it does not count is among the skipped."""
        where = path + b"/" + ignore.NAME if path else ignore.NAME
        try:
            rules = ignore.read_rules(fd, path)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            self.tree.skipped.note(Skipped(where, f"nothing is ignored: {why}"))
            return ()
        for reason in rules.refused:
            self.tree.skipped.note(Skipped(where, reason))
        return (rules,)

    def _child(
        self,
        fd: int,
        name: bytes,
        path: bytes,
        before: Cursor | None,
        record: Record | None,
        at: _Place,
    ) -> None:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        kind = KIND_OF_MODE.get(stat.S_IFMT(status.st_mode))
        directory = kind is Kind.DIRECTORY
        left_out = at.left_out or ignore.left_out(at.rules, path, directory=directory)
        if left_out and path not in self._in_use:
            self.tree.ignored.note(path)
        elif kind is None:
            self.tree.skipped.note(Skipped(path, SOCKET))
        elif not directory:
            known = record if record is not None and record.what in (LEAF, UNSTORED) else None
            self._leaf(fd, name, path, kind, status, known)
        elif status.st_dev != self._device or at.depth >= _MAX_DEPTH:
            why = "another file system" if at.depth < _MAX_DEPTH else "nested too deep"
            self.tree.skipped.note(Skipped(path, why))
        else:
            inner = os.open(name, _DIRECTORY, dir_fd=fd)
            try:
                found = record is not None and record.what == DIRECTORY
                place = _Place(at.depth + 1, at.rules, left_out)
                self.directory(inner, name, path, before, found, place)
            finally:
                os.close(inner)

    def _leaf(
        self,
        fd: int,
        name: bytes,
        path: bytes,
        kind: Kind,
        status: os.stat_result,
        before: Record | None,
    ) -> None:
        linked = status.st_nlink > 1
        if linked and (seen := self._links.get(status.st_ino)) is not None:
            self._listing.copy(seen._replace(head=with_name(seen.head, name)))
            return
        if (
            before is not None
            and before.what == LEAF
            and before.key == key_of(status)
            and (link_in(before.head) != 0) == linked
            and path not in self._reread
            and self._held(before)
        ):
            leaf = before
        elif kind is Kind.FILE:
            leaf = self._file(fd, name, path, before)
        else:
            leaf = self._special(fd, name, kind, status)
        if linked:
            leaf = leaf._replace(head=with_link(leaf.head, status.st_ino), raw=b"")
            self._links.put(status.st_ino, leaf)
        self._listing.copy(leaf)

    def _held(self, leaf: Record) -> bool:
        """Whether the contents may be kept:

        not when the checkpoint they were added to was aborted.
        """
        return self._all_held() or self._writer.holds(map(chunk_of, leaf.pieces.each()))

    def _all_held(self) -> bool:
        return self._held_since == self._writer.round

    def _special(self, fd: int, name: bytes, kind: Kind, status: os.stat_result) -> Record:
        path = b"/proc/self/fd/%d/%s" % (fd, name)
        target = os.readlink(name, dir_fd=fd) if kind is Kind.SYMLINK else b""
        rdev = status.st_rdev if kind in (Kind.CHARACTER, Kind.BLOCK) else 0
        entry = replace(Entry.of(status, kind), rdev=rdev, target=target, xattrs=xattrs_of(path))
        head = _checked(encode_head(name, entry) + encode_tail(entry))
        return Record(LEAF, settled(key_of(status), time.time_ns()), head, NOTHING)

    def _file(self, directory: int, name: bytes, path: bytes, before: Record | None) -> Record:
        fd = os.open(name, _FILE, dir_fd=directory)
        try:
            for _ in range(_ATTEMPTS):
                leaf, size, still = self._read(fd, name, before)
                if still:
                    return leaf
                if size > _AGAIN_BYTES:
                    break
        finally:
            os.close(fd)
        self.tree.torn.note(path)
        return leaf

    def _read(self, fd: int, name: bytes, before: Record | None) -> tuple[Record, int, bool]:
        """The open file, its size, and whether it stood still meanwhile."""
        started = time.time_ns()
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError  # replaced meanwhile
        entry = replace(Entry.of(status, Kind.FILE), size=status.st_size, xattrs=xattrs_of(fd))
        head = _checked(encode_head(name, entry))
        known = self._known(status, before)
        gathered = self._listing.gather()
        copied = self.tree.copied_bytes
        for offset, data in pieces_of(fd, status):
            self.tree.read_bytes += len(data)
            gathered.add(self._piece(offset, data, known))
        what = LEAF if self.tree.copied_bytes == copied else UNSTORED
        still = key_of(os.fstat(fd)) == key_of(status)
        key = settled(key_of(status), started) if still else None
        return Record(what, key, head, gathered.pieces()), status.st_size, still

    def _known(self, status: os.stat_result, before: Record | None) -> _Known | None:
        """What a large file had, under whatever name: most of it can be compared, not copied."""
        if self._copies is None or status.st_size < _COMPARE_BYTES:
            return None
        pieces = self._large.find(status.st_ino, before)
        return _Known(pieces) if pieces is not None else None

    def _piece(self, offset: int, data: bytes, known: _Known | None) -> bytes:
        if self._copies is None:
            return piece_of(Segment(offset, len(data), self._writer.add(data)))
        old = known.at(offset) if known is not None else None
        if old is not None and int.from_bytes(old[8:12], "little") == len(data):
            name = chunk_id(self._writer.keys, data)
            if name == chunk_of(old) and (self._all_held() or self._writer.holds([name])):
                return old
        self.tree.copied_bytes += len(data)
        return piece_of(Segment(offset, len(data), bytes(32)), self._copies.append(data))


class _Known:
    """The pieces that a file had, asked for by ascending offsets."""

    def __init__(self, pieces: Pieces) -> None:
        self._left = pieces.each()
        self._next = next(self._left, None)

    def at(self, offset: int) -> bytes | None:
        while self._next is not None:
            there = int.from_bytes(self._next[:8], "little")
            if there >= offset:
                return self._next if there == offset else None
            self._next = next(self._left, None)
        return None


def _names(fd: int) -> tuple[Iterator[bytes], bool]:
    """The names in a directory, sorted, and whether one of them is that of an ignore file."""
    with os.scandir(fd) as iterator:
        entries = (os.fsencode(item.name) for item in iterator)
        some = list(islice(entries, _MANY_NAMES))
        if len(some) < _MANY_NAMES:
            return iter(sorted(some)), ignore.NAME in some
        many = database()
        try:
            many.execute("CREATE TABLE name (name BLOB PRIMARY KEY) WITHOUT ROWID")
            many.executemany("INSERT OR IGNORE INTO name VALUES (?)", ((name,) for name in some))
            many.executemany("INSERT OR IGNORE INTO name VALUES (?)", ((name,) for name in entries))
            has = many.execute("SELECT 1 FROM name WHERE name = ?", (ignore.NAME,)).fetchone()
        except sqlite3.OperationalError as error:
            raise no_room("The list of files", error) from error
    return _sorted(many), has is not None


def _sorted(names: sqlite3.Connection) -> Iterator[bytes]:
    with closing(names):
        yield from (name for (name,) in names.execute("SELECT name FROM name ORDER BY name"))


def _checked(head: bytes) -> bytes:
    if len(head) > MAX_ENTRY:
        raise OSError("its extended attributes are too large")
    return head


def _above(path: bytes) -> Iterator[bytes]:
    """The directories that `path` is in."""
    while path := path.rpartition(b"/")[0]:
        yield path
