"""A node's way to the store over a line that is slow, or through a proxy."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator

import pytest

from sessionkeeper.agent.blobs import PIECE, ProxiedBlobs, proxy_for

PATIENCE = 0.25
PACK = 200 * PIECE


class Slow:
    """A gateway that takes a piece now and then. `took` are the bodies, whole."""

    def __init__(self) -> None:
        self.took: list[bytes] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                assert length is not None
                body = bytearray()
                while len(body) < int(length[1]):
                    await asyncio.sleep(PATIENCE / 40)  # so slow is the line
                    body += await reader.read(PIECE)
                self.took.append(bytes(body))
                writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
        writer.close()


@pytest.fixture
async def slow() -> AsyncIterator[Slow]:
    gateway = Slow()
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE)
    server = await asyncio.start_server(gateway.serve, sock=listening, limit=PIECE)
    gateway.url = f"http://127.0.0.1:{listening.getsockname()[1]}/blobs"
    async with server:
        yield gateway


async def test_pack_that_takes_long_is_sent_as_long_as_it_gets_on(slow: Slow) -> None:
    """A pack over a home's uplink took longer than the limit, was begun anew, and so for ever."""
    blobs, pack = ProxiedBlobs(slow.url, "t", patience=PATIENCE), bytes(range(256)) * (PACK // 256)
    began = asyncio.get_running_loop().time()
    await asyncio.to_thread(blobs.create, "packs/aa", memoryview(pack))
    assert asyncio.get_running_loop().time() - began > PATIENCE
    assert slow.took == [pack]
    blobs.close()


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        ("https://gateway.example/x", {"HTTPS_PROXY": "http://p:3128"}, "http://p:3128"),
        ("https://gateway.example:8443", {"https_proxy": "http://p:3128"}, "http://p:3128"),
        ("http://gateway.example", {"HTTPS_PROXY": "http://p:3128"}, None),
        (
            "https://gateway.example",
            {"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "gateway.example"},
            None,
        ),
        ("https://gateway.example", {}, None),
    ],
)
def test_proxy_is_the_one_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, url: str, environ: dict[str, str], proxy: str | None
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(url) == proxy
