"""Taking a session's archive from the gateway: to a file that is whole or not there."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, Self
from urllib.parse import quote

from sessionkeeper.archive import FORMATS
from sessionkeeper.cli import api
from sessionkeeper.errors import DiskFull, SessionkeeperError, Unavailable, UsageError
from sessionkeeper.sizes import spelled_size
from sessionkeeper.up.state import StateDirectory

__all__ = ["Progress", "kind_of", "to_file", "to_stream"]

_PIECE = 256 << 10
_SECONDS = 600.0
"""Without a byte: a checkpoint is made first."""
_SHOWN_EVERY = 0.2

Format = Literal["tar.gz", "zip"]


def kind_of(output: str | None, said: str | None) -> Format:
    """The format that was asked for, or that the name of the file says."""
    for kind in FORMATS:
        if kind in (said, "zip" if output and output.endswith(".zip") and not said else None):
            return kind
    return "tar.gz"


class Progress:
    """How much has come, on a terminal; nothing elsewhere."""

    def __init__(self, session: str) -> None:
        self._session = session
        self._shown = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def show(self, size: int) -> None:
        """So many bytes have come."""
        now = time.monotonic()
        if sys.stderr.isatty() and now - self._shown >= _SHOWN_EVERY:
            self._shown = now
            words = f"\r\x1b[Kexporting {self._session}: {spelled_size(size)}"
            print(words, end="", file=sys.stderr, flush=True)


def to_file(
    state: StateDirectory,
    session: str,
    kind: Format,
    saved: bool,
    path: Path,
    force: bool,
    progress: Callable[[int], None] = lambda size: None,
) -> int:
    """Have the archive at `path`; its size in bytes. `path` is as it was until all of it is there.

    Raises UsageError when something is there already and it is not `force`d, DiskFull, and as
    `to_stream`.
    """
    if not force and os.path.lexists(path):
        raise UsageError(f"{path} exists", hint="--force replaces it, --output names another one")
    try:
        with _temporary(path) as part:
            with part.open("wb") as out:
                size = to_stream(state, session, kind, saved, out, progress)
                out.flush()
                os.fsync(out.fileno())
            if force:
                part.replace(path)
            else:
                _place(part, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"{path} could not be written: {error.strerror}") from error
        raise SessionkeeperError(f"{path} could not be written: {error.strerror}") from error
    return size


def to_stream(
    state: StateDirectory,
    session: str,
    kind: Format,
    saved: bool,
    out: BinaryIO,
    progress: Callable[[int], None] = lambda size: None,
) -> int:
    """Write the archive to `out`; its size in bytes. Raises Unavailable when it ends in the middle,
    what the gateway says, and OSError when `out` cannot be written to.
    """
    path = f"/sessions/{quote(session, safe='')}/export?format={kind}&saved={int(saved)}"
    size = 0
    for piece in _pieces(state, path):
        out.write(piece)
        size += len(piece)
        progress(size)
    return size


def _pieces(state: StateDirectory, path: str) -> Iterator[bytes]:
    with api.streamed(state, path, _SECONDS) as answer:
        while True:
            try:
                piece = answer.read(_PIECE)
            except (OSError, http.client.HTTPException) as error:
                why = str(error) or type(error).__name__
                raise Unavailable(f"the archive ended in the middle: {why}") from None
            if not piece:
                return
            yield piece


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A file beside `path`, gone in the end."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _place(part: Path, path: Path) -> None:
    """Give it its name, if nobody else has it by now."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise UsageError(f"{path} exists by now", hint="--force replaces it") from None
    except OSError:  # a file system without hard links
        part.replace(path)
