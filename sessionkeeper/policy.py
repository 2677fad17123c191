"""When a session is checkpointed.

A pure function of what it costs and of how likely its node is to go.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

MEAN_TIME_BETWEEN_FAILURES = {
    "spot": 4 * 3600.0,
    "volunteer": 2 * 3600.0,
    "on-demand": 30 * 86400.0,
}
"""Seconds, by tier, that are believed until a pool's own rate has been measured (``rates``)."""

LARGEST_SHARE = 0.2
"""Of a session's time, at most this share is spent standing still for checkpoints."""

SMALLEST_SHARE = 0.002
"""Standing still less than this share of the time gains nothing worth a lost hour's work."""

QUIET = 0.25
"""Seconds without a request after which somebody who runs one cell after the other has paused."""

LATEST = 5.0
"""Seconds after a change at which it is due even if there was no pause."""


@dataclass(frozen=True)
class Situation:
    """Times are seconds on one monotonic clock; ``cost`` is how long the kernels stood still last
    time.

    ``last`` is when the newest checkpoint began, ``changed`` when the first thing happened that it
    does not contain (None: nothing did), ``active`` when the last such thing did; ``busy`` whether
    a cell runs, ``mid_cell`` whether it could be saved then. ``mean_time`` between two losses of
    the node is known, or is that of its ``tier``.
    """

    now: float
    last: float
    cost: float
    busy: bool
    changed: float | None
    active: float
    tier: str = "spot"
    mid_cell: bool = True
    mean_time: float | None = None


def due(s: Situation) -> float | None:
    """Return in how many seconds the next checkpoint should begin; None: not before something
    happens.

    Between cells as soon as nobody asks for the next one, unless the session would mostly stand
    still. During a cell after ``sqrt(2 · cost · mean time between failures)`` (Young 1974; Daly
    2006, first order), or sooner where that costs next to nothing.
    """
    spacing = s.last + s.cost / LARGEST_SHARE
    if s.busy and not s.mid_cell:
        return None
    if s.busy:
        interval = sqrt(2 * s.cost * (s.mean_time or MEAN_TIME_BETWEEN_FAILURES[s.tier]))
        interval = min(interval, s.cost / SMALLEST_SHARE)
        return max(0.0, spacing - s.now, s.last + interval - s.now)
    if s.changed is None:
        return None
    pause = min(s.active + QUIET, s.changed + LATEST)
    return max(0.0, spacing - s.now, pause - s.now)


def idle_left(now: float, since: float, busy: bool, limit: float) -> float:
    """Return in how many seconds a session has been idle for ``limit``: nothing ran in it ``since``
    then. That a page shows it is no activity.
    """
    return limit if busy else max(0.0, since + limit - now)
