"""The requests of one kernel that may still be answered, or applied again. Pure."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from gateway.frames import STDIN, decode_payload
from gateway.journal import ABORTED, IDLE, REPLY
from gateway.messages import Header, read_header, summary_of

# So many msg_ids are remembered, to know a resent request again.
_KNOWN_IDS = 10_000


@dataclass
class Request:
    """A request of a client.

    `number`: of the input; `header`: its header's bytes; `cursor`: last output when it came;
    `ended_at`: seq of the last reply or idle; `aborted`: the kernel replied that it did not run it.
    """

    number: int
    msg_id: str
    msg_type: str
    session: str
    channel: int
    header: bytes
    summary: str
    cursor: int
    replied: bool = False
    idle: bool = False
    ended_at: int = 0
    aborted: bool = False

    @property
    def asks(self) -> bool:
        """It expects a reply (a comm message, say, does not)."""
        return self.msg_type.endswith("_request")

    @property
    def seen_to_end(self) -> bool:
        """Its outputs are complete at the client: it had the reply, or the idle."""
        return self.replied or self.idle

    @property
    def finished(self) -> bool:
        """Nothing of it is to come."""
        return self.idle and (self.replied or not self.asks)


class Requests:
    """By msg_id, from when they are journaled until no rollback can bring them back."""

    def __init__(self) -> None:
        self.open: dict[str, Request] = {}
        self._known: dict[str, None] = {}
        self._released = 0

    def __contains__(self, msg_id: str) -> bool:
        """Whether a request of that id was ever taken (of the last 10,000)."""
        return msg_id in self._known

    def add(self, number: int, payload: bytes | memoryview, cursor: int) -> Header:
        """Note a request; its header. Raises `BadFrame`, `LinkError`."""
        channel, parts = decode_payload(payload)
        header = read_header(parts[0])
        self._known[header.msg_id] = None
        if len(self._known) > _KNOWN_IDS:
            del self._known[next(iter(self._known))]
        if channel != STDIN:  # nothing answers an input_reply
            self.open[header.msg_id] = Request(
                number=number,
                msg_id=header.msg_id,
                msg_type=header.msg_type,
                session=header.session,
                channel=channel,
                header=bytes(parts[0]),
                summary=summary_of(header.msg_type, parts[3]),
                cursor=cursor,
            )
        return header

    def unfinished(self) -> list[Request]:
        """Those of which something is to come, in the order in which they were asked."""
        return [request for request in self.open.values() if not request.finished]

    def note_end(self, request: Request, flags: int, seq: int = 0) -> bool:
        """Note a reply or idle; True if that finished the request just now."""
        was = request.finished
        request.replied = request.replied or bool(flags & REPLY)
        request.idle = request.idle or bool(flags & IDLE)
        request.aborted = request.aborted or bool(flags & ABORTED)
        request.ended_at = max(request.ended_at, seq)
        return request.finished and not was

    def forget(self, upto: int) -> None:
        """The inputs up to `upto` are withdrawn, whatever became of them."""
        self.open = {r.msg_id: r for r in self.open.values() if r.number > upto}

    def release(self, upto: int, produced: int | None, again: Container[str] = ()) -> None:
        """A committed checkpoint has the inputs up to `upto` and the outputs up to `produced`.

        What had ended before it cannot come again. Without `produced` that is known only of what
        an earlier checkpoint had applied. `again`: msg_ids of those that are run a second time.
        """
        for request in list(self.open.values()):
            if not request.finished or request.msg_id in again:
                continue
            if produced is None:
                covered = request.number <= self._released
            else:
                covered = request.number <= upto and request.ended_at <= produced
            if covered:
                del self.open[request.msg_id]
        self._released = max(self._released, upto)
