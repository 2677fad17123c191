"""Connections of agents, the gateway's end: `/agents`. docs/architecture.md §Agent connection."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from typing import Any

from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClosedError

from gateway.auth import ErrorsInWords, check_token
from gateway.calls import (
    VERSION,
    Calls,
    decode_frame,
    knows_pieces,
    knows_several,
    versions_match,
)
from gateway.errors import BadFrame, GatewayError, VersionRefused
from gateway.hop import PeerWatch, prompt
from gateway.outbox import Outbox, Pieces, frames_in
from gateway.reader import ReadsAhead
from gateway.writer import write_now

log = logging.getLogger(__name__)

# Seconds in which an agent says hello, and bytes of a message until then: it may be anybody.
HELLO_SECONDS, HELLO_BYTES = 20.0, 4 << 20
# Bytes of a message afterwards, from an agent that sends long link frames in pieces.
MESSAGE_BYTES = 64 << 20
# Answers and events that wait for an agent which does not read them.
MOST_WAITING = 5_000


class Agents:
    """Told what agents say. Override; all but `called` must not block.

    `frame` may raise `GatewayError` (an agent that speaks for what it no longer has, say): it is
    logged and the connection stays.
    """

    def joined(self, connection: AgentConnection, hello: dict[str, Any]) -> None:
        """An agent connected, and said this. May raise `GatewayError` to refuse it, with words."""

    def event(self, connection: AgentConnection, event: dict[str, Any]) -> None:
        """Anything but `hello`: a heartbeat, say."""

    def hears(self, connection: AgentConnection, kernel_id: str) -> bool:
        """Whether it runs there: else pieces of its frames are not kept until they are whole."""
        return True

    def frame(self, connection: AgentConnection, kernel_id: str, frame: bytes | memoryview) -> None:
        """A link frame of a kernel's shim; of one that is not heard maybe a piece of it."""

    async def called(self, connection: AgentConnection, method: str, params: dict[str, Any]) -> Any:
        """A call of the agent; the result."""
        raise BadFrame(f"The gateway does not answer {method}.")

    def left(self, connection: AgentConnection) -> None:
        """The connection has ended. Only after `joined`."""


