"""What a client interrupted does not run on when its kernel is restored to a moment before that."""

from __future__ import annotations

import logging

from gateway.ends import Ends
from gateway.errors import JournalFull
from gateway.frames import SHELL
from gateway.journal import InputLog
from gateway.requests import Request

log = logging.getLogger(__name__)


def note(ends: Ends, inputs: InputLog) -> None:
    """A client interrupts what runs now, if anything does."""
    running = [
        request.number
        for request in ends.requests.open.values()
        if request.channel == SHELL and _goes_on(ends, request)
    ]
    if running:
        try:
            inputs.interrupt(min(running))
        except JournalFull as error:  # it is interrupted all the same
            log.error("an interrupt is not recorded: %s", error)


def due(ends: Ends, inputs: InputLog, applied: int) -> bool:
    """Whether a restored kernel, which was asked what is up to `applied`, goes on in the middle of
    what was interrupted later.
    """
    return any(
        request.number <= applied
        and request.number in inputs.interrupted
        and _goes_on(ends, request)
        for request in ends.requests.open.values()
    )


def _goes_on(ends: Ends, request: Request) -> bool:
    return not request.finished or request.msg_id in ends.muted
