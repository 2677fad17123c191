"""A browser tab's kernel WebSocket, which stays open while the gateway comes and goes.

Output: the gateway numbers what it sends (the cursor) and sends again, after a break, what comes
after the cursor we give. A browser confirms nothing by itself, but answers a ping after the
messages before it: pings that carry the cursor tell how far the tab is. A tab that connects again
goes on there, also with another UI server.

Input: a request is kept, and sent again after a break, until the gateway has said that it is
in its journal. The gateway knows a request by its `msg_id`, so it is applied once.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jupyter_server.services.kernels.connection.base import BaseKernelWebsocketConnection
from tornado import web
from tornado.websocket import WebSocketClosedError
from traitlets import Unicode
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as dial
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from sessionkeeper.ui import frames
from sessionkeeper.ui.address import gateway_address
from sessionkeeper.ui.positions import Position, Positions

__all__ = ["ResumingConnection"]

MAX_MESSAGE = 2**30

_RETRY_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
_PING_SECONDS = 1.5
_DEAD_SECONDS = 4.0
"""Silence after which a gateway is given up. With the pause between pings: 5 s at most."""

_JOURNAL_BYTES_PER_SECOND = 50e6

_LINGER_SECONDS = 600.0
"""How long requests of a closed tab wait for a gateway that is away."""

_CONFIRM_SECONDS = 0.03

_NO_KERNEL, _BAD_FRAME = 4404, 4400


class _Upstream(ClientConnection):
    """A connection that remembers when it heard anything, in the event loop's time."""

    heard = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.heard = self.loop.time()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self.heard = self.loop.time()
        super().data_received(data)


