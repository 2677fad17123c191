"""Reads the frames of a peer's WebSocket: what has come, at once.

Tornado asks its stream for a frame in three or four steps, and each of them may ask the operating
system. That cost more than all that is done with a small message.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

from tornado.websocket import WebSocketHandler, WebSocketProtocol, WebSocketProtocol13

# Bytes that are read ahead, at most. What is longer is read as Tornado does.
AHEAD = 1 << 16


class ReadingAhead(WebSocketProtocol13):
    """Tornado's protocol, whose steps take from what was read."""

    _ahead = b""
    _at = 0

    async def _read_bytes(self, n: int) -> bytes:
        self._wire_bytes_in += n
        end = self._at + n
        while len(self._ahead) < end:
            rest = self._ahead[self._at :]
            missing = n - len(rest)
            if missing > AHEAD:
                self._ahead, self._at = b"", 0
                return rest + await self.stream.read_bytes(missing)
            more = await self.stream.read_bytes(AHEAD, partial=True)
            self._ahead, self._at, end = rest + more, 0, n
        found = self._ahead[self._at : end]
        self._at = end
        return found


class ReadsAhead(WebSocketHandler):
    """A handler of such a WebSocket."""

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        return _ahead(self, super().get_websocket_protocol())


def read_ahead(handler: WebSocketHandler) -> None:
    """Have a handler that somebody else has made, and whose WebSocket is not open yet, read so."""
    protocol = handler.get_websocket_protocol
    handler.get_websocket_protocol = (  # type: ignore[method-assign]
        lambda: _ahead(handler, protocol())
    )


def _ahead(
    handler: WebSocketHandler, protocol: WebSocketProtocol | None
) -> WebSocketProtocol | None:
    if isinstance(protocol, WebSocketProtocol13):
        return ReadingAhead(handler, protocol.mask_outgoing, protocol.params)
    return protocol
