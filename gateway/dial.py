"""Connections of agents, the agent's end: dials the gateway, so it works behind NAT."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.protocol import State

from gateway.calls import VERSION, Calls, decode_frame, knows_pieces, knows_several
from gateway.errors import AgentGone, GatewayError, RemoteError, Unauthorized
from gateway.hop import PeerWatch, prompt
from gateway.identity import SCHEME, Identity
from gateway.outbox import Outbox, Pieces, frames_in

log = logging.getLogger(__name__)

# Bytes of a kernel that wait to be sent before its shim is held back, and before it may go on.
_HIGH, _LOW = 4 << 20, 1 << 20


class _Heard(ClientConnection):
    """A connection that tells when it hears anything."""

    on_data: Callable[[], None] = staticmethod(lambda: None)

    def data_received(self, data: bytes) -> None:
        self.on_data()
        super().data_received(data)


class AgentLink:
    """One connection to the gateway; make it with `connect`. Redialling is the caller's."""

    def __init__(
        self,
        socket: ClientConnection,
        on_call: Callable[[str, dict[str, Any]], Awaitable[Any]] | None,
        on_event: Callable[[dict[str, Any]], None] | None,
        on_frame: Callable[[str, bytes], None] | None,
        on_pressure: Callable[[str, bool], None] | None,
    ) -> None:
        self._socket = socket
        self._on_frame = on_frame
        self._on_pressure = on_pressure
        self._calls = Calls("the gateway", self._text, on_call, on_event)
        self._out = Outbox()
        self._pieces = Pieces()
        self._pressed: set[str] = set()
        self._wake = asyncio.Event()
        self._held: list[str | bytes] | None = []
        loop = asyncio.get_running_loop()
        self._welcome: asyncio.Future[None] = loop.create_future()
        self._challenge: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._closed = asyncio.get_running_loop().create_future()
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._send())]
        prompt(socket.transport.get_extra_info("socket"))
        self._watch = PeerWatch(
            self._probe, self._fell_silent, unsent=socket.transport.get_write_buffer_size
        )
        if isinstance(socket, _Heard):
            socket.on_data = self._watch.heard

    @classmethod
    async def connect(
        cls,
        url: str,
        shows: str | Identity,
        hello: dict[str, Any],
        *,
        on_call: Callable[[str, dict[str, Any]], Awaitable[Any]] | None = None,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        on_frame: Callable[[str, bytes], None] | None = None,
        on_pressure: Callable[[str, bool], None] | None = None,
        wait: float = 20.0,
    ) -> AgentLink:
        """Dial `url` (http or ws, without `/agents`), say hello, return when welcome.

        `shows` is the agents' token, or who the node is that has joined. The way of the latter is
        through a proxy where the environment names one for the URL (`HTTPS_PROXY`, `NO_PROXY`).

        `on_call(method, params)` answers the gateway's calls, `on_event(event)` gets its events,
        `on_frame(kernel_id, frame)` link frames. `on_pressure(kernel_id, True)`: the gateway takes
        less than there is, hold that kernel's shim back; `False`: let it go on.

        Raises `AgentGone` (cannot connect; retryable), `Unauthorized`, `WrongGateway`,
        `RemoteError` (refused, with the gateway's words).
        """
        address = url.rstrip("/").replace("http", "ws", 1) + "/agents"
        scheme, word = ("token", shows) if isinstance(shows, str) else (SCHEME, shows.name)
        try:
            socket = await connect(
                address,
                additional_headers={"Authorization": f"{scheme} {word}"},
                max_size=None,
                compression=None,
                create_connection=_Heard,
                open_timeout=wait,
                proxy=True if isinstance(shows, Identity) else None,
                ping_interval=None,  # its own counts no data, and would give up on a busy peer
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
        try:
            async with asyncio.timeout(wait):
                if isinstance(shows, Identity):
                    challenge = await link._until_welcome(link._challenge)
                    hello = {**hello, "node": shows.name, "proof": shows.answer(challenge)}
                link._text(json.dumps({"event": "hello", "version": VERSION, **hello}))
                await asyncio.shield(link._welcome)
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
        """A link frame for the gateway, or the next piece of one (`gateway.outbox`). Lost if the
        connection is: the link makes up for it.
        """
        if self._closed.done():
            return
        if self._out.frame(kernel_id, frame) > _HIGH:
            self._press(kernel_id, True)
        self._wake.set()

    def send_event(self, event: dict[str, Any]) -> None:
        """Tell the gateway something that needs no answer. Raises `AgentGone`."""
        if self._closed.done():
            raise AgentGone("The connection to the gateway has ended.")
        self._text(json.dumps(event))

    async def wait_closed(self) -> None:
        """Until the connection has ended, for whatever reason."""
        await asyncio.shield(self._closed)

    async def close(self) -> None:
        """End the connection."""
        await self._socket.close()
        await self.wait_closed()

    # -- inside -----------------------------------------------------------------------------------

    def _text(self, message: str) -> None:
        if not self._closed.done():
            self._out.text(message)
            self._wake.set()

    def _press(self, kernel_id: str, pressed: bool) -> None:
        if pressed != (kernel_id in self._pressed):
            (self._pressed.add if pressed else self._pressed.discard)(kernel_id)
            if self._on_pressure is not None:
                self._on_pressure(kernel_id, pressed)

    def _probe(self) -> None:
        # While bytes wait, a ping would wait behind them, and tell nothing.
        if not self._socket.transport.get_write_buffer_size() and self._socket.state is State.OPEN:
            self._pinging = asyncio.ensure_future(self._ping())

    async def _ping(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self._socket.ping()

    def _fell_silent(self) -> None:
        log.warning("the gateway has fallen silent; its connection is given up")
        self._socket.transport.abort()

    async def _send(self) -> None:
        try:
            while True:
                while (waiting := self._out.next()) is not None:
                    message, kernel_id, left = waiting
                    await self._socket.send(message)
                    if kernel_id in self._pressed and left < _LOW:
                        self._press(kernel_id, False)
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
                kernel_id, body = decode_frame(message)
                for one in frames_in(body):
                    frame = self._pieces.take(kernel_id, one)
                    if frame is not None:
                        self._on_frame(kernel_id, bytes(frame))
        except GatewayError as error:
            log.warning("from the gateway: %s", error)

    def _begin(self) -> None:
        held, self._held = self._held or [], None
        for message in held:
            self._received(message)

    async def _until_welcome(self, said: asyncio.Future[dict[str, Any]]) -> dict[str, Any]:
        """What the gateway says before it welcomes us, or why it never will."""
        either: set[asyncio.Future[Any]] = {said, self._welcome}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not said.done():
            self._welcome.result()
            raise AgentGone("The gateway did not ask who this is.")
        return said.result()

    def _is_greeting(self, message: str) -> bool:
        greeting = json.loads(message)
        if greeting.get("event") == "welcome":
            self._out.pieces = knows_pieces(greeting)
            self._out.several = knows_several(greeting)
            self._welcome.set_result(None)
        elif greeting.get("event") == "refused":
            self._welcome.set_exception(RemoteError(greeting.get("error") or {}))
        elif greeting.get("event") == "challenge" and not self._challenge.done():
            self._challenge.set_result(greeting)
        else:
            return False
        return True

    def _ended(self) -> None:
        self._tasks[1].cancel()
        self._watch.close()
        self._out.clear()
        self._calls.close()
        if not self._welcome.done():
            self._welcome.set_exception(AgentGone("The gateway closed the connection."))
            self._welcome.exception()
        if not self._closed.done():
            self._closed.set_result(None)
        for kernel_id in list(self._pressed):
            self._press(kernel_id, False)
