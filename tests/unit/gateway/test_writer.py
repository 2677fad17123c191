"""What a client's WebSocket carries, byte by byte (RFC 6455, section 5.2)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import pytest_asyncio
from tornado.iostream import IOStream
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from gateway.writer import FrameWriter


class Wire:
    """A writer over a real socket, and what came out of it."""

    def __init__(self) -> None:
        ours, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)
        self.stream = IOStream(ours)

    async def frames(self, *, several: bytes = b"", messages: list[bytes]) -> list[Frame]:
        writer = FrameWriter(self.stream, several)
        for message in messages:
            writer.write_pieces(message[:3], message[3:])
        writer.flush()
        return await self.written()

    @property
    def silent(self) -> bool:
        """Whether nothing came out."""
        try:
            return not self._theirs.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True

    async def first(self) -> bytes:
        """What comes out first, when it does."""
        return await asyncio.get_running_loop().sock_recv(self._theirs, 1 << 20)

    async def written(self) -> list[Frame]:
        """All that came out, to the end."""
        writing = asyncio.ensure_future(self._end())
        reader, loop = StreamReader(), asyncio.get_running_loop()
        while data := await loop.sock_recv(self._theirs, 1 << 20):
            reader.feed_data(data)
        await writing
        reader.feed_eof()
        return list(_parsed(reader))

    async def _end(self) -> None:
        while self.stream.writing():
            await asyncio.sleep(0)
        self.stream.close()

    def close(self) -> None:
        self.stream.close()
        self._theirs.close()


def _parsed(reader: StreamReader) -> Iterator[Frame]:
    while len(reader.buffer):
        parsing = Frame.parse(reader.read_exact, mask=False)
        try:
            next(parsing)
        except StopIteration as parsed:
            yield parsed.value


@pytest_asyncio.fixture
async def wire() -> AsyncIterator[Wire]:
    one = Wire()
    yield one
    one.close()


async def test_messages_of_one_moment_are_frames_of_their_own(wire: Wire) -> None:
    frames = await wire.frames(messages=[b"one", b"two more"])
    assert [bytes(frame.data) for frame in frames] == [b"one", b"two more"]
    assert all(frame.fin and frame.opcode is Opcode.BINARY for frame in frames)


async def test_messages_of_one_moment_go_together_where_that_is_wanted(wire: Wire) -> None:
    [frame] = await wire.frames(several=b"\x04", messages=[b"one", b"two more"])
    assert frame.data == b"\x04\0\0\0\x03one\0\0\0\x08two more"


async def test_message_alone_is_as_it_was(wire: Wire) -> None:
    [frame] = await wire.frames(several=b"\x04", messages=[b"alone"])
    assert frame.data == b"alone"


async def test_what_nobody_waits_for_goes_with_what_comes_next(wire: Wire) -> None:
    writer = FrameWriter(wire.stream, b"\x04")
    writer.write_later(b"taken")
    await asyncio.sleep(0)
    assert wire.silent
    await writer.write(b"said")
    [frame] = await wire.written()
    assert frame.data == b"\x04\0\0\0\x05taken\0\0\0\x04said"


async def test_what_nobody_waits_for_goes_alone_where_nothing_comes(wire: Wire) -> None:
    writer = FrameWriter(wire.stream, b"\x04")
    writer.write_later(b"one")
    writer.write_later(b"two")
    assert await wire.first() == b"\x82\x0f\x04\0\0\0\x03one\0\0\0\x03two"
    writer.write_later(b"three")
    assert await wire.first() == b"\x82\x05three"


async def test_a_closed_stream_is_no_error_for_what_can_wait(wire: Wire) -> None:
    writer = FrameWriter(wire.stream)
    writer.write_later(b"one")
    wire.stream.close()
    writer.flush()


async def test_large_message_comes_in_fragments_after_what_was_before_it(wire: Wire) -> None:
    large = bytes(range(251)) * 10_000
    first, *rest = await wire.frames(several=b"\x04", messages=[b"before", large])
    assert (first.data, first.fin) == (b"before", True)
    assert [frame.opcode for frame in rest] == [Opcode.BINARY, Opcode.CONT, Opcode.CONT]
    assert [frame.fin for frame in rest] == [False, False, True]
    assert b"".join(frame.data for frame in rest) == large