class AgentConnection(ErrorsInWords, ReadsAhead):
    """One agent. `node`: its name, from its hello."""

    node = "agent"

    def initialize(self, agents: Agents) -> None:
        self._agents = agents
        self._joined = False
        self._outbox = Outbox()
        self._pieces = Pieces()
        self._blocked = False
        self._watch: PeerWatch | None = None
        self._greeting: asyncio.TimerHandle | None = None
        self._calls = Calls(
            "the agent",
            self._write_text,
            lambda method, params: agents.called(self, method, params),
            self._on_event,
        )

    def prepare(self) -> None:
        check_token(self.request, self.settings["token"])

    def admit(self, hello: dict[str, Any]) -> None:
        """Look at who says hello; may change what it says of itself. Raises `GatewayError` for whom
        is not let in, with words. Here what `prepare` has seen is enough.
        """

    @property
    def max_message_size(self) -> int:
        return HELLO_BYTES

    def get_compression_options(self) -> dict[str, Any] | None:
        return None

    def check_origin(self, origin: str) -> bool:
        return True  # the token decides; agents are no browsers

    def open(self, *args: str, **kwargs: str) -> None:
        self.set_nodelay(True)
        prompt(self._stream.socket)
        self._watch = PeerWatch(self._probe, self._fell_silent)
        loop = asyncio.get_running_loop()
        self._greeting = loop.call_later(HELLO_SECONDS, self._said_nothing)

    def _said_nothing(self) -> None:
        if not self._joined:
            log.warning("who connected as an agent did not say hello")
            self.close(4408, "no hello")

    def _fell_silent(self) -> None:
        log.warning("%s has fallen silent; its connection is given up", self.node)
        if self._stream is not None:
            self._stream.close()

    @property
    def _stream(self) -> Any:
        return self.ws_connection.stream if self.ws_connection is not None else None

    def _probe(self) -> None:
        with suppress(WebSocketClosedError):
            self.ping()

    def on_pong(self, data: bytes) -> None:
        self._heard()

    def _heard(self) -> None:
        if self._watch is not None:
            self._watch.heard()

    # -- for the keeper ---------------------------------------------------------------------------

    async def call(self, method: str, params: dict[str, Any], wait: float = 60.0) -> Any:
        """Call the agent; its result.

        Raises `RemoteError` (the agent's own words), `AgentTimeout` after `wait` seconds, or
        `AgentGone`.
        """
        return await self._calls.call(method, params, wait)

    def send_frame(self, kernel_id: str, frame: bytes | memoryview) -> None:
        """A link frame for a kernel's shim. Lost if the connection is: the link makes up for it."""
        self._outbox.frame(kernel_id, frame)
        self._flush()

    def send_event(self, event: dict[str, Any]) -> None:
        """Tell the agent something that needs no answer."""
        self._write_text(json.dumps(event))

    def close(self, code: int | str | None = None, reason: str | None = None) -> None:
        """End the connection, with a reason that the agent logs. `close("reason")` works too."""
        if isinstance(code, str):
            code, reason = None, code
        super().close(code or 1000, (reason or "")[:120])

    # -- tornado ----------------------------------------------------------------------------------

    def on_message(self, message: str | bytes) -> None:
        self._heard()
        try:
            if isinstance(message, str):
                self._calls.received(message)
            elif self._joined:
                kernel_id, body = decode_frame(message)
                for one in frames_in(body):
                    self._take(kernel_id, one)
        except GatewayError as error:
            log.warning("%s: %s", self.node, error)

    def _take(self, kernel_id: str, body: bytes | memoryview) -> None:
        frame: bytes | memoryview | None = body
        try:
            if self._agents.hears(self, kernel_id):
                frame = self._pieces.take(kernel_id, body)
            else:
                self._pieces.forget(kernel_id)
            if frame is not None:
                self._agents.frame(self, kernel_id, frame)
        except GatewayError as error:  # those that came with it are as good as ever
            log.warning("%s: %s", self.node, error)

    def on_close(self) -> None:
        self._calls.close()
        self._outbox.clear()
        if self._watch is not None:
            self._watch.close()
        if self._greeting is not None:
            self._greeting.cancel()
        if self._joined:
            self._joined = False
            self._agents.left(self)

    def _on_event(self, event: dict[str, Any]) -> None:
        if event.get("event") != "hello" or self._joined:
            if self._joined:
                self._agents.event(self, event)
            return
        try:
            if not versions_match(event):
                raise VersionRefused(
                    f"The agent speaks version {event.get('version')} of the agent protocol, "
                    f"this gateway {list(VERSION)}."
                )
            self.admit(event)
            self.node = str(event.get("node") or "agent")
            self._outbox.pieces = knows_pieces(event)
            self._outbox.several = knows_several(event)
            self._agents.joined(self, event)
            self._joined = True
            self._take_larger(MESSAGE_BYTES if self._outbox.pieces else super().max_message_size)
        except GatewayError as error:
            self.send_event({"event": "refused", "error": error.to_wire()})
            log.warning("%s was refused: %s", self.node, error)
            self.close(4400, str(error))
            return
        self.send_event({"event": "welcome", "version": VERSION})

    def _take_larger(self, size: int) -> None:
        connection: Any = self.ws_connection
        if connection is not None:
            connection.params.max_message_size = size

    def _write_text(self, text: str) -> None:
        self._outbox.text(text)
        self._flush()
        if self._outbox.texts > MOST_WAITING and self._stream is not None:
            log.warning("%s does not read what it is told; its connection is given up", self.node)
            self._stream.close()

    def _flush(self) -> None:
        """Write until the socket takes no more: what waits is in the outbox, where it has turns."""
        connection = self.ws_connection
        try:
            while not self._blocked and (waiting := self._outbox.next()) is not None:
                if connection is None or connection.is_closing():
                    raise StreamClosedError
                written = write_now(self._stream, waiting[0])
                if self._writing():
                    self._blocked = True
                    written.add_done_callback(self._written)
        except StreamClosedError:
            self._outbox.clear()

    def _written(self, written: asyncio.Future[None]) -> None:
        if not written.cancelled() and written.exception() is None and self._blocked:
            self._blocked = self._writing()
            self._flush()

    def _writing(self) -> bool:
        return self._stream is not None and bool(self._stream.writing())
