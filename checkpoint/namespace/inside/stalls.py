"""An end to what takes for ever: a `__reduce__` that waits for something stops all of a session.

An alarm interrupts the saving of a value that makes no progress, and the pickler then takes it for
one that cannot be saved.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

_seconds = 0.0  # 0: nobody watches
kinds: weakref.WeakSet[type] = weakref.WeakSet()
"""Of these one has stalled before: they are not tried again at each checkpoint."""

WHY = "saving it takes for ever"


class Stalled(BaseException):
    """Raised in the middle of what makes no progress."""


def _ring(_signal: int, _frame: Any) -> None:
    if _seconds:
        raise Stalled(f"{WHY}: no progress in {_seconds:g} s")


@contextlib.contextmanager
def watched(seconds: float) -> Iterator[None]:
    """Interrupt each value of which nothing is written for ``seconds``, if this thread can be.

    An alarm of the user's goes off afterwards, when its time has come.
    """
    global _seconds
    before = signal.getsignal(signal.SIGALRM)
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield
        return
    began = time.monotonic()
    left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, _ring)
    _seconds = seconds
    try:
        yield
    finally:
        _seconds = 0.0
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:
            signal.setitimer(
                signal.ITIMER_REAL, max(left - (time.monotonic() - began), 0.001), interval
            )


def progress() -> None:
    """Something was written, or begins: the time starts again."""
    if _seconds:
        # Again and again: what interrupts it may be caught by whatever does not come to its end.
        signal.setitimer(signal.ITIMER_REAL, _seconds, _seconds)


def rest() -> None:
    """Nothing is being saved."""
    if _seconds:
        signal.setitimer(signal.ITIMER_REAL, 0)