class ResumingConnection(BaseKernelWebsocketConnection):
    """One tab, one kernel. Created by jupyter_server's kernel WebSocket handler."""

    positions_directory = Unicode(config=True, help="Where positions of tabs are kept")

    _positions: Positions | None = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._unacked: OrderedDict[int, bytes] = OrderedDict()
        self._number = 0
        self._unsent = asyncio.Event()
        self._sent = 0
        self._position: Position | None = None  # what this tab was sent
        self._confirmed: Position | None = None  # what it has said to have
        self._pinged: int | None = None
        self._question: asyncio.TimerHandle | None = None
        self._delivering = False
        self._gone = False
        self._task: asyncio.Task[None] | None = None

    # What jupyter_server's handler calls

    async def prepare(self) -> None:
        """Before the WebSocket is accepted. Raises 404 if the gateway knows no such kernel."""
        try:
            await self.multi_kernel_manager.kernel_model(self.kernel_id)
        except web.HTTPError as error:
            if error.status_code == 404:
                raise

    async def connect(self) -> None:
        """The browser is there: carry messages until `disconnect`."""
        self.websocket_handler.set_nodelay(True)
        self._confirm_by_pongs()
        self._position = self._confirmed = self._kept().get(self.kernel_id, self.session_id)
        self._task = asyncio.create_task(self._run(), name=f"channels of {self.kernel_id}")

    def disconnect(self) -> None:  # type: ignore[override]
        """The browser is gone. What it had asked for is still delivered."""
        self._gone = True
        if self._task is not None:
            if self._unacked:
                asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._task.cancel)
            else:
                self._task.cancel()

    def handle_incoming_message(self, incoming_msg: str | bytes) -> None:
        """Take a request of the browser."""
        if self._is_legacy or isinstance(incoming_msg, str):
            try:
                incoming_msg = frames.legacy_to_v1(incoming_msg)
            except (ValueError, KeyError, TypeError) as error:
                self.log.warning("Not a kernel message, dropped: %r", error)
                return
        self._number += 1
        self._unacked[self._number] = incoming_msg
        self._unsent.set()

    # The browser's side

    @property
    def _is_legacy(self) -> bool:
        return self.websocket_handler.selected_subprotocol is None

    def _kept(self) -> Positions:
        cls = type(self)
        if cls._positions is None:
            cls._positions = Positions(Path(self.positions_directory))
        return cls._positions

    def _confirm_by_pongs(self) -> None:
        handler = self.websocket_handler
        keep_alive = handler.on_pong

        def on_pong(data: bytes) -> None:
            keep_alive(data)
            if self._pinged is not None and data == b"%d" % self._pinged:
                cursor, self._pinged = self._pinged, None
                self._is_safe(cursor)
                self._ping_soon()

        handler.on_pong = on_pong  # type: ignore[method-assign]

    def _is_safe(self, cursor: int) -> None:
        if self._position is not None:
            self._confirmed = Position(self._position.journal, cursor)
            self._kept().put(self.kernel_id, self.session_id, self._confirmed)

    def _ping_soon(self) -> None:
        """Ask the browser whether it has got everything; one question at a time.

        Not at once: a pong in front of a request would hold it back for 40 ms in a client that
        has Nagle's algorithm on.
        """
        if self._pinged is None and self._question is None and self._position != self._confirmed:
            self._question = asyncio.get_running_loop().call_later(_CONFIRM_SECONDS, self._ping)

    def _ping(self) -> None:
        self._question = None
        if self._position is not None and not self._gone:
            self._pinged = self._position.cursor
            with contextlib.suppress(WebSocketClosedError):
                self.websocket_handler.ping(b"%d" % self._pinged)

    async def _deliver(self, cursor: int, payload: bytes) -> None:
        """Write to the browser, at its pace."""
        if self._position is None or self._gone:
            return
        message = frames.v1_to_legacy(payload) if self._is_legacy else payload
        self._delivering = True
        try:
            written = self.websocket_handler.write_message(message, isinstance(message, bytes))
            # It is on its way, also if the gateway's connection ends while we wait.
            self._position = Position(self._position.journal, cursor)
            await written
            self._ping_soon()
        except WebSocketClosedError:
            self._gone = True
        finally:
            self._delivering = False

    # The gateway's side

    async def _run(self) -> None:
        failures = 0
        while not (self._gone and not self._unacked):
            try:
                async with self._dial() as upstream:
                    failures = 0
                    await self._carry(upstream)
            except InvalidStatus as error:
                if error.response.status_code == 404 and await self._is_gone():
                    return
                self._say_away(failures, f"the gateway refused: {error}")
            except ConnectionClosed as error:
                code = error.rcvd.code if error.rcvd else None
                if code == _NO_KERNEL and await self._is_gone():
                    return
                if code == _BAD_FRAME and error.rcvd:
                    self._end(f"the gateway could not read a request: {error.rcvd.reason}")
                    return
                self._say_away(failures, str(error))
            except (OSError, ValueError, WebSocketException) as error:
                self._say_away(failures, str(error) or type(error).__name__)
            pause = _RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)]
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311
            failures += 1

    def _say_away(self, failures: int, reason: str) -> None:
        if failures == 0:
            self.log.info("Kernel %s: connecting again to the gateway (%s)", self.kernel_id, reason)

    async def _is_gone(self) -> bool:
        """Whether the kernel ended for good, and not just the gateway; then the tab is told."""
        try:
            await self.prepare()
        except web.HTTPError:
            self._end("the kernel does not exist any more")
            return True
        return False

    def _end(self, reason: str) -> None:
        """Close the browser's side; JupyterLab then asks what became of the kernel."""
        self.log.warning("Kernel %s: %s", self.kernel_id, reason)
        self._unacked.clear()
        self.websocket_handler.close(1011, reason[:120])

    def _dial(self) -> dial:
        url, token = gateway_address()
        query = {"session_id": self.session_id}
        if self._position is not None:
            query |= {"cursor": str(self._position.cursor), "journal": self._position.journal}
        base = "ws" + url.removeprefix("http")
        return dial(
            f"{base}/api/kernels/{quote(self.kernel_id)}/channels?{urlencode(query)}",
            subprotocols=[Subprotocol(frames.SUBPROTOCOL)],
            additional_headers={"Authorization": f"token {token}"},
            create_connection=_Upstream,
            compression=None,
            max_size=MAX_MESSAGE + 2**16,
            ping_interval=None,  # its own would give up on a gateway while the browser is slow
            open_timeout=5.0,
            close_timeout=1.0,
            proxy=None,
        )

    async def _carry(self, upstream: ClientConnection) -> None:
        """Both directions until one fails. Raises what made it fail."""
        welcomed = asyncio.Event()
        tasks = [
            asyncio.create_task(self._receive(upstream, welcomed)),
            asyncio.create_task(self._send(upstream, welcomed)),
            asyncio.create_task(self._watch(upstream)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(self, upstream: ClientConnection, welcomed: asyncio.Event) -> None:
        async for frame in upstream:
            kind, number, payload = frames.parse(
                frame if isinstance(frame, bytes) else frame.encode()
            )
            if kind == frames.MESSAGE:
                await self._deliver(number, payload)
            elif kind == frames.ACK:
                self._unacked.pop(number, None)
            else:
                self._notice(json.loads(payload), welcomed)
            if self._gone and not self._unacked:
                return

    def _notice(self, notice: dict[str, Any], welcomed: asyncio.Event) -> None:
        if notice.get("event") == "missed":
            self.log.warning("Kernel %s: a tab missed %s messages", self.kernel_id, notice["count"])
        if notice.get("event") != "welcome":
            return
        self._position = Position(notice["journal"], notice["cursor"])
        if self._confirmed is None:
            # Where a new tab begins: cut off before it has answered anything, it goes on there.
            self._is_safe(notice["cursor"])
        if notice.get("missing") or notice.get("reset"):
            self.log.warning(
                "Kernel %s: %s messages are no longer in the gateway's journal",
                self.kernel_id,
                notice.get("missing") or "some",
            )
        self._sent = 0
        welcomed.set()

    async def _send(self, upstream: ClientConnection, welcomed: asyncio.Event) -> None:
        await welcomed.wait()
        while True:
            self._unsent.clear()
            for number in [n for n in self._unacked if n > self._sent]:
                payload = self._unacked.get(number)
                if payload is not None:
                    await upstream.send(frames.message(number, payload))
                self._sent = number
            await self._unsent.wait()

    async def _watch(self, upstream: ClientConnection) -> None:
        """Give a connection up on which nothing moves though a ping waits for its answer."""
        assert isinstance(upstream, _Upstream)
        loop = asyncio.get_running_loop()
        waiting, moved = 0, loop.time()
        while True:
            await upstream.ping()
            await asyncio.sleep(_PING_SECONDS)
            queued = upstream.transport.get_write_buffer_size()
            if upstream.heard > moved or queued < waiting or self._delivering:
                moved = max(upstream.heard, loop.time() - _PING_SECONDS)
            waiting = queued
            # A large request takes the gateway a while to write down.
            writing = sum(map(len, self._unacked.values())) / _JOURNAL_BYTES_PER_SECOND
            if loop.time() - moved > _DEAD_SECONDS - _PING_SECONDS + writing:
                upstream.transport.abort()
                raise ConnectionResetError("the gateway has fallen silent")
