"""A message's way, in the log: one line at each hop, under its `msg_id`. Costs a comparison per
message and hop unless the logger `gateway.trace` is at DEBUG. Contents are never logged.

docs/operations.md says which hops there are, and how to follow a message.
"""

from __future__ import annotations

import logging
from typing import Any

from gateway.errors import BadFrame
from gateway.frames import ACK, DATA, EVENT, STAMP, LinkError, decode_payload, kind_of, stamp_of
from gateway.messages import NAMES, read_header, v1_to_payload

log = logging.getLogger(__name__)


def enabled() -> bool:
    """Whether anybody wants to know; ask before anything is decoded."""
    return log.isEnabledFor(logging.DEBUG)


def message(hop: str, kernel_id: str, payload: bytes | memoryview, **where: Any) -> None:
    """A message passed `hop`. `where`: its `number`, `cursor`, `epoch` and `seq`, as far as it has
    them there."""
    try:
        channel, parts = decode_payload(payload)
        if channel == EVENT:
            return
        head, parent = read_header(parts[0]), read_header(parts[1])
    except (BadFrame, LinkError, IndexError):
        return
    said = {
        "hop": hop,
        "kernel_id": kernel_id,
        "channel": NAMES[channel].decode(),
        "msg_type": head.msg_type,
        "msg_id": head.msg_id,
        "parent_id": parent.msg_id,
        "bytes": len(payload),
        **where,
    }
    log.debug("%s %s", hop, head.msg_type, extra={"trace": said})


def websocket_frame(hop: str, kernel_id: str, frame: bytes | memoryview, **where: Any) -> None:
    """A frame of v1.kernel.websocket.jupyter.org passed `hop`."""
    try:
        payload = v1_to_payload(frame, any_channel=True)
    except BadFrame:
        return
    message(hop, kernel_id, payload, **where)


def link_frame(hop: str, kernel_id: str, frame: bytes | memoryview) -> None:
    """A frame of the link passed `hop`: a message, or word that inputs up to a number are applied.

    Inputs are known by their `number`, outputs by `epoch` and `seq`; `hop` tells which it is.
    """
    try:
        kind = kind_of(frame)
        if kind not in (DATA, ACK):
            return
        epoch, number = stamp_of(frame)
    except LinkError:
        return
    down = hop.endswith(("to_shim", "to_agent"))
    if kind == DATA:
        place = {"number": number} if down else {"seq": number}
        message(hop, kernel_id, memoryview(frame)[STAMP.size :], epoch=epoch, **place)
    elif not down:
        said = {"hop": "shim.applied", "kernel_id": kernel_id, "epoch": epoch, "number": number}
        log.debug("shim.applied", extra={"trace": said})
