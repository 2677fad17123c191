"""Requests that a gateway has written down and not answered yet.

They are safe while its machine is. If that breaks, another gateway goes on from the newest
checkpoint, with a journal that *branches off* there and may not have them: they are asked again. It
knows by the `msg_id` those that it has.
"""

from __future__ import annotations

import json
from collections import OrderedDict

from jupyter_server.services.kernels.connection.base import deserialize_msg_from_ws_v1

__all__ = ["Asked"]

_MOST = 16 << 20
"""Bytes that are kept; the oldest go first."""

_REPLIES = (b"shell", b"control")


class Asked:
    """The requests of one tab, in `v1.kernel.websocket.jupyter.org`."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[int, bytes]] = OrderedDict()
        self._bytes = 0

    def acknowledged(self, number: int, request: bytes) -> None:
        """The gateway has the request of that number."""
        header = json.loads(_parts(request)[0])
        if str(header.get("msg_type", "")).endswith("_request"):
            self._kept[header.get("msg_id", "")] = (number, request)
            self._bytes += len(request)
            while self._bytes > _MOST:
                self._forget(next(iter(self._kept)))

    def heard(self, message: bytes | memoryview) -> None:
        """The kernel said something: perhaps a reply."""
        if self._kept and _channel(message) in _REPLIES:
            self._forget(json.loads(_parts(message)[1]).get("msg_id", ""))

    def again(self) -> dict[int, bytes]:
        """What is to be asked again, by number."""
        found = dict(self._kept.values())
        self._kept.clear()
        self._bytes = 0
        return found

    def _forget(self, msg_id: str) -> None:
        _, request = self._kept.pop(msg_id, (0, b""))
        self._bytes -= len(request)


def _channel(message: bytes | memoryview) -> bytes:
    start, end = (int.from_bytes(message[at : at + 8], "little") for at in (8, 16))
    return bytes(message[start:end])


def _parts(message: bytes | memoryview) -> list[bytes]:
    parts: list[bytes] = deserialize_msg_from_ws_v1(bytes(message))[1]  # type: ignore[no-untyped-call]
    return parts
