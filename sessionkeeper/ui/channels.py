"""A browser tab's kernel WebSocket, which stays open while the gateway comes and goes.

Output: the gateway numbers what it sends (the cursor) and sends again, after a break, what comes
after the cursor we give. JupyterLab with our extension counts along and says, when it connects
again, what it has. Any other client confirms nothing by itself, but answers a ping after the
messages before it: pings that carry the cursor tell how far it is, and when it connects again with
the same session id it goes on there, also with another UI server.

Input: a request is kept, and sent again after a break, until the gateway has said that it is
in its journal; by us, and by JupyterLab with our extension, which is told then. The gateway knows a
request by its `msg_id`, so it is applied once.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from jupyter_server.services.kernels.connection.base import BaseKernelWebsocketConnection
from tornado import web
from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClosedError
from traitlets import Unicode
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as dial
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from gateway import trace
from gateway.writer import FrameWriter
from sessionkeeper.ui import frames
from sessionkeeper.ui.positions import Position, Positions
from sessionkeeper.ui.recorder import Recorder
from sessionkeeper.ui.requests import Requests
from sessionkeeper.ui.runs import is_answer, tag_request
from sessionkeeper.ui.upstream import BAD_FRAME, NO_KERNEL, RETRY_SECONDS, open_channels, watch

__all__ = ["ResumingConnection"]

_LINGER_SECONDS = 600.0
"""How long requests of a closed tab wait for a gateway that is away."""

_CONFIRM_SECONDS = 0.03

_REMEMBERED = 1000

_FRAGMENT = 1 << 20
"""Bytes of a larger message that go in one frame: the gateway has others to serve in between."""

_ON_ITS_WAY = 1 << 20
"""Bytes that are written to a browser before it is waited for."""


class ResumingConnection(BaseKernelWebsocketConnection):
    """One tab, one kernel. Created by jupyter_server's kernel WebSocket handler."""

    positions_directory = Unicode(config=True, help="Where positions of tabs are kept")

    _positions: Positions | None = None
    _left_sure: ClassVar[dict[tuple[str, str], Position]] = {}
    """Of plain tabs that said to have all that they were sent, before they left."""

    recorder: Recorder | None = None
    """Of this server, once it has one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._requests = Requests()
        self._unsent = asyncio.Event()
        self._told_safe = 0
        self._position: Position | None = None  # what this tab was sent
        self._confirmed: Position | None = None  # what it has said to have
        # It is back, and may have been sent more than it has said to have: up to this it is sure.
        self._sure_until: Position | None = None
        self._pinged: int | None = None
        self._question: asyncio.TimerHandle | None = None
        self._delivering = False
        self._writer: FrameWriter | None = None
        self._on_its_way = 0  # bytes, at most
        self._gone = False
        self._told: list[bytes] = []  # what a new tab is told before anything else
        self._numbered = False  # the tab counts along (labextensions/…/socket.js)
        self._keeps = False  # and keeps what it sends until it is told that it is safe
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
        connection = self.websocket_handler.ws_connection
        if connection is not None and connection.stream is not None:
            self._writer = FrameWriter(connection.stream)
        self._confirm_by_pongs()
        self._position = self._confirmed = self._where()
        if not self._numbered:
            left = self._left_sure.pop((self.kernel_id, self.session_id), None)
            self._sure_until = self._position if left != self._position else None
        if self.recorder is not None:
            if self._position is None:
                arrival = await self.recorder.arrive(self.kernel_id)
                self._position, self._told = arrival or (None, [])
                self._confirmed = None if self._told else self._position
            if self._gone:
                return  # it did not wait
            self.recorder.attached(self.kernel_id, self)
        self._task = asyncio.create_task(self._run(), name=f"channels of {self.kernel_id}")

    def disconnect(self) -> None:  # type: ignore[override]
        """The browser is gone. What it had asked for is still delivered."""
        self._gone = True
        if self._position is not None and self._position == self._confirmed and not self._numbered:
            if len(self._left_sure) > _REMEMBERED:
                self._left_sure.clear()
            self._left_sure[self.kernel_id, self.session_id] = self._position
        if self.recorder is not None:
            self.recorder.left(self.kernel_id, self)
        if self._task is not None:
            if self._requests:
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
                self._requests.skip()
                return
        incoming_msg = tag_request(incoming_msg)
        if self.recorder is not None and is_answer(incoming_msg):
            self.recorder.answered(self.kernel_id)
        if trace.enabled():
            trace.websocket_frame("ui.from_browser", self.kernel_id, incoming_msg)
        self._requests.add(incoming_msg)
        self._unsent.set()

    # What the recorder asks

    @property
    def confirmed(self) -> Position | None:
        return self._confirmed

    @property
    def sent(self) -> Position | None:
        return self._position

    # The browser's side

    @property
    def _is_legacy(self) -> bool:
        return self.websocket_handler.selected_subprotocol is None

    def _where(self) -> Position | None:
        """Up to where the tab has got what the kernel said; None for a new one."""
        numbered = self.websocket_handler.get_query_argument("numbered", None)
        if numbered is None or self._is_legacy:
            return self._kept().get(self.kernel_id, self.session_id)
        self._numbered = True
        self._keeps = self.websocket_handler.get_query_argument("keeps", None) is not None
        journal, _, cursor = numbered.partition(":")
        return Position(journal, int(cursor)) if journal and cursor.isdecimal() else None

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
            self._flush()  # the answer is to be about what was written
            with contextlib.suppress(WebSocketClosedError):
                self.websocket_handler.ping(b"%d" % self._pinged)

    async def _deliver(self, cursor: int, payload: bytes | memoryview) -> None:
        """Write to the browser, at its pace."""
        if self._position is None or self._gone or self._writer is None:
            return
        if trace.enabled():
            trace.websocket_frame("ui.to_browser", self.kernel_id, payload, cursor=cursor)
        if self._is_legacy:
            message = frames.v1_to_legacy(payload)
            written, size = self._writer.write(message), len(message)
        else:
            number = (0 if self._told else cursor).to_bytes(8, "big") if self._numbered else b""
            written, size = self._writer.write_pieces(number, payload), len(payload)
        # It is on its way, also if the gateway's connection ends while we wait.
        self._position = Position(self._position.journal, cursor)
        self._ping_soon()
        self._on_its_way += size
        if self._on_its_way < _ON_ITS_WAY:
            return
        self._delivering = True
        try:
            await written
            self._on_its_way = 0
        except StreamClosedError:
            self._gone = True
        finally:
            self._delivering = False

    # The gateway's side

    async def _run(self) -> None:
        if self._position is not None:
            for message in self._told:
                await self._deliver(self._position.cursor, message)
        self._told = []
        failures = 0
        while not (self._gone and not self._requests):
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
                if code == NO_KERNEL and await self._is_gone():
                    return
                if code == BAD_FRAME and error.rcvd:
                    self._end(f"the gateway could not read a request: {error.rcvd.reason}")
                    return
                self._say_away(failures, str(error))
            except (OSError, ValueError, WebSocketException) as error:
                self._say_away(failures, str(error) or type(error).__name__)
            pause = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
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

    def _flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def _end(self, reason: str) -> None:
        """Close the browser's side; JupyterLab then asks what became of the kernel."""
        self.log.warning("Kernel %s: %s", self.kernel_id, reason)
        self._requests.clear()
        self._say_safe()
        self._flush()
        self.websocket_handler.close(1011, reason[:120])

    def _dial(self) -> dial:
        # A page of ours shows what other pages run, too.
        query = {"session_id": self.session_id} | ({"others": "1"} if self._numbered else {})
        if self._sure_until is not None and self._sure_until == self._position:
            query |= {"unsure": "1"}
        return open_channels(self.kernel_id, self._position, **query)

    async def _carry(self, upstream: ClientConnection) -> None:
        """Both directions until one fails. Raises what made it fail."""
        welcomed = asyncio.Event()
        tasks = [
            asyncio.create_task(self._receive(upstream, welcomed)),
            asyncio.create_task(self._send(upstream, welcomed)),
            asyncio.create_task(
                watch(
                    upstream,
                    lambda: self._delivering,
                    lambda: self._requests.size,
                )
            ),
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
            for kind, number, payload in frames.each(frame):
                if kind == frames.MESSAGE:
                    self._requests.heard(payload)
                    await self._deliver(number, payload)
                elif kind == frames.ACK:
                    self._requests.acknowledged(number)
                else:
                    self._notice(json.loads(bytes(payload)), welcomed)
            self._say_safe()
            if self._gone and not self._requests:
                return

    def _notice(self, notice: dict[str, Any], welcomed: asyncio.Event) -> None:
        if notice.get("event") == "missed":
            self.log.warning("Kernel %s: a tab missed %s messages", self.kernel_id, notice["count"])
        if notice.get("event") != "welcome":
            return
        if self._position is not None and self._position.journal != notice["journal"]:
            self._requests.branched()
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
        if self._numbered:
            self._tell(asdict(self._position))
        self._requests.connected()
        welcomed.set()

    def _say_safe(self) -> None:
        """Tell the page what it need not keep."""
        safe = self._requests.safe
        if self._keeps and safe > self._told_safe:
            self._told_safe = safe
            self._tell({"safe": safe})

    def _tell(self, notice: dict[str, Any]) -> None:
        with contextlib.suppress(WebSocketClosedError):
            self._flush()
            self.websocket_handler.write_message(notice)

    async def _send(self, upstream: ClientConnection, welcomed: asyncio.Event) -> None:
        await welcomed.wait()
        while True:
            self._unsent.clear()
            for number, payload in self._requests.unsent():
                if trace.enabled():
                    trace.websocket_frame("ui.to_gateway", self.kernel_id, payload)
                await upstream.send(_in_fragments(frames.message(number, payload)))
            await self._unsent.wait()


def _in_fragments(message: bytes) -> bytes | list[bytes]:
    """What `websockets` sends in several frames, where it is large."""
    if len(message) <= _FRAGMENT:
        return message
    return [message[at : at + _FRAGMENT] for at in range(0, len(message), _FRAGMENT)]
