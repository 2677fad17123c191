"""Kernel messages on a WebSocket, in the form that JupyterLab and the server agree on: the binary
`v1.kernel.websocket.jupyter.org`, else the JSON of old (a stock server with a kernel gateway behind
it has nothing else).
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import json
import struct
from itertools import pairwise
from typing import Any, NamedTuple

from jupyter_server.services.kernels.connection.base import serialize_msg_to_ws_v1
from websockets.typing import Subprotocol

__all__ = ["SUBPROTOCOL", "Received", "decode", "encode"]

SUBPROTOCOL = Subprotocol("v1.kernel.websocket.jupyter.org")


class Received(NamedTuple):
    """What came: the channel, and the id of the request that it answers (empty for none). The rest
    of a binary message is not parsed before `open`."""

    channel: str
    request: str
    parts: list[bytes] | dict[str, Any]

    def open(self) -> tuple[str, dict[str, Any]]:
        """Its type and content."""
        if isinstance(self.parts, dict):
            return self.parts["header"]["msg_type"], self.parts["content"]
        return json.loads(self.parts[0])["msg_type"], json.loads(self.parts[3])


def encode(header: dict[str, Any], content: dict[str, Any], *, binary: bool) -> bytes | str:
    """A request on the shell channel."""
    if binary:
        parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
        frame: bytes = serialize_msg_to_ws_v1(parts, "shell")
        return frame
    rest: dict[str, Any] = {"parent_header": {}, "metadata": {}, "buffers": []}
    return json.dumps({"channel": "shell", "header": header, "content": content, **rest})


def decode(frame: bytes | str, *, binary: bool) -> Received:
    """A frame that was received; `binary` as negotiated."""
    if binary:
        assert isinstance(frame, bytes)
        (count,) = struct.unpack_from("<Q", frame)
        start, *ends = struct.unpack_from(f"<{count}Q", frame, 8)
        parts = [frame[a:b] for a, b in pairwise(ends)]
        channel = frame[start : ends[0]].decode()
        return Received(channel, json.loads(parts[1]).get("msg_id", ""), parts)
    if isinstance(frame, bytes):  # JSON with buffers behind it: count, then offsets
        (count,) = struct.unpack_from("!I", frame)
        start, *ends = struct.unpack_from(f"!{count}I", frame, 4)
        frame = frame[start : ends[0] if ends else None].decode()
    message = json.loads(frame)
    return Received(message["channel"], message["parent_header"].get("msg_id", ""), message)
