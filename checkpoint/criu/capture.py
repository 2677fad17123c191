"""Takes a dump from CRIU while it is made: `criu dump --stream`.

CRIU then writes no files, but one pipe each, whose other end it hands over a socket in the images
directory (CRIU `criu/img-streamer.c`: u32 length, protobuf with the file's name, then a descriptor
as ancillary data; see also checkpoint-restore/criu-image-streamer). That is worth it for memory:
pages that are in the repository already are not copied at all, so that a process stands still for
as long as its memory takes to be looked at; the others go into memory that is at hand (`room`),
instead of fresh memory, which a host of virtual machines takes its time to give.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np

from checkpoint.criu.digests import Known, digests_of
from checkpoint.criu.dump import Dump, PageFile
from checkpoint.criu.pagemap import PAGE, U8, U64, Mask
from checkpoint.criu.spent import Spent
from checkpoint.errors import InvalidImage

SOCKET = "streamer-capture.sock"

_PIPE = 1 << 20
_PIECE = 4 << 20
"""Bytes that are looked at at once: they stay in the processor's cache."""

_HUGE = 2 << 20

_LENGTH = struct.Struct("<I")
_DESCRIPTOR = struct.Struct("i")


class Capture:
    """One dump into `directory`. To be entered before `criu dump --stream` begins; `dump` waits
    for the end of what it sends.

    Pages of `known` are not copied; without it all are. `room` is a file on tmpfs with memory to
    copy into, which is used up.
    """

    def __init__(self, directory: Path, known: Known | None = None, room: Path | None = None):
        self._directory = directory
        self._known = known
        self._room = room
        self._listener = socket.socket(socket.AF_UNIX)
        self._idle: list[_Arena] = []
        self._arenas: list[_Arena] = []
        self._pages: dict[str, _Region] = {}
        self._streams: list[threading.Thread] = []
        self._error: BaseException | None = None
        self._receiver = threading.Thread(target=self._receive, name="capture")

    def __enter__(self) -> Capture:
        within = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:  # a path of any length does
            self._listener.bind(f"/proc/self/fd/{within}/{SOCKET}")
        finally:
            os.close(within)
        self._listener.listen(1)
        if self._room is not None:
            self._idle = [_Arena(self._room)]
            self._arenas = list(self._idle)
        self._receiver.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        for arena in self._arenas:
            arena.close()

    @property
    def error(self) -> BaseException | None:
        """What went wrong here, if something did: CRIU's own words are about a broken pipe then."""
        return self._error

    def dump(self) -> Dump:
        """What came, once CRIU has ended. Raises `InvalidImage`."""
        self._end()
        if self._error is not None:
            raise InvalidImage(f"The dump could not be taken: {self._error}.") from self._error
        contents = {arena: arena.map() for arena in self._arenas}
        pages = {}
        for name, region in self._pages.items():
            content, spent = np.empty(0, dtype=np.uint8), None
            memory = contents[region.arena]
            if memory is not None and region.size:
                content = np.frombuffer(memory, np.uint8, region.size, region.start)
                spent = Spent(memory, region.start)
            pages[name] = PageFile(content, region.kept(), region.digests(), spent)
        return Dump(self._directory, pages, self._known)

    def _end(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # nobody has come, and nobody will
        if self._receiver.ident is not None:
            self._receiver.join()
        for stream in self._streams:
            stream.join()
        self._listener.close()
        with suppress(FileNotFoundError):
            (self._directory / SOCKET).unlink()

    def _receive(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        try:
            self._take_all(connection)
        except BaseException as error:
            self._error = self._error or error
        finally:
            connection.close()

    def _take_all(self, connection: socket.socket) -> None:
        while (header := _exactly(connection, _LENGTH.size)) is not None:
            (length,) = _LENGTH.unpack(header)
            request = _exactly(connection, length)
            _, carried, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(_DESCRIPTOR.size))
            if request is None or not carried:  # too many are open here
                raise InvalidImage("An image came without its descriptor.")
            name = request[2 : 2 + request[1]].decode()  # field 1, of less than 128 bytes
            (fd,) = _DESCRIPTOR.unpack(carried[0][2][: _DESCRIPTOR.size])
            stream = threading.Thread(target=self._take, args=(name, fd), name=name)
            self._streams.append(stream)
            stream.start()

    def _take(self, name: str, fd: int) -> None:
        try:
            if name.startswith("pages-"):
                with suppress(OSError):
                    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE)
                self._take_pages(name, fd)
            else:
                _copy(fd, self._directory / os.path.basename(name))
        except BaseException as error:
            self._error = self._error or error
        finally:
            os.close(fd)  # CRIU does not wait for who does not read any more

    def _take_pages(self, name: str, fd: int) -> None:
        # CRIU writes one after the other; if that ever changes, each has an arena of its own.
        try:
            arena = self._idle.pop()
        except IndexError:
            arena = _Arena(self._directory / f"{name}.kept")
            self._arenas.append(arena)
        region = _Region(arena)
        if self._known is None:
            while taken := os.splice(fd, arena.fd, _PIECE, offset_dst=arena.end):
                arena.end += taken
            region.size = arena.end - region.start
        else:
            memory: U8 = np.empty(_PIECE, dtype=np.uint8)
            while taken := _fill(fd, memory):
                region.add(memory[:taken], self._known)
        self._pages[name] = region
        self._idle.append(arena)


class _Arena:
    """A file with room for pages, of which `end` bytes are used."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.unlink(path)  # it is gone with whoever has it open
        self.end = 0

    def map(self) -> mmap.mmap | None:
        os.ftruncate(self.fd, self.end)
        return mmap.mmap(self.fd, self.end, flags=mmap.MAP_SHARED) if self.end else None

    def close(self) -> None:
        os.close(self.fd)


class _Region:
    """Where the pages of one file are in an arena, and which of them were kept."""

    def __init__(self, arena: _Arena) -> None:
        self.arena = arena
        arena.end = -(-arena.end // _HUGE) * _HUGE  # given back by itself later
        self.start = arena.end
        self.size = 0
        self._kept: list[Mask] = []
        self._digests: list[U64] = []

    def add(self, content: U8, known: Known) -> None:
        """Keep what is not known of the next pages."""
        digests = digests_of(content)
        kept = ~known.holds(digests)
        self._digests.append(digests)
        self._kept.append(kept)
        new = content if kept.all() else content.reshape(-1, PAGE)[kept].reshape(-1)
        done = 0
        while done < len(new):
            done += os.pwrite(self.arena.fd, new[done:].data, self.arena.end + done)
        self.arena.end += len(new)
        self.size += len(new)

    def kept(self) -> Mask | None:
        return np.concatenate(self._kept) if self._kept else None

    def digests(self) -> U64 | None:
        return np.concatenate(self._digests) if self._digests else None


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    """The next `size` bytes, None when they do not come any more."""
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            return None
        data += piece
    return data


def _fill(fd: int, memory: U8) -> int:
    """Read as much as there is room for, or the rest; how much. Raises `InvalidImage` if that are
    not whole pages.
    """
    done = 0
    while done < len(memory) and (taken := os.readv(fd, [memory[done:].data])):
        done += taken
    if done % PAGE:
        raise InvalidImage("A dump ended in the middle of a page.")
    return done


def _copy(fd: int, path: Path) -> None:
    with path.open("wb") as file:
        while data := os.read(fd, _PIPE):
            file.write(data)
