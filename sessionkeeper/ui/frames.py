"""Bytes of the three WebSocket dialects that meet here. Pure.

`v1.sessionkeeper` is between us and the gateway (docs/link-protocol.md, section 1),
`v1.kernel.websocket.jupyter.org` is its payload and what JupyterLab speaks, and "legacy" is what
clients speak that ask for no subprotocol: JSON text, or binary where there are buffers.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import json
import struct

from jupyter_server.services.kernels.connection.base import (
    deserialize_binary_message,
    deserialize_msg_from_ws_v1,
    serialize_binary_message,
    serialize_msg_to_ws_v1,
)

__all__ = [
    "ACK",
    "MESSAGE",
    "NOTICE",
    "SUBPROTOCOL",
    "ack",
    "legacy_to_v1",
    "message",
    "parse",
    "v1_to_legacy",
]

SUBPROTOCOL = "v1.sessionkeeper"
MESSAGE, ACK, NOTICE = 1, 2, 3

_HEAD = struct.Struct(">BQ")
_PARTS = ("header", "parent_header", "metadata", "content")


def message(number: int, payload: bytes) -> bytes:
    """A request with its number."""
    return _HEAD.pack(MESSAGE, number) + payload


def ack(cursor: int) -> bytes:
    """Everything up to `cursor` is safe with the browser."""
    return _HEAD.pack(ACK, cursor)


def parse(frame: bytes) -> tuple[int, int, bytes]:
    """Kind, number (0 in a notice) and payload. Raises ValueError for what is no such frame."""
    if frame[:1] == b"\x03":
        return NOTICE, 0, frame[1:]
    if len(frame) < _HEAD.size or frame[0] not in (MESSAGE, ACK):
        raise ValueError(f"no frame of {SUBPROTOCOL}: {frame[:16]!r}")
    kind, number = _HEAD.unpack_from(frame)
    return kind, number, frame[_HEAD.size :]


def v1_to_legacy(payload: bytes) -> str | bytes:
    """One kernel message for a client that speaks no subprotocol."""
    channel, parts = deserialize_msg_from_ws_v1(payload)
    content = {name: json.loads(part) for name, part in zip(_PARTS, parts, strict=False)}
    header = content["header"]
    content.update(channel=channel, msg_id=header.get("msg_id"), msg_type=header.get("msg_type"))
    buffers = parts[len(_PARTS) :]
    if buffers:
        return bytes(serialize_binary_message({**content, "buffers": buffers}))
    return json.dumps({**content, "buffers": []})


def legacy_to_v1(text: str | bytes) -> bytes:
    """The other way round. Raises ValueError or KeyError for what is no kernel message."""
    content = json.loads(text) if isinstance(text, str) else deserialize_binary_message(text)
    parts = [json.dumps(content[name], default=str).encode() for name in _PARTS]
    buffers = [bytes(part) for part in content.get("buffers") or []]
    return bytes(serialize_msg_to_ws_v1([*parts, *buffers], content.get("channel") or "shell"))
