"""What a client interrupted does not run on when its kernel is restored to a moment before that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from gateway.ends import Ends
from gateway.errors import JournalFull
from gateway.frames import SHELL
from gateway.journal import InputLog
from gateway.requests import Request

log = logging.getLogger(__name__)

# Seconds that other requests wait for what is interrupted again. A kernel refuses what waits in it
# then, as after any error; but what goes on all the same may want to be answered.
PATIENCE = 5.0

# Seconds after which a kernel that says it is busy is in its cell. ipykernel says so before it
# heeds interrupts (kernelbase.py, `pre_handler_hook`): one that comes in between is lost.
SETTLED = 0.05


def settling(last_activity: datetime) -> float:
    """Seconds to wait before a kernel that was last heard of then is interrupted; never more than
    `SETTLED`, also where the clock was put back.
    """
    since = (datetime.now(UTC) - last_activity).total_seconds()
    return min(SETTLED, max(0.0, SETTLED - since))


class Interrupts:
    """Of one kernel. `go_on()` is called when requests may be sent again."""

    def __init__(self, ends: Ends, inputs: InputLog, go_on: Callable[[], None]) -> None:
        self._ends = ends
        self._inputs = inputs
        self._go_on = go_on
        self._waits_for = ""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def hold(self) -> bool:
        """Whether requests are to wait."""
        return bool(self._waits_for)

    def note(self) -> None:
        """A client interrupts what runs now, if anything does."""
        running = [
            request.number
            for request in self._ends.requests.open.values()
            if request.channel == SHELL and self._goes_on(request)
        ]
        if running:
            try:
                self._inputs.interrupt(min(running))
            except JournalFull as error:  # it is interrupted all the same
                log.error("an interrupt is not recorded: %s", error)

    def due(self, applied: int) -> bool:
        """Whether a restored kernel, which was asked what is up to `applied`, goes on in the middle
        of what was interrupted later, and is to be interrupted now. Other requests wait for that.
        """
        self.close()
        for request in self._ends.requests.open.values():
            interrupted = request.number in self._inputs.interrupted
            if interrupted and request.number <= applied and self._goes_on(request):
                self._waits_for = request.msg_id
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(PATIENCE, self._waited)
        return self.hold

    def ended(self, request: Request) -> None:
        """The kernel is idle after it."""
        if request.msg_id == self._waits_for:
            self.close()

    def close(self) -> None:
        """Nothing is waited for any more."""
        self._waits_for = ""
        if self._timer is not None:
            self._timer.cancel()

    def _waited(self) -> None:
        self._waits_for = ""
        self._go_on()

    def _goes_on(self, request: Request) -> bool:
        return not request.finished or request.msg_id in self._ends.muted
