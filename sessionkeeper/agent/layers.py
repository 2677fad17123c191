"""Layers of images as directories of this node, each unpacked once and shared by all that have it.

They are plain directories and not an overlay, as CRIU does not find its way through an overlay upon
an overlay; what a layer deletes is written as overlayfs wants it. The archives are not trusted: GNU
tar puts links in place last, when nothing is written through them any more, and devices go.

Sources: OCI image specification 1.1, layer.md ("Whiteouts"); Linux
Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, cast

import zstandard

from sessionkeeper.images.errors import ImageDamaged, ImageUnavailable
from sessionkeeper.images.manifest import Layer

SHORT = 16
"""Hexadecimal digits of a layer's name: 120 of them, on one line of mount options, have to fit into
a page."""

_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_MOST_PIECE = 1 << 20


class Layers:
    """Layers below ``directory``, which nobody but root may enter: what is in them may be setuid.

    Thread-safe, if no two threads unpack the same layer at once.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
        for left in directory.glob(".part-*"):
            shutil.rmtree(left, ignore_errors=True)

    def name(self, layer: Layer) -> str:
        """Return what the layer's directory is called here."""
        return layer.digest.removeprefix("sha256:")[:SHORT]

    def has(self, layer: Layer) -> bool:
        return (self.directory / self.name(layer)).is_dir()

    def add(self, layer: Layer, content: Iterable[bytes]) -> None:
        """Unpack a layer. Nothing of it is there before all of it is. Raises ``ImageDamaged``,
        ``ImageUnavailable``, and what ``content`` raises.
        """
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=self.directory))
        try:
            part.chmod(0o755)
            _unpack(part, unpacked(content, layer.packed))
            _as_overlay(part)
            part.rename(self.directory / self.name(layer))
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise

    def copy(self, layer: Layer, source: Path) -> None:
        """Take a layer from a directory that has all of it. Raises ``ImageUnavailable``."""
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=self.directory))
        try:
            part.chmod(0o755)
            command = ["cp", "-a", "--reflink=auto", f"{source}/.", str(part)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise ImageUnavailable(f"{source} cannot be copied: {done.stderr.strip()[:300]}")
            part.rename(self.directory / self.name(layer))
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def unpacked(content: Iterable[bytes], packed: str) -> Iterator[bytes]:
    """Decompress. Raises ``ImageDamaged``."""
    try:
        if packed == "zstd":
            with zstandard.ZstdDecompressor().stream_reader(
                cast(IO[bytes], _Reader(content))  # it reads, and no more is asked of it
            ) as reader:
                while piece := reader.read(_MOST_PIECE):
                    yield piece
            return
        if packed == "gzip":
            yield from _gunzip(content)
            return
        yield from content
    except (zlib.error, zstandard.ZstdError) as error:
        raise ImageDamaged(f"a layer cannot be decompressed: {error}") from None


def _gunzip(content: Iterable[bytes]) -> Iterator[bytes]:
    inflate = zlib.decompressobj(wbits=31)
    for piece in content:
        while piece:
            yield inflate.decompress(piece)
            piece = inflate.unused_data  # another member: archives may be several in a row
            if not inflate.eof:
                break
            if piece:
                inflate = zlib.decompressobj(wbits=31)
    yield inflate.flush()


class _Reader:
    """An iterator of bytes as something to read from."""

    def __init__(self, content: Iterable[bytes]) -> None:
        self._content = iter(content)
        self._left = b""

    def read(self, size: int = -1) -> bytes:
        while not self._left:
            piece = next(self._content, None)
            if piece is None:
                return b""
            self._left = piece
        size = len(self._left) if size < 0 else size
        found, self._left = self._left[:size], self._left[size:]
        return found


def _unpack(place: Path, archive: Iterator[bytes]) -> None:
    command = ["tar", "--extract", "--file=-", "--numeric-owner", "--same-owner"]
    command += ["--preserve-permissions", "--xattrs", "--xattrs-include=user.*"]
    with tempfile.TemporaryFile() as said:
        tar = subprocess.Popen(
            command,
            cwd=place,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        assert tar.stdin is not None
        try:
            for piece in archive:
                tar.stdin.write(piece)
            tar.stdin.close()
        except BrokenPipeError:
            pass  # it says why
        except BaseException:
            tar.kill()
            tar.wait()
            raise
        if tar.wait():
            said.seek(0)
            words = said.read(1 << 16).decode(errors="replace").strip().splitlines()
            text = words[0] if words else "no reason was given"
            if "No space left" in text:
                raise ImageUnavailable(f"there is no room for the image here: {text}")
            raise ImageDamaged(f"a layer cannot be unpacked: {text}")


def _as_overlay(place: Path) -> None:
    """Write what the layer deletes below it the way overlayfs has it; leave devices out."""
    for above, directories, names in os.walk(place):
        for name in names:
            path = os.path.join(above, name)
            if name == _OPAQUE:
                os.unlink(path)
                os.setxattr(above, "trusted.overlay.opaque", b"y")
            elif name.startswith(_WHITEOUT):
                os.unlink(path)
                hidden = name.removeprefix(_WHITEOUT)
                if hidden in directories:  # deleted, and made anew
                    os.setxattr(os.path.join(above, hidden), "trusted.overlay.opaque", b"y")
                elif hidden not in names and hidden not in ("", ".", ".."):
                    os.mknod(os.path.join(above, hidden), stat.S_IFCHR, 0)
            elif _is_device(path):
                os.unlink(path)


def _is_device(path: str) -> bool:
    mode = os.lstat(path).st_mode
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
