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
    "latency_p50_ms": 5.0,
    "latency_p99_ms": 12.0,
    "kernel_start_s": 1.0,
    "stored_criu_total_mb": 300.0,
    "stored_criu_cell_mb": 1.5,
    "stored_namespace_total_mb": 210.0,
    "stored_namespace_cell_kb": 50.0,
    "array_element_namespace_kb": 300.0,
    "pandas_columns_ratio": 1.3,
    "pause_criu_ms": 250.0,
    "pause_namespace_ms": 60.0,
    "restore_criu_s": 0.6,
    "restore_namespace_s": 1.2,
    "big_pause_s": 2.0,
    "big_commit_s": 6.0,
    "big_restore_s": 3.0,
    "big_lazy_restore_s": 1.0,
    "store_mb_per_s": 400.0,
    "stream_mb_per_s": 50.0,
    "stream_lost": 0.0,
    "message_50mb_mb_per_s": 80.0,
    "message_200mb_mb_per_s": 80.0,
    "idle400_rss_mb": 250.0,
    "idle400_cpu_percent": 3.0,
    "fanin_lost": 0.0,
    "fanin_p99_ms": 50.0,
    "gateway_restart_s": 3.0,
    "replay_100k_s": 3.0,
    "ui_rss_mb": 70.0,
    "drain20_kept": 20.0,
    "kill20_s": 10.0,
    "resume_s": 1.5,
    "placement_s": 2.0,
    "launch_s": 4.0,
    "hub_back_s": 5.0,
    "chart_s": 5.0,
    "leftovers": 0.0,
}
"""At most this (a rate, and what is kept: at least), as the median on the reference machine with
the container runtime; the unit is at the end of the name. Of what is kept the worst run counts."""

_RATE = "_per_s"
_KEPT = "_kept"


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
        """`s`, `ms`, `mb` (10**6 bytes), `kb`, `mb_per_s`, `percent`, `lost` (messages),
        `ratio`, `kept` (sessions), `leftovers` (objects)."""
        words = self.name.split("_")
        return "_".join(words[-3:] if self.rate else words[-1:])

    @property
    def rate(self) -> bool:
        """Whether it is one: more is better."""
        return self.name.endswith(_RATE)

    @property
    def kept(self) -> bool:
        """Whether it counts what was kept: more is better, and every run must be good."""
        return self.name.endswith(_KEPT)

    @property
    def value(self) -> float | None:
        """The median, in which a failed run counts as one that took for ever. None when half of
        them failed, or when there is none. Of what is kept the worst run."""
        if self.kept:
            good = [run for run in self.runs if run is not None]
            return min(good, default=None) if len(good) == len(self.runs) else None
        if not self.rate:
            return median(self.runs)
        found = median([None if run is None else -run for run in self.runs])
        return None if found is None else -found

    @property
    def verdict(self) -> str:
        """`ok`, `short`, or nothing where nothing is required."""
        if self.must is None:
            return ""
        if self.value is None:
            return "short"
        more = self.rate or self.kept
        good = self.value >= self.must if more else self.value <= self.must
        return "ok" if good else "short"

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
