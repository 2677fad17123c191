"""The workspace in a checkpoint's file tree."""

from __future__ import annotations

import os
from collections.abc import Iterator

from checkpoint.errors import FileTreeError
from checkpoint.files import Entry, Kind, TreeView
from sessionkeeper.agent.errors import FileRefused
from sessionkeeper.keeper.stored import BROKEN_LINK, Stat

_KINDS = {Kind.DIRECTORY: "directory", Kind.FILE: "file"}


class StoredFiles:
    """The directory ``home`` of a checkpoint's tree, read from the store when somebody looks."""

    def __init__(self, view: TreeView, home: str) -> None:
        self._view = view
        self._home = home.strip("/")

    def entries(self, path: str) -> list[Stat]:
        try:
            found = self._view.list(self._inside(path))
        except FileTreeError as error:
            raise FileRefused(str(error), "not_found") from error
        return [self._stat(path, name, entry) for name, entry in found.items()]

    def read(self, path: str, start: int, length: int) -> bytes:
        try:
            return self._view.read(self._inside(path), start, length)
        except FileTreeError as error:
            raise FileRefused(str(error), "not_found") from error

    def entry(self, path: str) -> Entry:
        """What the tree has at `path` itself, links included. Raises `FileTreeError`."""
        return self._view.stat(self._inside(path))

    def stream(self, path: str) -> Iterator[bytes]:
        """All of a file, in pieces. Raises as `TreeView.stream`."""
        return self._view.stream(self._inside(path))

    def _stat(self, path: str, name: bytes, entry: Entry) -> Stat:
        kind = _KINDS.get(entry.kind, "other")
        link = entry.kind is Kind.SYMLINK
        if link:
            try:
                entry = self._view.stat(self._inside(path) + b"/" + name, follow=True)
            except FileTreeError:
                kind = BROKEN_LINK
            else:
                kind = _KINDS.get(entry.kind, "other")
        return Stat(os.fsdecode(name), kind, entry.size, entry.mtime_ns / 1e9, link=link)

    def _inside(self, path: str) -> bytes:
        return os.fsencode("/".join(p for p in (self._home, path.strip("/")) if p))
