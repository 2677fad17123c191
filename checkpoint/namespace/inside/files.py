"""Open files: what is needed to open each again at its position, without ever changing it."""

from __future__ import annotations

import io
import os
import stat
from typing import Any

from . import rebuild

KINDS = (io.TextIOWrapper, io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.FileIO)


class Unsaved(Exception):
    """An open file that cannot be opened again; the message says why."""


def reduce(file: Any) -> tuple[tuple[Any, ...], str | None]:
    """What opens ``file`` again, and how that differs from the original (None: not at all).

    A file open for writing is flushed, so that its position and the file in the workspace belong
    together; nothing else of it is touched. Raises :class:`Unsaved`.
    """
    text = isinstance(file, io.TextIOWrapper)
    try:
        raw = file
        while not isinstance(raw, io.FileIO):
            raw = raw.buffer if isinstance(raw, io.TextIOWrapper) else raw.raw
        path, mode = raw.name, _mode(file, raw)
    except (AttributeError, ValueError) as error:
        raise Unsaved("it does not stand for a file with a path") from error
    buffering = 0 if isinstance(file, io.FileIO) else -1
    options: dict[str, Any] = {}
    if text:
        options = {"encoding": file.encoding, "errors": file.errors}
        options["line_buffering"] = file.line_buffering
    if file.closed:
        return (rebuild.closed_file, (path, mode, options, buffering)), None
    if isinstance(path, int):
        raise Unsaved("it was opened by descriptor and has no path")
    status = os.fstat(raw.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise Unsaved("it is a pipe, terminal or device, not a regular file")
    name = path.decode("utf-8", "surrogateescape") if isinstance(path, bytes) else path
    cwd = _relative_to(os.fspath(name), raw.fileno())
    try:
        there = os.stat(os.path.join(cwd, name))
    except OSError as error:
        raise Unsaved("the file was deleted or renamed while open") from error
    if (there.st_dev, there.st_ino) != (status.st_dev, status.st_ino):
        raise Unsaved("another file has its path now")
    if file.writable():
        file.flush()
    try:
        position = file.tell()
    except OSError as error:
        raise Unsaved(
            "Python does not tell a text file's position between two lines of `for line in file`"
        ) from error
    if text and file.readable() and _has_carriage_return(raw.fileno()):
        raise Unsaved(
            "its lines end in carriage returns, and Python does not tell how they are to be read"
        )
    size = os.fstat(raw.fileno()).st_size
    args = (name, cwd, mode, position, size, options, buffering)
    writing = " for writing, not truncated," if file.writable() else ""
    return (rebuild.open_file, args), f"file opened again{writing} at position {position}"


def _mode(file: Any, raw: io.FileIO) -> str:
    if not isinstance(file, io.TextIOWrapper):
        return str(file.mode)
    return str(getattr(file, "mode", None) or raw.mode.replace("b", ""))


def _relative_to(name: str, descriptor: int) -> str:
    """The working directory when the file was opened, which may be another one now."""
    real = os.readlink(f"/proc/self/fd/{descriptor}")
    relative = f"/{os.path.normpath(name)}"
    return real.removesuffix(relative) or "/" if real.endswith(relative) else os.getcwd()


def _has_carriage_return(descriptor: int) -> bool:
    """Whether the file holds ``\\r``: then its unknown ``newline=`` would matter for reading."""
    offset = 0
    while block := os.pread(descriptor, 1 << 20, offset):
        if b"\r" in block:
            return True
        offset += len(block)
    return False
