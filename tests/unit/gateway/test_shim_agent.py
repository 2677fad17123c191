"""A shim writes large messages as they lie in memory: what its agent gets is the same."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from gateway.frames import IOPUB, Hello, encode_data, encode_payload
from gateway.shim_agent import AgentSocket
from gateway.shim_client import ShimClient
from gateway.shim_link import LARGE, ShimLink

HEAD = [b'{"msg_id": "a"}', b"{}", b"", b'{"data": {}}']
MESSAGES: list[list[Any]] = [
    [*HEAD[:3], b"small"],
    [*HEAD[:3], memoryview(b"l" * LARGE)],
    [*HEAD, *(bytes([n % 256]) * 300 for n in range(3000))],  # more pieces than a system call takes
    [*HEAD, b"", memoryview(b"b" * (4 << 20)), b"end"],
]


def said() -> ShimLink:
    link = ShimLink()
    link.connected(1)
    link.receive(Hello(1, (0, 0), 1, False).encode(), 1)
    for parts in MESSAGES:
        link.produce(1, IOPUB, parts)
    return link


def frames() -> list[bytes]:
    return [encode_data(1, n, encode_payload(IOPUB, p)) for n, p in enumerate(MESSAGES, 1)]


def test_a_large_output_is_the_frame_that_a_copy_of_it_would_be() -> None:
    link = said()
    assert b'"answer": true' in (link.next_frame(1) or b"")
    size = link.unacked_bytes
    assert [link.next_frame(1) for _ in MESSAGES] == frames()
    assert size == sum(map(len, frames()))
    assert link.next_frame(1) is None


async def test_an_agent_gets_every_byte_of_messages_in_many_pieces() -> None:
    ours, theirs = socket.socketpair()
    shim, link = AgentSocket(ours), said()
    got = bytearray()
    whole = asyncio.Event()

    def take(frame: bytes) -> None:
        if frame[:1] == b"\x05":  # a first piece: its length is told ahead
            got.extend(frame[9:])
        else:
            got.extend(frame[1:] if frame[:1] == b"\x06" else frame)
        if got.endswith(b"".join(frames())):
            whole.set()

    theirs.setblocking(False)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(lambda: ShimClient("t", take), sock=theirs)

    def write() -> None:
        shim.flush(lambda: link.next_pieces(1))
        if not shim.pending:
            loop.remove_writer(ours)

    loop.add_writer(ours, write)
    async with asyncio.timeout(20):
        await whole.wait()
    transport.close()
    shim.close()
