"""When a session is checkpointed. A pure function of what it costs and of how likely its node is
to go.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

MEAN_TIME_BETWEEN_FAILURES = {
    "spot": 4 * 3600.0,
    "volunteer": 2 * 3600.0,
    "on-demand": 30 * 86400.0,
}
"""Seconds, by tier, until a pool's own rate has been measured."""

LARGEST_SHARE = 0.2
"""Of a session's time, at most this share is spent standing still for checkpoints between short
cells.
"""


@dataclass(frozen=True)
class Situation:
    """Times are seconds on one monotonic clock; ``cost`` is how long the kernels stood still
    last time.

    ``changed`` is whether anything happened since the newest checkpoint began, ``busy`` whether
    a cell runs.
    """

    now: float
    last: float | None
    cost: float
    busy: bool
    changed: bool
    tier: str = "spot"


def due(s: Situation) -> float | None:
    """Return in how many seconds the next checkpoint should begin; None: not before something
    happens.

    Between cells at once, unless cells are so short that the session would mostly stand still.
    During a cell after ``sqrt(2 · cost · mean time between failures)`` (Young 1974; Daly 2006,
    first order).
    """
    if not s.changed:
        return None
    if s.last is None:
        return 0.0
    elapsed = s.now - s.last
    pause = s.cost / LARGEST_SHARE
    if s.busy:
        pause = max(pause, sqrt(2 * s.cost * MEAN_TIME_BETWEEN_FAILURES[s.tier]))
    return max(0.0, pause - elapsed)
