"""A workspace without compute: the newest checkpoint's files with the recorded writes on top.

Nothing is copied: a directory's entries are read from the store when somebody looks, and a
write points at the bytes in the write journal.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from sessionkeeper.agent.errors import FileRefused
from sessionkeeper.agent.workspace import parts
from sessionkeeper.keeper.writes import Write


@dataclass(frozen=True)
class Stat:
    """What the file browser needs of an entry: of what it leads to, if it is a ``link``.

    ``mtime`` in Unix seconds, ``size`` in bytes.
    """

    name: str
    kind: str
    size: int
    mtime: float
    writable: bool = True
    link: bool = False


class Base(Protocol):
    """The files of a checkpoint, by path relative to the workspace."""

    def entries(self, path: str) -> list[Stat]:
        """Return what the directory ``path`` holds."""
        ...

    def read(self, path: str, start: int, length: int) -> bytes:
        """Return up to ``length`` bytes of the file ``path`` from ``start``."""
        ...


BROKEN_LINK = "symlink-broken"
Read = Callable[[int, int], bytes]


@dataclass
class _File:
    stat: Stat
    pieces: list[tuple[int, Read]]  # (size, how to read it), one after the other
    origin: str | None = None  # the file of the base that it is, or was before it was written to
    changed: bool = False


@dataclass
class _Directory:
    stat: Stat
    source: str | None  # in the base, as long as its entries were not looked at
    entries: dict[str, _Node] = field(default_factory=dict)
    origin: str | None = None  # in the base, wherever it is by now


_Node = _File | _Directory


@dataclass(frozen=True)
class Found:
    """An entry of the workspace at ``path``. What the base has of it, as to its mode and where a
    link leads, is at ``origin`` there (None: nothing). ``pieces``: what it holds, with the size of
    each piece, if that is not all of ``origin`` as it is.
    """

    path: str
    stat: Stat
    origin: str | None
    pieces: tuple[tuple[int, Read], ...] | None = None


class StoredWorkspace:
    """Reading a workspace that no node holds. Calls may read from the blob store, and block.

    Raises :class:`FileRefused` as a live workspace does.
    """

    def __init__(
        self, base: Base | None, writes: Iterable[Write], data: Callable[[Write], Read]
    ) -> None:
        self._base = base
        root = Stat("", "directory", 0, time.time())
        self._root = _Directory(root, "" if base else None)
        self._data = data
        for write in writes:
            self._make_way(write)
            with contextlib.suppress(FileRefused):  # a node leaves it out, too
                self.apply(write)

    def stat(self, path: str) -> Stat:
        return self._find(path).stat

    def list(self, path: str) -> list[Stat]:
        node = self._find(path)
        if not isinstance(node, _Directory):
            raise FileRefused(f"{path}: not a directory", "not_a_directory")
        return sorted((n.stat for n in self._load(node).values()), key=lambda s: s.name)

    def read(self, path: str, start: int, length: int) -> bytes:
        node = self._find(path)
        if not isinstance(node, _File):
            raise FileRefused(f"{path}: is a directory", "is_a_directory")
        if node.stat.kind == BROKEN_LINK:
            raise FileRefused(f"{path}: leads to nothing", "not_found")
        found, offset = [], 0
        for size, read in node.pieces:
            begin, end = max(start - offset, 0), min(start + length - offset, size)
            if begin < end:
                found.append(read(begin, end - begin))
            offset += size
        return b"".join(found)

    def walk(self) -> Iterator[Found]:
        """Yield everything there is, a directory before what is in it. Links are not followed."""
        waiting: list[tuple[str, _Node]] = [("", self._root)]
        while waiting:
            path, node = waiting.pop()
            if path:
                pieces = tuple(node.pieces) if isinstance(node, _File) and node.changed else None
                yield Found(path, node.stat, node.origin, pieces)
            if isinstance(node, _Directory) and not node.stat.link:
                entries = sorted(self._load(node).items(), reverse=True)
                waiting += ((f"{path}/{name}" if path else name, one) for name, one in entries)

    def apply(self, write: Write) -> None:
        """Do what ``write`` says, in this view. Raises :class:`FileRefused` and changes nothing if
        it cannot be done.
        """
        parent, name = self._parent(write.path)
        if write.operation in {"write", "append"}:
            self._write(parent, name, write)
        elif write.operation == "mkdir":
            self._vacant(parent, name, write.path)
            parent[name] = _Directory(Stat(name, "directory", 0, write.at), None)
        elif write.operation == "delete":
            node = self._node(parent, name, write.path)
            whole = write.recursive or node.stat.link
            if isinstance(node, _Directory) and self._load(node) and not whole:
                raise FileRefused(f"{write.path}: the directory is not empty", "not_empty")
            del parent[name]
        else:
            node, to = self._node(parent, name, write.path), write.to or ""
            if write.operation == "copy" and isinstance(node, _Directory):
                raise FileRefused(f"{write.path}: is a directory", "is_a_directory")
            target, new = self._parent(to)
            self._vacant(target, new, to)
            if parts(to)[: len(parts(write.path))] == parts(write.path):
                raise FileRefused(f"{to}: is inside of {write.path}", "refused")
            stat = dataclasses.replace(node.stat, name=new)
            target[new] = dataclasses.replace(node, stat=stat)
            if write.operation == "rename":
                del parent[name]

    def _make_way(self, write: Write) -> None:
        """Have the directories there that a write was done in: what was saved there is kept."""
        if write.operation == "delete":
            return
        node: _Node = self._root
        for part in parts(write.to or write.path)[:-1]:
            if not isinstance(node, _Directory):
                return
            made = _Directory(Stat(part, "directory", 0, write.at), None)
            node = self._load(node).setdefault(part, made)

    def _write(self, parent: dict[str, _Node], name: str, write: Write) -> None:
        before = parent.get(name)
        append = write.operation == "append"
        if before is not None and before.stat.link:
            if append:
                raise FileRefused(f"{write.path}: is a symbolic link", "refused")
        elif isinstance(before, _Directory):
            raise FileRefused(f"{write.path}: is a directory", "is_a_directory")
        size = write.size or 0
        pieces = [(size, self._data(write))]
        if append and isinstance(before, _File):
            pieces = before.pieces + pieces
        total = sum(size for size, _ in pieces)
        origin = before.origin if isinstance(before, _File) else None
        parent[name] = _File(Stat(name, "file", total, write.at), pieces, origin, changed=True)

    def _load(self, directory: _Directory) -> dict[str, _Node]:
        if directory.source is not None and self._base is not None:
            source, directory.source = directory.source, None
            for stat in self._base.entries(source):
                directory.entries[stat.name] = self._from_base(stat, source)
        return directory.entries

    def _from_base(self, stat: Stat, parent: str) -> _Node:
        path = f"{parent}/{stat.name}" if parent else stat.name
        if stat.kind == "directory":
            return _Directory(stat, path, origin=path)
        base = self._base
        assert base is not None
        return _File(stat, [(stat.size, lambda start, n: base.read(path, start, n))], path)

    def _find(self, path: str) -> _Node:
        node: _Node = self._root
        for part in parts(path):
            if not isinstance(node, _Directory):
                raise FileRefused(f"{path}: not a directory", "not_a_directory")
            node = self._node(self._load(node), part, path)
        return node

    def _parent(self, path: str) -> tuple[dict[str, _Node], str]:
        *above, name = parts(path) or [""]
        if not name:
            raise FileRefused("the workspace itself cannot be changed", "refused")
        node = self._find("/".join(above))
        if not isinstance(node, _Directory):
            raise FileRefused(f"{'/'.join(above)}: not a directory", "not_a_directory")
        return self._load(node), name

    def _node(self, entries: dict[str, _Node], name: str, path: str) -> _Node:
        try:
            return entries[name]
        except KeyError:
            raise FileRefused(f"{path}: no such file or directory", "not_found") from None

    def _vacant(self, entries: dict[str, _Node], name: str, path: str) -> None:
        if name in entries:
            raise FileRefused(f"{path}: already exists", "exists")
