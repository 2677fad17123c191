"""Kernel messages between three forms, and the little that is read of them.

* the link's payload (`frames.encode_payload`): how they are journaled and go to the shim
* `v1.kernel.websocket.jupyter.org`: binary, offsets little-endian
  (jupyter_server.services.kernels.connection.base)
* legacy JSON text, or JSON and buffers in one binary frame (same module)

What only passes through is not parsed; headers are, where a decision hangs on them.
"""

from __future__ import annotations

import functools
import json
import re
import struct
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from gateway.errors import BadFrame
from gateway.frames import (
    CONTROL,
    EVENT,
    IOPUB,
    SHELL,
    STDIN,
    decode_payload,
    encode_payload,
    part_sizes,
    payload_head,
)

NAMES = {SHELL: b"shell", CONTROL: b"control", STDIN: b"stdin", IOPUB: b"iopub"}
CHANNELS = {name.decode(): number for number, name in NAMES.items()}

Bytes = bytes | memoryview


class Header(NamedTuple):
    """What is read of a header: empty strings where it says nothing."""

    msg_id: str
    msg_type: str
    session: str
    version: str


# Bytes of a header whose reading is remembered: all that is said of a cell names the same one.
_REMEMBERED = 4096


def read_header(part: Bytes) -> Header:
    """Parse a header or parent_header. Raises `BadFrame`."""
    data = bytes(part)
    return _read_again(data) if len(data) <= _REMEMBERED else _read(data)


def _read(data: bytes) -> Header:
    try:
        value = json.loads(data) if len(data) > 2 else {}
        return Header(
            str(value.get("msg_id", "")),
            str(value.get("msg_type", "")),
            str(value.get("session", "")),
            version if isinstance(version := value.get("version"), str) else "",
        )
    except (ValueError, AttributeError):
        raise BadFrame("A message header is not a JSON object.") from None


_read_again = functools.lru_cache(256)(_read)


def read_header_of(payload: Bytes) -> Header:
    """The header of a payload. Raises `BadFrame`."""
    return read_header(decode_payload(payload)[1][0])


# What is larger was made by a client that has a JSON library.
_LOOKED_AT = 1 << 20


def with_version(payload: Bytes) -> bytes:
    """The payload, whose header has no version (of the messaging protocol), with the newest one.

    Kernels take that for the one before 5.0, which no client speaks any more; ipykernel 7 does not
    answer it (jupyter_client/adapter.py).
    """
    channel, (header, *rest) = decode_payload(payload)
    said = {**json.loads(bytes(header)), "version": "5.3"}
    return encode_payload(channel, [json.dumps(said).encode(), *rest])


_VERSION = re.compile(r"\d+(\.|$)")


def unreadable(header: Header, parts: Sequence[Bytes]) -> str:
    """Why a kernel could not read a request with these parts, and would not answer; else empty."""
    if not header.msg_type:
        return "The header of this message has no msg_type."
    if header.version and not _VERSION.match(header.version):
        return f"The header of this message has the version {header.version[:20]!r}."
    for name, part in zip(("parent_header", "metadata", "content"), parts[1:4], strict=False):
        if len(part) <= _LOOKED_AT:
            try:
                if isinstance(json.loads(bytes(part)), dict):
                    continue
            except ValueError:
                pass
            return f"The {name} of this message is not a JSON object."
    return ""


_CELL_OUTPUT = {
    "clear_output",
    "display_data",
    "error",
    "execute_result",
    "stream",
    "update_display_data",
}
_STATUS = re.compile(rb'"msg_type"\s*:\s*"status"')
_STATE = re.compile(rb'"execution_state"\s*:\s*"(\w+)"')


def execution_state(parts: Sequence[Bytes]) -> str | None:
    """The state that an iopub message tells, None if it is no status. Without parsing JSON."""
    header = bytes(parts[0])
    if b"status" not in header or not _STATUS.search(header):
        return None
    found = _STATE.search(bytes(parts[3]))
    return found.group(1).decode() if found else None


_ABORTED = re.compile(rb'"status"\s*:\s*"aborted"')


def is_refusal(parts: Sequence[Bytes]) -> bool:
    """Whether a reply says that the request was not run, after an error in one before it."""
    return len(parts[3]) < 1024 and _ABORTED.search(parts[3]) is not None


def is_reply(channel: int) -> bool:
    """Messages of this channel answer one client and not all."""
    return channel in (SHELL, CONTROL, STDIN)


def is_cell_output(payload: Bytes) -> bool:
    """Whether this is what a notebook shows below a cell (and `clear_output` clears)."""
    channel, parts = decode_payload(payload)
    return channel == IOPUB and read_header(parts[0]).msg_type in _CELL_OUTPUT


def synthesize(
    channel: int, msg_type: str, parent: bytes, content: dict[str, Any], session: str
) -> bytes:
    """The payload of a message that the gateway says in the kernel's place."""
    header = {
        "msg_id": uuid.uuid4().hex,
        "msg_type": msg_type,
        "username": "gateway",
        "session": session,
        "date": datetime.now(UTC).isoformat(),
        "version": "5.3",
    }
    parts = [json.dumps(header).encode(), parent, b"{}", json.dumps(content).encode()]
    return encode_payload(channel, parts)


