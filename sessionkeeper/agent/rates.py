"""How fast this node saves sessions, as measured while it does."""

from __future__ import annotations

from sessionkeeper.agent.plan import Rates

SHARE = 0.3
"""Of the newest measurement in what is held to be so."""

FIRST = Rates(each=0.2, dump=400e6, upload=50e6, at_once=2)
"""Before anything was measured; as on a machine of 2021 with a line of 400 Mbit/s."""

LEAST_SENT = 64 << 10
"""Bytes: less says more about how far the store is than about the line."""


class Measured:
    """Each measurement moves it a little: a machine is slower while others use it too."""

    def __init__(self, at_once: int, first: Rates = FIRST) -> None:
        self._at_once = at_once
        self._first = first
        self._slowness = 1.0
        self._upload = first.upload

    def rates(self) -> Rates:
        """What to count with now."""
        first, slow = self._first, self._slowness
        return Rates(first.each * slow, first.dump / slow, self._upload, self._at_once)

    def dumped(self, size: int, seconds: float) -> None:
        """Saving a session of ``size`` bytes took a processor so long."""
        wanted = self._first.each + size / self._first.dump
        self._slowness += SHARE * (seconds / wanted - self._slowness)

    def sent(self, size: int, seconds: float) -> None:
        """So many bytes were sent in that time."""
        if size >= LEAST_SENT and seconds > 0:
            self._upload += SHARE * (size / seconds - self._upload)
