"""Which requests a kernel works on, and of which it has dropped the end. Pure.

A kernel says `busy` and `idle` of a request on one socket and its reply on another: they may come
in any order. Times are seconds of one clock.
"""

from __future__ import annotations

from collections import deque

# An idle that has not come so long after its reply was dropped by the kernel (seconds).
LOST_AFTER = 5.0
# Requests that are over, as far as is known, and may be heard of once more.
_REMEMBERED = 1000


class Ends:
    """`busy`: msg_ids of the requests that the kernel works on."""

    def __init__(self) -> None:
        self.busy: set[str] = set()
        self._due: dict[str, float] = {}
        self._over: deque[str] = deque(maxlen=_REMEMBERED)
        self._early: deque[str] = deque(maxlen=_REMEMBERED)

    def begins(self, msg_id: str, now: float) -> None:
        """The kernel is busy with it."""
        self.busy.add(msg_id)
        if msg_id in self._early:
            self._early.remove(msg_id)
            self._due[msg_id] = now + LOST_AFTER

    def ends(self, msg_id: str) -> None:
        """The kernel is idle again."""
        self.busy.discard(msg_id)
        self._due.pop(msg_id, None)
        self._over.append(msg_id)

    def replied(self, msg_id: str, now: float) -> None:
        """It was replied to. A kernel that never says that it is busy says no end either."""
        if msg_id in self.busy:
            self._due[msg_id] = now + LOST_AFTER
        elif msg_id not in self._over:
            self._early.append(msg_id)

    @property
    def next(self) -> float | None:
        """When to look again."""
        return min(self._due.values(), default=None)

    def wait(self, now: float) -> None:
        """What is due cannot have come: look again later."""
        self._due = {one: max(at, now + LOST_AFTER) for one, at in self._due.items()}

    def dropped(self, now: float) -> list[str]:
        """The requests whose end has not come; each is told once."""
        found = [msg_id for msg_id, at in self._due.items() if at <= now]
        for msg_id in found:
            self.ends(msg_id)
        return found

    def clear(self) -> None:
        """The kernel has ended, and all of them with it."""
        self.busy.clear()
        self._due.clear()
        self._early.clear()
