"""Connections of agents, the agent's end: dials the gateway, so it works behind NAT."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from gateway.calls import VERSION, Calls, decode_frame, encode_frame
from gateway.errors import AgentGone, GatewayError, RemoteError, Unauthorized

log = logging.getLogger(__name__)

# Bytes that wait to be sent before the shims are held back, and before they may go on.
_HIGH, _LOW = 32 << 20, 8 << 20


class AgentLink:
    """One connection to the gateway; make it with `connect`. Redialling is the caller's."""

    def __init__(
        self,
        socket: ClientConnection,
        on_call: Callable[[str, dict[str, Any]], Awaitable[Any]] | None,
        on_event: Callable[[dict[str, Any]], None] | None,
        on_frame: Callable[[str, bytes], None] | None,
        on_pressure: Callable[[bool], None] | None,
    ) -> None:
        self._socket = socket
        self._on_frame = on_frame
        self._on_pressure = on_pressure
        self._calls = Calls("the gateway", self._put, on_call, on_event)
        self._out: deque[str | bytes] = deque()
        self._waiting_bytes = 0
        self._pressed = False
        self._wake = asyncio.Event()
        self._held: list[str | bytes] | None = []
        self._welcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed = asyncio.get_running_loop().create_future()
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._send())]

    @classmethod
    async def connect(
        cls,
        url: str,
        token: str,
        hello: dict[str, Any],
        *,
        on_call: Callable[[str, dict[str, Any]], Awaitable[Any]] | None = None,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        on_frame: Callable[[str, bytes], None] | None = None,
        on_pressure: Callable[[bool], None] | None = None,
        wait: float = 20.0,
    ) -> AgentLink:
        """Dial `url` (http or ws, without `/agents`), say hello, return when welcome.

        `on_call(method, params)` answers the gateway's calls, `on_event(event)` gets its events,
        `on_frame(kernel_id, frame)` link frames. `on_pressure(True)`: the gateway takes less than
        there is, hold the shims back; `False`: let them go on.

        Raises `AgentGone` (cannot connect; retryable), `Unauthorized`, `RemoteError` (refused, with
        the gateway's words).
        """
        address = url.rstrip("/").replace("http", "ws", 1) + "/agents"
        try:
            socket = await connect(
                address,
                additional_headers={"Authorization": f"token {token}"},
                max_size=None,
                compression=None,
                open_timeout=wait,
                ping_interval=None,  # heartbeats are the agent's own
                close_timeout=1,
            )
        except InvalidStatus as error:
            if error.response.status_code in (401, 403):  # 403: gateways before 0.2
                raise Unauthorized("The gateway refused the agent's token.") from None
            raise AgentGone(
                f"The gateway at {url} answered {error.response.status_code}."
            ) from None
        except (OSError, TimeoutError, WebSocketException) as error:
            raise AgentGone(f"The gateway at {url} cannot be reached: {error}.") from error
        link = cls(socket, on_call, on_event, on_frame, on_pressure)
        link._put(json.dumps({"event": "hello", "version": VERSION, **hello}))
        try:
            await asyncio.wait_for(asyncio.shield(link._welcome), wait)
        except TimeoutError:
            await link.close()
            raise AgentGone(f"The gateway at {url} did not answer the hello.") from None
        except GatewayError:
            await link.close()
            raise
        # What comes early waits until the caller has its link in hand and can answer over it.
        asyncio.get_running_loop().call_soon(link._begin)
        return link

    async def call(self, method: str, params: dict[str, Any], wait: float = 60.0) -> Any:
        """Call the gateway. Raises `RemoteError`, `AgentTimeout`, `AgentGone`."""
        return await self._calls.call(method, params, wait)

    def send_frame(self, kernel_id: str, frame: bytes) -> None:
        """A link frame for the gateway. Lost if the connection is: the link makes up for it."""
        self._put(encode_frame(kernel_id, frame))

    def send_event(self, event: dict[str, Any]) -> None:
        """Tell the gateway something that needs no answer. Raises `AgentGone`."""
        if self._closed.done():
            raise AgentGone("The connection to the gateway has ended.")
        self._put(json.dumps(event))

    async def wait_closed(self) -> None:
        """Until the connection has ended, for whatever reason."""
        await asyncio.shield(self._closed)

    async def close(self) -> None:
        """End the connection."""
        await self._socket.close()
        await self.wait_closed()

    # -- inside -----------------------------------------------------------------------------------

    def _put(self, message: str | bytes) -> None:
        if self._closed.done():
            return
        self._out.append(message)
        self._waiting_bytes += len(message)
        self._wake.set()
        if self._waiting_bytes > _HIGH:
            self._press(True)

    def _press(self, pressed: bool) -> None:
        if pressed != self._pressed:
            self._pressed = pressed
            if self._on_pressure is not None:
                self._on_pressure(pressed)

    async def _send(self) -> None:
        try:
            while True:
                while self._out:
                    message = self._out.popleft()
                    await self._socket.send(message)
                    self._waiting_bytes -= len(message)
                    if self._waiting_bytes < _LOW:
                        self._press(False)
                self._wake.clear()
                await self._wake.wait()
        except ConnectionClosed:
            pass

    async def _read(self) -> None:
        try:
            async for message in self._socket:
                if self._held is None:
                    self._received(message)
                elif isinstance(message, bytes) or not self._is_greeting(message):
                    self._held.append(message)
        except ConnectionClosed as error:
            log.info("the gateway closed the connection: %s", error)
        finally:
            self._ended()

    def _received(self, message: str | bytes) -> None:
        try:
            if isinstance(message, str):
                self._calls.received(message)
            elif self._on_frame is not None:
                self._on_frame(*decode_frame(message))
        except GatewayError as error:
            log.warning("from the gateway: %s", error)

    def _begin(self) -> None:
        held, self._held = self._held or [], None
        for message in held:
            self._received(message)

    def _is_greeting(self, message: str) -> bool:
        greeting = json.loads(message)
        if greeting.get("event") == "welcome":
            self._welcome.set_result(None)
        elif greeting.get("event") == "refused":
            self._welcome.set_exception(RemoteError(greeting.get("error") or {}))
        else:
            return False
        return True

    def _ended(self) -> None:
        self._tasks[1].cancel()
        self._out.clear()
        self._waiting_bytes = 0
        self._calls.close()
        if not self._welcome.done():
            self._welcome.set_exception(AgentGone("The gateway closed the connection."))
            self._welcome.exception()
        if not self._closed.done():
            self._closed.set_result(None)
        self._press(False)