def summary_of(msg_type: str, content: Bytes) -> str:
    """First line of the code of an execute_request, at most 60 characters; else the type."""
    if msg_type == "execute_request" and len(content) < 1 << 20:
        try:
            code = str(json.loads(bytes(content)).get("code", "")).strip()
        except (ValueError, AttributeError):
            code = ""
        if code:
            first = code.splitlines()[0]
            return first if len(first) <= 60 else first[:59] + "…"
    return msg_type


# -- v1.kernel.websocket.jupyter.org ---------------------------------------------------------------


def payload_to_v1(payload: Bytes) -> bytes | None:
    """A WebSocket frame; None for what clients don't get (events)."""
    pieces = v1_pieces(payload)
    return None if pieces is None else b"".join(pieces)


def v1_pieces(payload: Bytes, prefix: bytes = b"") -> tuple[bytes, memoryview] | None:
    """As `payload_to_v1`, after `prefix`, and of the message itself no copy is made."""
    channel = payload[0]
    if channel == EVENT:
        return None
    name, sizes = NAMES[channel], part_sizes(payload)
    count = len(sizes) + 2
    start = 8 * (count + 1)
    offsets = [start, *accumulate(sizes, initial=start + len(name))]
    head = struct.pack(f"<{count + 1}Q", count, *offsets)
    # In both forms the parts are one after the other.
    return b"".join((prefix, head, name)), memoryview(payload)[3 + 8 * len(sizes) :]


def v1_to_payload(frame: Bytes, any_channel: bool = False) -> bytes:
    """The payload of a WebSocket frame; of one that clients get as well if on `any_channel`.

    Raises `BadFrame`.
    """
    return b"".join(v1_to_pieces(frame, any_channel))


def v1_to_pieces(frame: Bytes, any_channel: bool = False) -> tuple[bytes, memoryview]:
    """As `v1_to_payload`, and of the message itself no copy is made."""
    view = memoryview(frame)
    try:
        (count,) = struct.unpack_from("<Q", view)
        if not 6 <= count <= 65535:
            raise BadFrame(f"A kernel message has {count} offsets.")
        offsets = struct.unpack_from(f"<{count}Q", view, 8)
    except struct.error:
        raise BadFrame("A kernel message is shorter than its table of offsets.") from None
    edges = list(offsets)
    if edges != sorted(edges) or edges[-1] > len(view) or edges[0] < 8 * (count + 1):
        raise BadFrame("The offsets of a kernel message don't fit its length.")
    name = bytes(view[edges[0] : edges[1]])
    channel = CHANNELS.get(name.decode(errors="replace"))
    if channel is None or (channel == IOPUB and not any_channel):
        raise BadFrame(f"There is no channel {name[:20]!r} to send on.")
    sizes = [b - a for a, b in pairwise(edges[1:])]
    # In both forms the parts are one after the other.
    return payload_head(channel, sizes), view[edges[1] : edges[-1]]


# -- legacy JSON -----------------------------------------------------------------------------------


def payload_to_legacy(payload: Bytes) -> str | bytes | None:
    """JSON text, or binary if there are buffers; None for what clients don't get."""
    channel, parts = decode_payload(payload)
    if channel == EVENT:
        return None
    header, parent, metadata, content = (str(p, "utf-8", "replace") for p in parts[:4])
    ids = read_header(parts[0])
    text = (
        f'{{"header": {header}, "msg_id": {json.dumps(ids.msg_id)}, '
        f'"msg_type": {json.dumps(ids.msg_type)}, "parent_header": {parent}, '
        f'"metadata": {metadata}, "content": {content}, "buffers": [], '
        f'"channel": "{NAMES[channel].decode()}"}}'
    )
    buffers = parts[4:]
    if not buffers:
        return text
    pieces: list[Bytes] = [text.encode(), *buffers]
    at = 4 * (len(pieces) + 1)
    offsets = []
    for piece in pieces:
        offsets.append(at)
        at += len(piece)
    return b"".join((struct.pack(f"!{len(pieces) + 1}I", len(pieces), *offsets), *pieces))


def legacy_to_payload(frame: str | bytes) -> bytes:
    """The payload of a legacy message. Raises `BadFrame`."""
    buffers: list[Bytes] = []
    try:
        if isinstance(frame, bytes):
            view = memoryview(frame)
            (count,) = struct.unpack_from("!I", view)
            offsets = [*struct.unpack_from(f"!{count}I", view, 4), len(view)]
            pieces = [view[a:b] for a, b in pairwise(offsets)]
            message = json.loads(bytes(pieces[0]))
            buffers = list(pieces[1:])
        else:
            message = json.loads(frame)
        channel = CHANNELS.get(message.get("channel") or "shell")
        fields = [message[k] for k in ("header", "parent_header", "metadata", "content")]
    except (ValueError, KeyError, AttributeError, IndexError, struct.error) as error:
        raise BadFrame(f"A message is not a Jupyter kernel message: {error!r}.") from None
    if channel is None or channel == IOPUB:
        raise BadFrame(f"There is no channel {message.get('channel')!r} to send on.")
    return encode_payload(channel, [*(json.dumps(f).encode() for f in fields), *buffers])
