"""What a notice is, and the seam that all sources of notices are behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Protocol

from sessionkeeper.agent.ledger import clock
from sessionkeeper.errors import SessionkeeperError

__all__ = ["Notice", "NoticeSource", "SourceFailed", "what_counts"]


@dataclass(frozen=True)
class Notice:
    """Word that this node will go. ``reason`` goes on after "node-1 goes in 112 s" in brackets.

    ``deadline`` is when, in seconds of :func:`sessionkeeper.agent.ledger.clock`; None is advice:
    it may go soon, nobody knows when or whether.
    """

    source: str
    reason: str
    deadline: float | None = None

    def left(self) -> float | None:
        """Return how many seconds are left, at least 0; None for advice."""
        return None if self.deadline is None else max(0.0, self.deadline - clock())


class SourceFailed(SessionkeeperError):
    """A source cannot say whether there is a notice. ``retry_after``: seconds that it asked for."""

    code = "notice_source_failed"
    retryable = True
    hint = "it is tried again; if it is none of this machine's, leave it out of --notices"

    def __init__(
        self, message: str, *, hint: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class NoticeSource(Protocol):
    """Where notices come from.

    What is said is all that holds, not what is new: a notice that is missing from the next set is
    withdrawn. So a source that is asked anew after a failure needs no memory, and nothing that it
    says twice or that was missed in between can do harm.
    """

    name: str

    def watch(self) -> AsyncIterator[frozenset[Notice]]:
        """Yield what holds: once as soon as it is known, then whenever it is different. Never ends.

        The deadline of one and the same notice stays the same. Raises :class:`SourceFailed` when
        the source does not answer, or not with sense; it can be watched again then. Closing the
        iterator ends all that it began.
        """
        ...

    async def drained(self) -> None:
        """Nothing is left on this node: who gave notice need not wait. Only while a notice holds;
        may be called again. Raises :class:`SourceFailed`.
        """
        ...


def what_counts(notices: Iterable[Notice]) -> Notice | None:
    """Return the notice with the earliest deadline; advice only where there is no deadline."""

    def order(notice: Notice) -> tuple[bool, float, str, str]:
        without = notice.deadline is None
        return without, notice.deadline or 0.0, notice.source, notice.reason

    return min(notices, key=order, default=None)
