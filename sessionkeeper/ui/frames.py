"""Bytes of the three WebSocket dialects that meet here. Pure.

`v1.sessionkeeper` is between us and the gateway (docs/link-protocol.md, section 1),
`v1.kernel.websocket.jupyter.org` is its payload and what JupyterLab speaks, and "legacy" is what
clients speak that ask for no subprotocol: JSON text, or binary where there are buffers.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

from jupyter_server.services.kernels.connection.base import (
    deserialize_binary_message,
    serialize_msg_to_ws_v1,
)

from gateway.errors import BadFrame
from gateway.messages import payload_to_legacy, v1_to_payload

__all__ = [
    "ACK",
    "MESSAGE",
    "NOTICE",
    "SUBPROTOCOL",
    "ack",
    "each",
    "in_fragments",
    "legacy_to_v1",
    "message",
    "parse",
    "v1_to_legacy",
]

SUBPROTOCOL = "v1.sessionkeeper"
MESSAGE, ACK, NOTICE, SEVERAL = 1, 2, 3, 4

_LARGE = 1 << 20
"""Bytes of a frame from which on its payload is not copied."""

_LENGTH = struct.Struct(">I")
_HEAD = struct.Struct(">BQ")

_FRAGMENT = 1 << 20
"""Bytes."""
_PARTS = ("header", "parent_header", "metadata", "content")


def message(number: int, payload: bytes) -> bytes:
    """A request with its number."""
    return _HEAD.pack(MESSAGE, number) + payload


def ack(cursor: int) -> bytes:
    """Everything up to `cursor` is safe with the browser."""
    return _HEAD.pack(ACK, cursor)


def each(frame: bytes | str) -> Iterator[tuple[int, int, bytes | memoryview]]:
    """As `parse`, of all that there is in a frame which may have several; a large payload is a
    view. Raises ValueError.
    """
    if isinstance(frame, str):
        frame = frame.encode()
    if frame[:1] == b"\x01" and len(frame) > _LARGE:
        yield *_HEAD.unpack_from(frame), memoryview(frame)[_HEAD.size :]
        return
    if frame[:1] != b"\x04":
        yield parse(frame)
        return
    at = 1
    while at < len(frame):
        end = at + _LENGTH.size
        if end > len(frame):
            raise ValueError("several frames, cut off in a length")
        at, end = end, end + _LENGTH.unpack_from(frame, at)[0]
        if end > len(frame):
            raise ValueError("several frames, the last one cut off")
        yield parse(frame[at:end])
        at = end


def parse(frame: bytes) -> tuple[int, int, bytes]:
    """Kind, number (0 in a notice) and payload. Raises ValueError for what is no such frame."""
    if frame[:1] == b"\x03":
        return NOTICE, 0, frame[1:]
    if len(frame) < _HEAD.size or frame[0] not in (MESSAGE, ACK):
        raise ValueError(f"no frame of {SUBPROTOCOL}: {frame[:16]!r}")
    kind, number = _HEAD.unpack_from(frame)
    return kind, number, frame[_HEAD.size :]


def in_fragments(frame: bytes) -> bytes | list[bytes]:
    """What `websockets` sends in several pieces, where it is large: the other end has others to
    serve in between.
    """
    if len(frame) <= _FRAGMENT:
        return frame
    return [frame[at : at + _FRAGMENT] for at in range(0, len(frame), _FRAGMENT)]


def v1_to_legacy(payload: bytes | memoryview) -> str | bytes:
    """One kernel message for a client that speaks no subprotocol. Raises ValueError."""
    try:
        message = payload_to_legacy(v1_to_payload(payload, any_channel=True))
    except BadFrame as error:
        raise ValueError(str(error)) from None
    assert message is not None  # events of the link are not sent to clients
    return message


def legacy_to_v1(text: str | bytes) -> bytes:
    """The other way round. Raises ValueError or KeyError for what is no kernel message."""
    content = json.loads(text) if isinstance(text, str) else deserialize_binary_message(text)
    parts = [json.dumps(content[name], default=str).encode() for name in _PARTS]
    buffers = [bytes(part) for part in content.get("buffers") or []]
    return bytes(serialize_msg_to_ws_v1([*parts, *buffers], content.get("channel") or "shell"))
