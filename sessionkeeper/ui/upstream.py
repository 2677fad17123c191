"""A connection to the gateway's `v1.sessionkeeper` WebSocket of one kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn
from urllib.parse import quote, urlencode

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as dial
from websockets.typing import Subprotocol

from gateway.hop import next_turn
from sessionkeeper.ui import frames
from sessionkeeper.ui.address import gateway_address
from sessionkeeper.ui.positions import Position

__all__ = ["BAD_FRAME", "MAX_MESSAGE", "NO_KERNEL", "RETRY_SECONDS", "open_channels", "watch"]

MAX_MESSAGE = 2**30
NO_KERNEL, BAD_FRAME = 4404, 4400
"""Close codes of the gateway."""

RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses between tries; the last one goes on."""

_PING_SECONDS = 2.2
_DEAD_SECONDS = 4.6
"""Silence after which a gateway is given up, which the second ping in a row finds out: 5 s at most.
More of them would be a percent of a core at the gateway, where hundreds of tabs do nothing."""

_JOURNAL_BYTES_PER_SECOND = 50e6


class _Upstream(ClientConnection):
    """A connection that remembers when it heard anything, in the event loop's time."""

    heard = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.heard = self.loop.time()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self.heard = self.loop.time()
        super().data_received(data)


def open_channels(kernel_id: str, position: Position | None, **query: str) -> dial:
    """Connect to a kernel, to get what comes after `position` (None: from now on).

    An async context manager; raises what `websockets.asyncio.client.connect` does.
    """
    url, token = gateway_address()
    query |= {"several": "1"}
    if position is not None:
        query |= {"cursor": str(position.cursor), "journal": position.journal}
    base = "ws" + url.removeprefix("http")
    return dial(
        f"{base}/api/kernels/{quote(kernel_id)}/channels?{urlencode(query)}",
        subprotocols=[Subprotocol(frames.SUBPROTOCOL)],
        additional_headers={"Authorization": f"token {token}"},
        create_connection=_Upstream,
        compression=None,
        max_size=MAX_MESSAGE + 2**16,
        max_queue=2,  # messages, which may be large: the gateway keeps the rest for a slow tab
        ping_interval=None,  # its own would give up on a gateway while the browser is slow
        open_timeout=5.0,
        close_timeout=1.0,
        proxy=None,
    )


async def watch(
    upstream: ClientConnection,
    delivering: Callable[[], bool] = lambda: False,
    unwritten: Callable[[], int] = lambda: 0,
) -> NoReturn:
    """Give a connection up on which nothing moves though a ping waits for its answer.

    `delivering`: whether it is not read just now; `unwritten`: bytes that the gateway still has to
    write down. Raises `ConnectionResetError`.
    """
    assert isinstance(upstream, _Upstream)
    loop = asyncio.get_running_loop()
    waiting, moved = 0, loop.time()
    while True:
        await upstream.ping()
        await asyncio.sleep(next_turn(loop.time(), _PING_SECONDS) - loop.time())
        queued = upstream.transport.get_write_buffer_size()
        if upstream.heard > moved or queued < waiting or delivering():
            moved = max(upstream.heard, loop.time() - _PING_SECONDS)
        waiting = queued
        # A large request takes the gateway a while to write down.
        writing = unwritten() / _JOURNAL_BYTES_PER_SECOND
        if loop.time() - moved > _DEAD_SECONDS - _PING_SECONDS + writing:
            upstream.transport.abort()
            raise ConnectionResetError("the gateway has fallen silent")
