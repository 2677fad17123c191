"""Connections of agents, the gateway's end: `/agents`. docs/architecture.md §Agent connection."""

from __future__ import annotations

import json
import logging
from typing import Any

from tornado.websocket import WebSocketClosedError, WebSocketHandler

from gateway.auth import ErrorsInWords, check_token
from gateway.calls import VERSION, Calls, decode_frame, encode_frame, versions_match
from gateway.errors import BadFrame, GatewayError, VersionRefused

log = logging.getLogger(__name__)


class Agents:
    """Told what agents say. Override; all but `called` must not block.

    `frame` may raise `GatewayError` (an agent that speaks for what it no longer has, say): it is
    logged and the connection stays.
    """

    def joined(self, connection: AgentConnection, hello: dict[str, Any]) -> None:
        """An agent connected, and said this. May raise `GatewayError` to refuse it, with words."""

    def event(self, connection: AgentConnection, event: dict[str, Any]) -> None:
        """Anything but `hello`: a heartbeat, say."""

    def frame(self, connection: AgentConnection, kernel_id: str, frame: bytes) -> None:
        """A link frame of a kernel's shim."""

    async def called(self, connection: AgentConnection, method: str, params: dict[str, Any]) -> Any:
        """A call of the agent; the result."""
        raise BadFrame(f"The gateway does not answer {method}.")

    def left(self, connection: AgentConnection) -> None:
        """The connection has ended. Only after `joined`."""


class AgentConnection(ErrorsInWords, WebSocketHandler):
    """One agent. `node`: its name, from its hello."""

    node = "agent"

    def initialize(self, agents: Agents) -> None:
        self._agents = agents
        self._joined = False
        self._calls = Calls(
            "the agent",
            self._write_text,
            lambda method, params: agents.called(self, method, params),
            self._on_event,
        )

    def prepare(self) -> None:
        check_token(self.request, self.settings["token"])

    def get_compression_options(self) -> dict[str, Any] | None:
        return None

    def check_origin(self, origin: str) -> bool:
        return True  # the token decides; agents are no browsers

    def open(self, *args: str, **kwargs: str) -> None:
        self.set_nodelay(True)

    # -- for the keeper ---------------------------------------------------------------------------

    async def call(self, method: str, params: dict[str, Any], wait: float = 60.0) -> Any:
        """Call the agent; its result.

        Raises `RemoteError` (the agent's own words), `AgentTimeout` after `wait` seconds, or
        `AgentGone`.
        """
        return await self._calls.call(method, params, wait)

    def send_frame(self, kernel_id: str, frame: bytes) -> None:
        """A link frame for a kernel's shim. Lost if the connection is: the link makes up for it."""
        try:
            self.write_message(encode_frame(kernel_id, frame), binary=True)
        except WebSocketClosedError:
            log.debug("%s is gone; a frame for %s was not sent", self.node, kernel_id)

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
        try:
            if isinstance(message, str):
                self._calls.received(message)
            elif self._joined:
                self._agents.frame(self, *decode_frame(message))
        except GatewayError as error:
            log.warning("%s: %s", self.node, error)

    def on_close(self) -> None:
        self._calls.close()
        if self._joined:
            self._joined = False
            self._agents.left(self)

    def _on_event(self, event: dict[str, Any]) -> None:
        if event.get("event") != "hello":
            if self._joined:
                self._agents.event(self, event)
            return
        try:
            if not versions_match(event):
                raise VersionRefused(
                    f"The agent speaks version {event.get('version')} of the agent protocol, "
                    f"this gateway {list(VERSION)}."
                )
            self.node = str(event.get("node") or "agent")
            self._agents.joined(self, event)
            self._joined = True
        except GatewayError as error:
            self.send_event({"event": "refused", "error": error.to_wire()})
            self.close(4400, str(error))
            return
        self.send_event({"event": "welcome", "version": VERSION})

    def _write_text(self, text: str) -> None:
        try:
            self.write_message(text)
        except WebSocketClosedError:
            log.debug("%s is gone; nothing was written", self.node)
