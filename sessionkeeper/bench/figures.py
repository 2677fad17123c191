"""Figures: what was measured, what is required, how runs become one value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["REQUIRED", "Figure", "percentile"]

REQUIRED: Mapping[str, float] = {
    "drain_blackout_50mb_s": 1.0,
    "drain_blackout_240mb_s": 1.8,
    "drain_blackout_1000mb_s": 4.5,
    "kill_recovery_50mb_s": 4.0,
    "kill_recovery_240mb_s": 5.0,
    "kill_recovery_1000mb_s": 8.0,
    "latency_p50_ms": 6.0,
    "latency_p99_ms": 15.0,
    "kernel_start_s": 1.0,
}
"""At most this, as the median on the reference machine with the container runtime; the unit is at
the end of the name."""


@dataclass
class Figure:
    """One figure. `runs` has a value per run, None for one that failed; `failures` says why.
    `peers` has what other servers reach, None where they cannot do it at all."""

    name: str
    runs: list[float | None] = field(default_factory=list)
    peers: dict[str, float | None] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    must: float | None = None

    @property
    def unit(self) -> str:
        """`s` or `ms`."""
        return self.name.rpartition("_")[2]

    @property
    def value(self) -> float | None:
        """The median, in which a failed run counts as one that took for ever. None when half of
        them failed, or when there is none."""
        return median(self.runs)

    @property
    def verdict(self) -> str:
        """`ok`, `short`, or nothing where nothing is required."""
        if self.must is None:
            return ""
        return "ok" if self.value is not None and self.value <= self.must else "short"

    def json(self) -> dict[str, Any]:
        """For programs."""
        found: dict[str, Any] = {
            "name": self.name,
            "value": _rounded(self.value),
            "unit": self.unit,
            "must": self.must,
            "runs": [_rounded(run) for run in self.runs],
            "peers": {name: _rounded(value) for name, value in self.peers.items()},
        }
        return {**found, "failures": self.failures} if self.failures else found


def median(runs: Sequence[float | None]) -> float | None:
    """The middle value; None counts as infinitely large, and so may be the result."""
    if not runs:
        return None
    ordered = sorted(math.inf if run is None else run for run in runs)
    middle = len(ordered) // 2
    found = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return found if math.isfinite(found) else None


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of them do not exceed (nearest rank)."""
    rank = math.ceil(len(values) * percent / 100)
    return sorted(values)[max(rank, 1) - 1]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
