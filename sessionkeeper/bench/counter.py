"""The cell that counts while its kernel moves, and what its output says about the move."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["CELL", "Count", "parse"]

CELL = """\
import sys, time
number = -1
try:
    while True:
        number += 1
        sys.stdout.write(f"{number} {time.time():.6f}\\n")
        time.sleep(0.005)
except KeyboardInterrupt:
    sys.stdout.write(f"end {number}\\n")
"""
"""Counts until it is interrupted. The stamps are the cell's own, so that how fast its output
travels does not matter."""

_STALL = 0.1
"""A gap of so many seconds is no ordinary delay of a process."""


@dataclass(frozen=True)
class Count:
    """What the cell printed: numbers, the moment of each in seconds since the epoch, and the number
    at which it said that it was interrupted."""

    numbers: Sequence[int]
    stamps: Sequence[float]
    end: int | None

    def trouble(self) -> str:
        """Which number is missing, double or out of order, in words; empty when none is."""
        for place, number in enumerate(self.numbers):
            if number != place:
                return f"number {number} came where {place} was due"
        # The interrupt may come between counting and printing.
        if self.end is None or self.end - len(self.numbers) not in (-1, 0):
            return f"{len(self.numbers)} numbers came, the cell ended at {self.end}"
        return ""

    def blackout(self) -> float:
        """Seconds of the longest time in which the cell did not advance, beyond the ordinary."""
        gaps = self._gaps()
        return max(gaps) - statistics.median(gaps)

    def stalled(self) -> float:
        """Seconds of all stalls together, for a move that stops the cell more than once."""
        gaps = self._gaps()
        ordinary = statistics.median(gaps)
        return sum(gap - ordinary for gap in gaps if gap > _STALL)

    def _gaps(self) -> list[float]:
        return [after - before for before, after in pairwise(self.stamps)]


def parse(text: str) -> Count:
    """What the cell printed so far; a line that has not ended is not looked at. Raises ValueError
    for a line that the cell cannot have printed."""
    numbers: list[int] = []
    stamps: list[float] = []
    end: int | None = None
    for line in text.splitlines(keepends=True):
        words = line.split()
        if not line.endswith("\n"):
            break
        if len(words) != 2 or end is not None:
            raise ValueError(f"the cell's output has the line {line!r}")
        if words[0] == "end":
            end = int(words[1])
        else:
            numbers.append(int(words[0]))
            stamps.append(float(words[1]))
    return Count(numbers, stamps, end)
