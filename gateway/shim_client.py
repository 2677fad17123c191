"""The agent's end of a shim: relays the link's frames, makes LOCAL calls.

The connection may end at any time and be opened again: the shim and its kernel do not mind.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import struct
from collections.abc import Callable
from typing import Any, cast

from gateway.errors import AgentTimeout, RemoteError, ShimGone
from gateway.frames import LOCAL, decode_local, encode_local
from gateway.hop import PeerWatch, prompt
from gateway.outbox import PIECE, first_piece, next_piece

log = logging.getLogger(__name__)

_LENGTH = struct.Struct(">I")
# Seconds: there may be hundreds of shims on a node, and each probe wakes one.
_PROBE, _SILENT = 2.0, 2.5


class ShimClient(asyncio.Protocol):
    """One connection to a shim; make it with `connect`.

    `on_frame(frame)` gets every frame that is for the gateway, long ones in pieces, as they come
    (`gateway.outbox`), so that none is held here as a whole. `on_event(event)`: the shim's own
    words to the agent (`started`, `exited`), `on_close()` is called once when the connection ends.
    A shim that falls silent is given up, unless `quiet()` says that it stands still.
    """

    def __init__(
        self,
        token: str,
        on_frame: Callable[[bytes], None],
        on_event: Callable[[dict[str, Any]], None] | None = None,
        on_close: Callable[[], None] | None = None,
        quiet: Callable[[], bool] = lambda: False,
    ) -> None:
        self._quiet = quiet
        self._paused = False
        self._watch: PeerWatch | None = None
        self._token = token
        self._on_frame = on_frame
        self._on_event = on_event
        self._on_close = on_close
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._rest = 0  # bytes to come of a frame that goes in pieces
        self._numbers = itertools.count(1)
        self._calls: dict[int, asyncio.Future[Any]] = {}
        # The kernel's process, as the shim sees it, when it was last heard of; None without one.
        self.kernel_pid: int | None = None

    @classmethod
    async def connect(
        cls,
        listen: dict[str, Any],
        token: str,
        on_frame: Callable[[bytes], None],
        on_event: Callable[[dict[str, Any]], None] | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> ShimClient:
        """Connect to `{"unix": path}` or `{"tcp": [host, port]}`. Raises `ShimGone`."""
        loop = asyncio.get_running_loop()

        def make() -> ShimClient:
            return cls(token, on_frame, on_event, on_close)

        try:
            if "unix" in listen:
                _, client = await loop.create_unix_connection(make, listen["unix"])
            else:
                _, client = await loop.create_connection(make, *listen["tcp"])
        except OSError as error:
            raise ShimGone(f"The shim cannot be reached: {error}.") from error
        return client

    def send_frame(self, frame: bytes) -> None:
        """Relay a frame of the gateway. Lost if the connection is; the link makes up for it."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines((_LENGTH.pack(len(frame)), frame))

    async def call(self, name: str, *, wait: float = 60.0, **params: Any) -> Any:
        """A LOCAL call; its result.

        Raises `RemoteError` (what the shim said), `ShimGone`, `AgentTimeout` after `wait` seconds.
        """
        if self._transport is None or self._transport.is_closing():
            raise ShimGone(f"The connection to the shim is closed; {name} was not called.")
        number = next(self._numbers)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls[number] = future
        self.send_frame(encode_local({"id": number, "call": name, **params}))
        try:
            return await asyncio.wait_for(future, wait)
        except TimeoutError:
            raise AgentTimeout(f"The shim did not answer {name} in {wait:g} s.") from None
        finally:
            self._calls.pop(number, None)

    def close(self) -> None:
        """Close the connection; the shim and its kernel go on."""
        if self._transport is not None:
            self._transport.close()

    # -- asyncio.Protocol ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        prompt(transport.get_extra_info("socket"))
        self.send_frame(self._token.encode())
        self._watch = PeerWatch(self._probe, self._fell_silent, every=_PROBE, silent=_SILENT)

    def _probe(self) -> None:
        if self._paused or self._quiet():
            self._heard()
        else:
            self.send_frame(encode_local({"id": 0, "call": "status"}))

    def _fell_silent(self) -> None:
        log.warning("a shim has fallen silent; its connection is given up")
        if self._transport is not None:
            self._transport.abort()

    def _heard(self) -> None:
        if self._watch is not None:
            self._watch.heard()

    def data_received(self, data: bytes) -> None:
        self._heard()
        buffer = self._buffer
        buffer += data
        at, have = 0, len(buffer)
        with memoryview(buffer) as view:
            while True:
                if self._rest:
                    piece = view[at : at + min(self._rest, PIECE)]
                    if not piece or (len(piece) < PIECE and len(piece) < self._rest):
                        piece.release()
                        break
                    self._on_frame(next_piece(piece))
                    self._rest -= len(piece)
                    at += len(piece)
                    piece.release()
                    continue
                if have - at < 5:
                    break
                (size,) = _LENGTH.unpack_from(buffer, at)
                if size > 2 * PIECE and buffer[at + 4] != LOCAL:
                    self._on_frame(first_piece(size, b""))
                    self._rest = size
                    at += 4
                    continue
                if have - at - 4 < size:
                    break
                frame = bytes(view[at + 4 : at + 4 + size])
                at += 4 + size
                if frame[0] == LOCAL:
                    self._local(decode_local(frame))
                else:
                    self._on_frame(frame)
        del buffer[:at]

    def _local(self, message: dict[str, Any]) -> None:
        if "event" in message:
            if self._on_event is not None:
                self._on_event(message)
            return
        result = message.get("result")
        if isinstance(result, dict) and "pid" in result:
            self.kernel_pid = result["pid"]
        future = self._calls.get(message.get("id", 0))
        if future is None or future.done():
            return
        if "error" in message:
            future.set_exception(RemoteError(message["error"]))
        else:
            future.set_result(result)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.close()
        for future in self._calls.values():
            if not future.done():
                future.set_exception(ShimGone("The connection to the shim has ended."))
        if self._on_close is not None:
            self._on_close()

    # -- backpressure: a slow gateway holds the shim back ----------------------------------------

    def pause(self) -> None:
        """Read no more from the shim; it will hold its kernel back when it has kept enough."""
        self._paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        self._paused = False
        self._heard()
        if self._transport is not None:
            self._transport.resume_reading()
