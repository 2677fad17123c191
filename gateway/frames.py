"""Frames of the link: bytes to values and back. docs/link-protocol.md §3.

Pure, standard library only, Python >= 3.8: shipped inside the shim.
"""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple, Sequence  # noqa: UP035

# 1.1: `credit` in the gateway's HELLO.
VERSION = (1, 1)

HELLO, DATA, ACK, LOCAL = 1, 2, 3, 4
SHELL, CONTROL, STDIN, IOPUB, EVENT = 0, 1, 2, 3, 16

# Of one kernel message, either way (bytes), and of the link frame that carries it.
MESSAGE_LIMIT = 1 << 30
FRAME_LIMIT = MESSAGE_LIMIT + (64 << 20)

STAMP = struct.Struct(">BIQ")
_PARTS = struct.Struct(">BH")


class LinkError(ValueError):
    """The peer sent something that is not this protocol. `code` is `bad_frame` or
    `version_refused`.
    """

    def __init__(self, message: str, code: str = "bad_frame") -> None:
        super().__init__(message)
        self.code = code


def encode_payload(channel: int, parts: Sequence[Any], prefix: bytes = b"") -> bytes:
    """Payload of one message, after `prefix`: `parts` are bytes-like, at most 65535 of them."""
    return b"".join([prefix, payload_head(channel, [len(p) for p in parts]), *parts])


def payload_head(channel: int, sizes: Sequence[int]) -> bytes:
    """What comes before the parts in a payload."""
    return _PARTS.pack(channel, len(sizes)) + struct.pack(f">{len(sizes)}Q", *sizes)


def part_sizes(payload: Any) -> tuple[int, ...]:
    """Lengths of the parts of a payload that `decode_payload` takes."""
    _, count = _PARTS.unpack_from(payload)
    return struct.unpack_from(f">{count}Q", payload, 3)


def decode_payload(payload: Any) -> tuple[int, list[memoryview]]:
    """`(channel, parts)`; the parts are views into `payload`. Raises `LinkError`."""
    view = memoryview(payload)
    if len(view) < 3:
        raise LinkError(f"payload of {len(view)} bytes is too short")
    channel, count = _PARTS.unpack_from(view)
    at = 3 + 8 * count
    if len(view) < at:
        raise LinkError("payload is shorter than its table of lengths")
    parts = []
    for size in struct.unpack_from(f">{count}Q", view, 3):
        parts.append(view[at : at + size])
        at += size
    if at != len(view):
        raise LinkError(f"payload has {len(view)} bytes, its lengths add up to {at}")
    return channel, parts


def encode_data(epoch: int, seq: int, payload: Any) -> bytes:
    """A DATA frame."""
    return b"".join((STAMP.pack(DATA, epoch, seq), payload))


def encode_ack(epoch: int, seq: int) -> bytes:
    """An ACK frame: everything up to `(epoch, seq)`."""
    return STAMP.pack(ACK, epoch, seq)


def encode_local(message: dict[str, Any]) -> bytes:
    """A LOCAL frame."""
    return b"\x04" + json.dumps(message).encode()


def decode_local(frame: Any) -> dict[str, Any]:
    """The JSON object of a LOCAL frame. Raises `LinkError`."""
    return _json(frame)


class Hello(NamedTuple):
    """See docs/link-protocol.md §3."""

    epoch: int
    received: tuple[int, int]
    next: int
    answer: bool
    first: int | None = None
    credit: int | None = None

    def encode(self) -> bytes:
        """The HELLO frame."""
        said = {name: value for name, value in self._asdict().items() if value is not None}
        return b"\x01" + json.dumps({"version": VERSION, **said}).encode()

    @classmethod
    def decode(cls, frame: Any) -> Hello:
        """Raises `LinkError`, also for another major version."""
        hello = _json(frame)
        try:
            major = int(hello["version"][0])
            if major != VERSION[0]:
                raise LinkError(
                    f"the peer speaks link protocol {major}, this is {VERSION[0]}",
                    "version_refused",
                )
            epoch, seq = hello["received"]
            return cls(
                int(hello["epoch"]),
                (int(epoch), int(seq)),
                int(hello["next"]),
                bool(hello.get("answer", False)),
                _optional(hello, "first"),
                _optional(hello, "credit"),
            )
        except (KeyError, TypeError, IndexError, ValueError) as error:
            if isinstance(error, LinkError):
                raise
            raise LinkError(f"malformed HELLO: {error!r}") from None


def _optional(hello: dict[str, Any], name: str) -> int | None:
    value = hello.get(name)
    return int(value) if value is not None else None


def kind_of(frame: Any) -> int:
    """HELLO, DATA, ACK or LOCAL. Raises `LinkError`."""
    if not len(frame) or frame[0] not in (HELLO, DATA, ACK, LOCAL):
        raise LinkError("unknown kind of frame: %r" % bytes(frame[:1]))  # noqa: UP031
    return int(frame[0])


def _json(frame: Any) -> dict[str, Any]:
    try:
        value = json.loads(bytes(frame[1:]))
    except ValueError:
        raise LinkError("frame is not JSON") from None
    if not isinstance(value, dict):
        raise LinkError("frame is not a JSON object")
    return value


def stamp_of(frame: Any) -> tuple[int, int]:
    """`(epoch, seq)` of a DATA or ACK frame. Raises `LinkError`."""
    if len(frame) < STAMP.size:
        raise LinkError(f"frame of {len(frame)} bytes is too short")
    _, epoch, seq = STAMP.unpack_from(frame)
    return epoch, seq
