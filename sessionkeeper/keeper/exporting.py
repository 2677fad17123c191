"""A session as an archive: its files, and a report of its variables.

It comes from the newest checkpoint with the recorded writes on top, so no compute is needed. What
is read is a few chunks at a time, by a thread of its own, as fast as who asked takes it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO

from checkpoint.errors import FileTreeError
from checkpoint.files import Kind
from sessionkeeper.archive import Member
from sessionkeeper.keeper.stored import BROKEN_LINK, Found, Read, StoredWorkspace
from sessionkeeper.keeper.stored_files import StoredFiles
from sessionkeeper.keeper.writes import Write, WriteJournal

PIECE = 1 << 20

FILES, VARIABLES, SESSION, LEFT_OUT = "files", "variables.json", "session.json", "left-out.json"
"""What is in an archive, below a directory with the session's name."""

_DIRECTORY, _FILE = 0o755, 0o644
"""Modes of what has none: it was made without a node."""


@dataclass
class Recorded:
    """The writes that a checkpoint does not contain, held open: they may be dropped meanwhile."""

    writes: list[Write]
    files: dict[int, BinaryIO] = field(default_factory=dict)

    @classmethod
    def after(cls, journal: WriteJournal, number: int) -> Recorded:
        """Those after the record ``number``."""
        found = cls(list(journal.after(number)))
        for write in found.writes:
            if write.size is not None:
                found.files[write.number] = journal.data(write.number).open("rb")
        return found

    def data(self, write: Write) -> Read:
        """How to read what was written."""
        file = self.files[write.number]

        def read(start: int, length: int) -> bytes:
            file.seek(start)
            return file.read(length)

        return read

    def close(self) -> None:
        for file in self.files.values():
            file.close()


def members(
    session: Mapping[str, Any],
    variables: Mapping[str, Any],
    base: StoredFiles | None,
    recorded: Recorded,
    *,
    same: bool,
) -> Iterator[Member]:
    """Yield what is in the archive of a session. With ``same``, a file of several names is there
    once. What cannot be in an archive is named in the last member. Blocks; raises what the store
    raises.
    """
    name, now = str(session["session"]), time.time()
    yield Member(name, "directory", _DIRECTORY, now)
    yield _json(f"{name}/{SESSION}", session, now)
    yield _json(f"{name}/{VARIABLES}", variables, now)
    yield Member(f"{name}/{FILES}", "directory", _DIRECTORY, now)
    view = StoredWorkspace(base, recorded.writes, recorded.data)
    linked: dict[int, str] = {}
    left_out: list[dict[str, str]] = []
    for found in view.walk():
        member = _member(f"{name}/{FILES}/{found.path}", found, base, linked if same else None)
        if member is not None:
            yield member
        elif len(left_out) < 10_000:
            left_out.append({"path": _shown(found.path), "why": f"it is a {found.stat.kind}"})
    if left_out:
        yield _json(f"{name}/{LEFT_OUT}", {"left_out": left_out}, now)


def _member(
    path: str, found: Found, base: StoredFiles | None, linked: dict[int, str] | None
) -> Member | None:
    stat, origin = found.stat, found.origin
    entry = None if base is None or origin is None else base.entry(origin)
    if found.pieces is not None or entry is None:
        mode = entry.mode if entry is not None and entry.kind is Kind.FILE else None
        if stat.kind == "directory":
            return Member(path, "directory", _DIRECTORY, stat.mtime)
        pieces = partial(_pieces, found.pieces or ())
        return Member(
            path, "file", _FILE if mode is None else mode, stat.mtime, stat.size, "", pieces
        )
    assert base is not None
    assert origin is not None
    mtime = entry.mtime_ns / 1e9
    if entry.kind is Kind.SYMLINK:
        return Member(
            path, "link", 0o777, mtime, target=entry.target.decode(errors="surrogateescape")
        )
    if entry.kind is Kind.DIRECTORY:
        return Member(path, "directory", entry.mode, mtime)
    if entry.kind is not Kind.FILE or stat.kind == BROKEN_LINK:
        return None
    if entry.link and linked is not None:
        first = linked.setdefault(entry.link, path)
        if first != path:
            return Member(path, "same", entry.mode, mtime, target=first)
    return Member(path, "file", entry.mode, mtime, entry.size, "", partial(base.stream, origin))


def _pieces(pieces: tuple[tuple[int, Read], ...]) -> Iterator[bytes]:
    for size, read in pieces:
        for start in range(0, size, PIECE):
            piece = read(start, min(PIECE, size - start))
            if not piece:
                raise FileTreeError("A file was cut off while it was read.")
            yield piece


def _json(path: str, content: Mapping[str, Any], now: float) -> Member:
    data = json.dumps(content, indent=1, ensure_ascii=False).encode(errors="replace")
    return Member(path, "file", _FILE, now, len(data) + 1, "", lambda: iter((data, b"\n")))


def _shown(path: str) -> str:
    return path.encode(errors="surrogateescape").decode(errors="replace")
