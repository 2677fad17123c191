"""What one kernel's clients are sent: the journal of its outputs, and the feeds that follow it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from gateway import trace
from gateway.feed import Delivery, Feed
from gateway.journal import MARK, MUTED, SYNTHETIC, Journal, OutputRecord, Prepared
from gateway.messages import synthesize
from gateway.observer import Observer
from gateway.requests import Request

# Messages that take long enough to miss heartbeats (bytes), and how fast they are worked on at
# least: written down, converted and handed to clients (bytes per second).
_HEAVY, _HEAVY_PER_SECOND = 32 << 20, 40e6


class Outlet:
    """See the module. `applied()` is the newest request that the kernel is known to have."""

    def __init__(
        self, kernel_id: str, journal: Journal, observer: Observer, applied: Callable[[], int]
    ) -> None:
        self.feeds: set[Feed] = set()
        self._kernel_id = kernel_id
        self._journal = journal
        self._observer = observer
        self._applied = applied

    @property
    def first_cursor(self) -> int:
        return self._journal.outputs.first

    @property
    def last_cursor(self) -> int:
        return self._journal.outputs.last

    @property
    def lag(self) -> int:
        """Messages that the slowest attached client has not been sent."""
        return max((self.last_cursor - feed.position for feed in self.feeds), default=0)

    def records(self, start: int) -> Iterator[OutputRecord]:
        """Messages of the journal from a cursor on."""
        return self._journal.outputs.read(start)

    def somebody_is(self, session: str) -> bool:
        """Whether the client of this Jupyter session is here."""
        return any(session in feed.sessions for feed in self.feeds)

    @property
    def sessions(self) -> frozenset[str]:
        """The Jupyter sessions of the clients that are here."""
        return frozenset(session for feed in self.feeds for session in feed.sessions)

    def attach(self, feed: Feed) -> None:
        """From now on the feed gets what comes, and what it has not had."""
        self.feeds.add(feed)
        feed.start()

    def detach(self, feed: Feed) -> None:
        feed.close()
        self.feeds.discard(feed)

    def close(self, *, deleted: bool) -> None:
        """Let all clients go. When the kernel is deleted they are told so; else their connections
        end with the server's, and they come back.
        """
        for feed in list(self.feeds):
            self.detach(feed)
            if deleted:
                feed.kernel_gone()

    def deliver(
        self,
        payload: bytes | memoryview,
        stamp: tuple[int, int] = (0, 0),
        request: int = 0,
        flags: int = 0,
        prepared: Prepared | None = None,
    ) -> None:
        """Journal a message, and hand it to the clients. Raises `JournalFull`."""
        self.say_heavy(len(payload))
        outputs = self._journal.outputs
        cursor = outputs.append(payload, stamp, self._applied(), request, flags, prepared)
        if trace.enabled():
            where = {"cursor": cursor, "epoch": stamp[0], "seq": stamp[1]}
            trace.message("gateway.recorded", self._kernel_id, payload, **where)
        if flags & (MUTED | MARK) or not self.feeds:
            return
        delivery = Delivery(cursor, payload)
        for feed in list(self.feeds):
            feed.offer(delivery)

    def say(
        self,
        channel: int,
        msg_type: str,
        content: dict[str, Any],
        request: Request | None = None,
        flags: int = 0,
    ) -> None:
        """Say something in the kernel's place; as to `request` if given."""
        parent = request.header if request is not None else b"{}"
        payload = synthesize(channel, msg_type, parent, content, self._journal.name)
        number = request.number if request is not None else 0
        self.deliver(payload, request=number, flags=flags | SYNTHETIC)

    def say_heavy(self, size: int) -> None:
        """Heartbeats may be late while a message of so many bytes is worked on."""
        if size > _HEAVY:
            self._observer.heavy(size / _HEAVY_PER_SECOND)
