"""The shim's end of the connection to its agent: frames over a stream, never blocking.

Standard library only, Python >= 3.8.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from contextlib import suppress
from typing import Any, Callable, Sequence  # noqa: UP035

from gateway.frames import FRAME_LIMIT

LENGTH = struct.Struct(">I")
# The first frame of a stranger is a token; nobody may fill our memory before it.
TOKEN_LIMIT = 4096
_READ = 1 << 18
# In one system call, at most (IOV_MAX, limits.h).
_PIECES = 1024


class Closed(Exception):
    """The connection has ended, or must."""


class AgentSocket:
    """One connection. `pending`: bytes wait for the socket to become writable."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._limit = TOKEN_LIMIT
        self._read = bytearray()
        self._first: deque[bytes] = deque()
        self._out: list[memoryview] = []
        self._closed = False
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def pending(self) -> bool:
        return bool(self._out)

    @property
    def said(self) -> bool:
        """Something waits for the next `flush`, besides what the link has."""
        return bool(self._first)

    def send(self, frame: bytes) -> None:
        """Write a frame ahead of those of the link, with the next `flush`. Nothing if closed."""
        if not self._closed:
            self._first.append(frame)

    def read(self) -> list[bytes]:
        """Whole frames that have arrived. Raises `Closed`."""
        try:
            data = self._socket.recv(_READ)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError as error:
            raise Closed(str(error)) from None
        if not data:
            raise Closed("end of stream")
        self._read += data
        frames = []
        at, have = 0, len(self._read)
        while have - at >= 4:
            (size,) = LENGTH.unpack_from(self._read, at)
            if size > self._limit or size == 0:
                raise Closed(f"frame of {size} bytes")
            if have - at - 4 < size:
                break
            with memoryview(self._read) as view:
                frames.append(bytes(view[at + 4 : at + 4 + size]))
            at += 4 + size
            self._limit = FRAME_LIMIT
        if at:
            del self._read[:at]
        return frames

    def flush(self, next_frame: Callable[[], Sequence[Any] | None]) -> None:
        """Write what waits, then what `next_frame` gives (pieces of one), until the socket takes no
        more.

        Raises `Closed`.
        """
        while True:
            size = sum(map(len, self._out))
            while size < _READ and len(self._out) < 512:
                frame = (self._first.popleft(),) if self._first else next_frame()
                if frame is None:
                    break
                length = sum(map(len, frame))
                self._out += map(memoryview, (LENGTH.pack(length), *frame))
                size += length
            if not self._out:
                return
            try:
                sent = self._socket.sendmsg(self._out[:_PIECES])
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                raise Closed(str(error)) from None
            self._advance(sent)

    def _advance(self, sent: int) -> None:
        done = 0
        for view in self._out:
            if sent < len(view):
                break
            sent -= len(view)
            done += 1
        del self._out[:done]
        if sent:
            self._out[0] = self._out[0][sent:]

    def close(self) -> None:
        self._closed = True
        self._socket.close()


def listen(where: dict[str, Any]) -> socket.socket:
    """Listen on `{"unix": path}` or `{"tcp": [host, port]}`. Raises OSError."""
    if "unix" in where:
        listener = socket.socket(socket.AF_UNIX)
        with suppress(FileNotFoundError):
            os.unlink(where["unix"])
        listener.bind(where["unix"])
        os.chmod(where["unix"], 0o600)
    else:
        host, port = where["tcp"]
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    listener.setblocking(False)
    listener.listen(8)
    return listener
