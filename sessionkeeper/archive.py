"""Files as one archive, written piece by piece to what takes bytes: `tar.gz`, or `zip`.

Nothing is looked up here: who calls says what is in it. A file is never in memory as a whole.
"""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["FORMATS", "Kind", "Member", "write"]

Format = Literal["tar.gz", "zip"]
FORMATS: tuple[Format, ...] = ("tar.gz", "zip")
Kind = Literal["directory", "file", "link", "same"]

LEVEL = 6
BUFFER = 256 << 10
"""Bytes that are passed on together."""

_EARLIEST = 315532800.0  # 1980: a zip knows nothing before


def _nothing() -> Iterator[bytes]:
    return iter(())


@dataclass(frozen=True)
class Member:
    """An entry at `path`. `mtime` in Unix seconds; `size` in bytes and `pieces` of a file; `target`
    of a `link` as it is, of one that is the `same` file as another one its path.
    """

    path: str
    kind: Kind
    mode: int
    mtime: float
    size: int = 0
    target: str = ""
    pieces: Callable[[], Iterator[bytes]] = _nothing


class _Sink(io.RawIOBase):
    """A file that can be written to alone."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._buffer = bytearray()
        self._at = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type]
        self._buffer += view
        self._at += view.nbytes
        if len(self._buffer) >= BUFFER:
            self.flush()
        return view.nbytes

    def flush(self) -> None:
        if self._buffer:
            taken, self._buffer = bytes(self._buffer), bytearray()
            self._take(taken)


def write(kind: Format, members: Iterable[Member], take: Callable[[bytes], None]) -> None:
    """Write `members` and hand the archive to `take`, in order. Raises what they raise; what was
    taken so far is no archive then.
    """
    sink = _Sink(take)
    (_write_tar if kind == "tar.gz" else _write_zip)(members, sink)
    sink.flush()


def _write_tar(members: Iterable[Member], sink: _Sink) -> None:
    kinds = {
        "directory": tarfile.DIRTYPE,
        "file": tarfile.REGTYPE,
        "link": tarfile.SYMTYPE,
        "same": tarfile.LNKTYPE,
    }
    # Names that are no text stay what they are (PAX, hdrcharset=BINARY).
    with (
        gzip.GzipFile(fileobj=sink, mode="wb", compresslevel=LEVEL) as packed,
        tarfile.open(
            fileobj=packed,
            mode="w|",
            format=tarfile.PAX_FORMAT,
            encoding="utf-8",
            errors="surrogateescape",
        ) as archive,
    ):
        for member in members:
            info = tarfile.TarInfo(member.path)
            info.type, info.linkname = kinds[member.kind], member.target
            info.mode, info.mtime, info.size = member.mode, member.mtime, member.size
            content: Any = _Reading(member.pieces()) if member.kind == "file" else None
            archive.addfile(info, content)
            archive.members.clear()  # type: ignore[attr-defined]  # it would remember them all


def _write_zip(members: Iterable[Member], sink: _Sink) -> None:
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL) as archive:
        for member in members:
            name = member.path.encode(errors="surrogateescape").decode(errors="replace")
            if member.kind == "same":
                raise ValueError("a zip has no hard links")
            shown = f"{name}/" if member.kind == "directory" else name
            info = zipfile.ZipInfo(shown, time.localtime(max(member.mtime, _EARLIEST))[:6])
            info.compress_type = zipfile.ZIP_DEFLATED
            types = {"directory": stat.S_IFDIR, "link": stat.S_IFLNK}
            info.external_attr = (types.get(member.kind, stat.S_IFREG) | member.mode) << 16
            if member.kind == "directory":
                info.external_attr |= 0x10
                archive.writestr(info, b"")
            elif member.kind == "link":
                archive.writestr(info, member.target.encode(errors="surrogateescape"))
            else:
                with archive.open(info, "w", force_zip64=True) as out:
                    for piece in member.pieces():
                        out.write(piece)


class _Reading:
    """Pieces as a file that is read from its beginning."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""

    def read(self, size: int, /) -> bytes:
        found = bytearray(self._left[:size])
        self._left = self._left[size:]
        while len(found) < size:
            piece = next(self._pieces, b"")
            if not piece:
                break
            wanted = size - len(found)
            found += piece[:wanted]
            self._left = piece[wanted:]
        return bytes(found)
