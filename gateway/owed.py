"""Replies that a kernel owes: it said that a request has ended, and some then never reply, to what
they do not know, or when they are interrupted at the wrong moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.requests import Request

# Seconds after which a reply is taken for missing.
WITHIN = 10.0


class Owed:
    """Of one kernel. `missing(request)` is called when there was none in time."""

    def __init__(self, missing: Callable[[Request], None]) -> None:
        self._missing = missing
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def expect(self, request: Request, still: Callable[[], bool]) -> None:
        """From now on; `still()` tells, in the end, whether it is the same kernel that owes it."""
        if request.msg_id in self._timers:
            return

        def give_up() -> None:
            del self._timers[request.msg_id]
            if not request.finished and still():
                self._missing(request)

        loop = asyncio.get_running_loop()
        self._timers[request.msg_id] = loop.call_later(WITHIN, give_up)

    def close(self) -> None:
        """Wait no more."""
        for timer in self._timers.values():
            timer.cancel()
