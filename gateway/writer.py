"""Writes messages to a client's WebSocket: those of one turn of the event loop at once.

Tornado makes a task and a system call of each message, which costs more than all else that is done
with a small one.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

from tornado.iostream import IOStream, StreamClosedError

# Bytes that are gathered before they are written in any case.
_AT_ONCE = 1 << 16
# RFC 6455, section 5.2: the only frame of a message that is text, or binary; not masked.
_TEXT, _BINARY = 0x81, 0x82
_FIN, _CONTINUATION = 0x80, 0x00
# Seconds that a message may wait for company where nobody waits for it.
PATIENCE = 0.02
# Bytes of a large message that go in one frame.
_FRAGMENT = 1 << 20
_LENGTH = struct.Struct(">I")


class FrameWriter:
    """Of one connection, over `stream`. Control frames may go by themselves, before what waits.

    With `several` binary messages that are written at once are one: that byte, and each after its
    length (u32).
    """

    def __init__(self, stream: IOStream, several: bytes = b"") -> None:
        self._stream = stream
        self._several = several
        self._waiting: list[tuple[int, bytes, bytes | memoryview]] = []
        self._bytes = 0
        self._written: asyncio.Future[None] | None = None
        self._later: asyncio.TimerHandle | None = None

    def write_later(self, message: bytes) -> None:
        """Send a message together with the next one, or after `PATIENCE`."""
        self._add(_BINARY, b"", message)
        if self._written is None and self._later is None:
            self._later = asyncio.get_running_loop().call_later(PATIENCE, self.flush)

    def write(self, message: str | bytes) -> asyncio.Future[None]:
        """Send a message; done when it is handed to the operating system, with
        `StreamClosedError` when it never is.
        """
        if isinstance(message, str):
            return self._write(_TEXT, b"", message.encode())
        return self._write(_BINARY, b"", message)

    def write_pieces(self, begin: bytes, rest: bytes | memoryview) -> asyncio.Future[None]:
        """As `write`, of a binary message in two pieces."""
        return self._write(_BINARY, begin, rest)

    def _write(self, kind: int, begin: bytes, rest: bytes | memoryview) -> asyncio.Future[None]:
        if self._written is None:
            loop = asyncio.get_running_loop()
            self._written = loop.create_future()
            loop.call_soon(self.flush)
        written = self._written
        self._add(kind, begin, rest)
        if self._bytes >= _AT_ONCE:
            self.flush()
        return written

    def _add(self, kind: int, begin: bytes, rest: bytes | memoryview) -> None:
        self._waiting.append((kind, begin, rest))
        self._bytes += len(begin) + len(rest)

    def flush(self) -> None:
        """Write what waits now."""
        waiting, written = self._waiting, self._written
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if not waiting:
            return
        self._waiting, self._bytes, self._written = [], 0, None
        last = waiting.pop() if len(waiting[-1][2]) >= _AT_ONCE else None
        try:
            done = self._stream.write(b"".join(self._put(waiting))) if waiting else None
            if last is not None:
                done = self._write_large(*last)
            assert done is not None
        except StreamClosedError as error:
            if written is not None:
                _fail(written, error)
        else:
            if written is not None:
                done.add_done_callback(lambda one: _settle(written, one))

    def _write_large(self, kind: int, begin: bytes, rest: bytes | memoryview) -> Any:
        """In fragments, so that nobody has to look for a place for all of it before the end has
        come. Of the message itself no copy is made.
        """
        view = memoryview(rest)
        while True:
            piece, view = view[:_FRAGMENT], view[_FRAGMENT:]
            if len(view):
                kind &= ~_FIN
            self._stream.write(_head(kind, len(begin) + len(piece)) + begin)
            done = self._stream.write(piece)
            if not len(view):
                return done
            kind, begin = _FIN | _CONTINUATION, b""

    def _put(
        self, messages: list[tuple[int, bytes, bytes | memoryview]]
    ) -> list[bytes | memoryview]:
        """Frames with these messages, as pieces."""
        pieces: list[bytes | memoryview] = []
        together = bool(self._several) and len(messages) > 1
        total = len(self._several)
        for kind, begin, rest in messages:
            size = len(begin) + len(rest)
            pieces += (_LENGTH.pack(size) if together else _head(kind, size), begin, rest)
            total += _LENGTH.size + size
        if together:
            pieces.insert(0, _head(_BINARY, total) + self._several)
        return pieces


def write_now(stream: IOStream, message: str | bytes) -> Any:
    """Write a message to a stream that nobody else writes to, with what it takes: a future, as of
    `IOStream.write`. Raises `StreamClosedError`.
    """
    kind, data = (_TEXT, message.encode()) if isinstance(message, str) else (_BINARY, message)
    return stream.write(_head(kind, len(data)) + data)


def _head(kind: int, size: int) -> bytes:
    if size < 126:
        return struct.pack("!BB", kind, size)
    if size < 1 << 16:
        return struct.pack("!BBH", kind, 126, size)
    return struct.pack("!BBQ", kind, 127, size)


def _settle(written: asyncio.Future[None], done: Any) -> None:
    if written.cancelled():
        return
    error = None if done.cancelled() else done.exception()
    if error is not None:
        _fail(written, error)
    else:
        written.set_result(None)


def _fail(written: asyncio.Future[None], error: BaseException) -> None:
    written.set_exception(error)
    written.exception()  # whoever wants it has it; nobody has to look
