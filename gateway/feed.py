"""A client's place in the stream of a kernel's messages.

Live messages go straight to the client. When it takes them slower than they come, its feed stops
passing them on and reads the journal at the client's cursor instead, as fast as the client
drains: nothing is dropped, and a slow client costs 4 MB of memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future as ConcurrentFuture
from functools import cached_property
from typing import Any, Literal, Protocol

from gateway.frames import decode_payload
from gateway.journal import OutputRecord
from gateway.messages import is_reply, payload_to_legacy, read_header, v1_pieces
from gateway.metrics import RESUMED

Replies = Literal["own", "maybe own", "all"]

log = logging.getLogger(__name__)

# Bytes on their way to one client before its feed turns to the journal.
WINDOW = 4 << 20

_RESUMED = RESUMED.labels("output")


class Delivery:
    """One message on its way to clients, encoded once for all of them."""

    def __init__(self, cursor: int, payload: bytes | memoryview) -> None:
        self.cursor = cursor
        self.payload = payload

    @cached_property
    def asked_by(self) -> str | None:
        """For replies, the session that asked; None for what is for everyone."""
        if not is_reply(self.payload[0]):
            return None
        return read_header(decode_payload(self.payload)[1][1]).session

    @cached_property
    def v1(self) -> tuple[bytes, memoryview] | None:
        return v1_pieces(self.payload)

    @cached_property
    def resumable(self) -> tuple[bytes, memoryview] | None:
        return v1_pieces(self.payload, b"\x01" + self.cursor.to_bytes(8, "big"))

    @cached_property
    def legacy(self) -> str | bytes | None:
        return payload_to_legacy(self.payload)


class Stream(Protocol):
    """What a feed reads from: a kernel's channel."""

    def records(self, start: int) -> Any: ...

    @property
    def first_cursor(self) -> int: ...

    @property
    def last_cursor(self) -> int: ...

    def somebody_is(self, session: str) -> bool: ...

    @property
    def sessions(self) -> frozenset[str]: ...


class Feed:
    """Hands messages after `position` to `write`, each once, in order.

    `write(delivery)` starts to send and returns a future, or None if the message is not for this
    client's protocol. `missed(count)` is told how many messages the journal had no more,
    `kernel_gone()` is called when the kernel is deleted, `current(cursor)` each time when all that
    there was has been handed on: a client that wants to know that only watches. `replies`: those it
    gets beside the ones for `session`; "maybe own" are those for clients that are there when it
    comes, as it may be one of them: it lost its connection, which is not noticed yet, and comes
    again with a new session.
    """

    def __init__(
        self,
        stream: Stream,
        write: Callable[[Delivery], tuple[Any, int] | None],
        session: str,
        position: int,
        kernel_gone: Callable[[], None],
        missed: Callable[[int], None] | None = None,
        current: Callable[[int], None] | None = None,
        replies: Replies = "own",
    ) -> None:
        self.position = position
        self.sessions = {session} if session else set()
        self._stream = stream
        self._write = write
        self.kernel_gone = kernel_gone
        self._missed = missed
        self._current = current
        self._replies = replies
        self._maybe_own: frozenset[str] = frozenset()
        self._outstanding = 0
        self._lagging = True
        self._closed = False

    @property
    def watches(self) -> bool:
        """Whether it only watches: nobody works with the kernel there."""
        return self._current is not None

    def start(self) -> None:
        """Begin, with what the journal has after `position`."""
        if self._replies == "maybe own":
            self._maybe_own = self._stream.sessions
        missed = self._stream.last_cursor - max(self.position, self._stream.first_cursor - 1)
        _RESUMED.inc(max(0, missed))
        self._catch_up()

    def offer(self, delivery: Delivery) -> None:
        """A new message."""
        if self._lagging or self._closed:
            return
        if self._outstanding > WINDOW:
            self._lagging = True
            return
        self._pass(delivery)

    def close(self) -> None:
        """The client is gone; `position` stays."""
        self._closed = True

    def _pass(self, delivery: Delivery) -> None:
        self.position = delivery.cursor
        try:
            sent = self._send(delivery)
        except Exception:  # whatever a kernel said: the other clients, and its node, go on
            log.exception("message %d cannot be put as its client wants it", delivery.cursor)
            return
        if sent is None:
            return
        future, size = sent
        self._outstanding += size

        def written(future: ConcurrentFuture[None]) -> None:
            self._outstanding -= size
            if not future.cancelled() and future.exception() is not None:
                self._closed = True
            elif self._lagging and self._outstanding < WINDOW // 2:
                self._catch_up()

        future.add_done_callback(written)

    def _send(self, delivery: Delivery) -> tuple[Any, int] | None:
        return self._write(delivery) if self._wants(delivery.asked_by) else None

    def _wants(self, asked_by: str | None) -> bool:
        if asked_by is None or self._replies == "all":
            return True
        if asked_by in self.sessions or asked_by in self._maybe_own:
            return True
        return not self._stream.somebody_is(asked_by)

    def _catch_up(self) -> None:
        if self._closed:
            return
        gone = self._stream.first_cursor - 1 - self.position
        if gone > 0 and self._missed is not None:
            self._missed(gone)
        record: OutputRecord
        for record in self._stream.records(self.position + 1):
            if self._outstanding > WINDOW:
                return
            if record.hidden:
                self.position = record.cursor
            else:
                self._pass(Delivery(record.cursor, record.payload))
        self._lagging = False
        if self._current is not None:
            self._current(self.position)
