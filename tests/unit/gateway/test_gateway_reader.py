"""Whatever way frames come in, as bytes over a socket, their messages are the same."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator

import pytest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application
from websockets.asyncio.client import connect
from websockets.frames import Frame, Opcode

from gateway.reader import AHEAD, ReadsAhead

SIZES = [0, 1, 5, 125, 126, 127, 65535, 65536, AHEAD - 10, AHEAD, AHEAD + 1, 300_000]


class Listens(ReadsAhead):
    def initialize(self, heard: list[bytes], pings: list[bytes]) -> None:
        self.heard, self.pings = heard, pings

    def on_message(self, message: str | bytes) -> None:
        assert isinstance(message, bytes)
        self.heard.append(message)
        if message == b"end":
            self.write_message(b"end", binary=True)

    def on_ping(self, data: bytes) -> None:
        self.pings.append(data)


def frames(seed: int, messages: list[bytes]) -> Iterator[bytes]:
    """Masked frames: some messages in fragments, with pings in between."""
    chance = random.Random(seed)
    for message in messages:
        parts = [message]
        if len(message) > 1 and chance.random() < 0.5:
            at = chance.randrange(len(message))
            parts = [message[:at], message[at:]]
        for number, part in enumerate(parts):
            opcode, last = Opcode.CONT if number else Opcode.BINARY, part is parts[-1]
            yield Frame(opcode, part, fin=last).serialize(mask=True)
            yield Frame(Opcode.PING, b"%d" % number).serialize(mask=True)


@pytest.mark.parametrize("seed", range(5))
async def test_frames_are_read_whole_however_they_are_cut(seed: int) -> None:
    chance = random.Random(seed)
    heard: list[bytes] = []
    pings: list[bytes] = []
    app = Application([("/", Listens, {"heard": heard, "pings": pings})])
    listener, port = bind_unused_port()
    server = HTTPServer(app)
    server.add_socket(listener)
    sent = [os.urandom(size) for size in chance.choices(SIZES, k=30)] + [b"end"]
    wire = b"".join(frames(seed, sent))
    try:
        async with connect(f"ws://127.0.0.1:{port}/", compression=None) as socket:
            at = 0
            while at < len(wire):
                size = chance.choice([1, 2, 7, 100, 1000, 70_000, 1 << 20])
                socket.transport.write(wire[at : at + size])
                at += size
                await asyncio.sleep(0)
            async with asyncio.timeout(20):
                assert await socket.recv() == b"end"
    finally:
        server.stop()
    assert heard == sent
    assert len(pings) == sum(1 for one in frames(seed, sent) if one[0] == 0x89)


async def test_a_message_that_is_too_long_ends_the_connection() -> None:
    heard: list[bytes] = []
    app = Application(
        [("/", Listens, {"heard": heard, "pings": []})], websocket_max_message_size=1000
    )
    listener, port = bind_unused_port()
    server = HTTPServer(app)
    server.add_socket(listener)
    try:
        async with connect(f"ws://127.0.0.1:{port}/", compression=None) as socket:
            await socket.send(b"x" * 1000)
            await socket.send(b"x" * 1001)
            async with asyncio.timeout(20):
                await socket.wait_closed()
            assert socket.close_code == 1009
    finally:
        server.stop()
    assert heard == [b"x" * 1000]
