"""How long the parts of something take."""

from __future__ import annotations

import time
from collections.abc import Mapping


class Stopwatch:
    """Seconds per part of something that has parts."""

    def __init__(self, laps: Mapping[str, float] | None = None) -> None:
        self.laps = dict(laps or {})
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 4)
        self._last = now
