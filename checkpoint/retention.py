"""Which checkpoints are kept. Pure: no clock, no store.

The local clock is never asked, and what the clocks of the writers said is not trusted far: ages
count from the newest checkpoint back along the chain, and a gap longer than the widest spacing
counts as that spacing. So neither a clock that jumped nor a session that slept for a year makes
its history old at once; and what is dated later than a checkpoint after it is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

HOUR = 3600.0
DAY = 24 * HOUR


class Dated(NamedTuple):
    """A checkpoint's number, and when it says that it was made, in unix seconds."""

    number: int
    created: float


@dataclass(frozen=True)
class Retention:
    """Keep all checkpoints up to an age of `all`, then one an hour up to `hourly`, then one a day
    up to `daily`; in seconds. 0 leaves a step out."""

    all: float = HOUR
    hourly: float = DAY
    daily: float = 30 * DAY

    def spacing(self, age: float) -> float | None:
        """Seconds between two checkpoints of this age; None when none is kept."""
        for until, apart in ((self.all, 0.0), (self.hourly, HOUR), (self.daily, DAY)):
            if age <= until:
                return apart
        return None


def retained(
    checkpoints: Iterable[Dated], policy: Retention, tagged: Collection[int] = ()
) -> set[int]:
    """The numbers to keep: the newest, the `tagged`, what `policy` says, and what looks odd.

    Asking again with what was kept keeps all of it, until time goes on.
    """
    chain = sorted(checkpoints)
    if not chain:
        return set()
    kept = {chain[-1].number} | {item.number for item in chain if item.number in tagged}
    kept |= _later_than_a_successor(chain)
    last: float | None = None  # age of the last one kept for its age
    for item, age in zip(chain, _ages(chain), strict=True):
        spacing = policy.spacing(age)
        if spacing is not None and (last is None or last - age >= spacing):
            kept.add(item.number)
            last = age
    return kept


def _ages(chain: list[Dated]) -> list[float]:
    ages = [0.0]
    for earlier, later in zip(reversed(chain[:-1]), reversed(chain[1:]), strict=True):
        ages.append(ages[-1] + min(max(0.0, later.created - earlier.created), DAY))
    return ages[::-1]


def _later_than_a_successor(chain: list[Dated]) -> set[int]:
    odd, earliest = set(), chain[-1].created
    for item in reversed(chain[:-1]):
        if item.created > earliest:
            odd.add(item.number)
        earliest = min(earliest, item.created)
    return odd
