"""A month of sessions on spot nodes, simulated: what is lost with checkpoints at other times. Pure.

The policy is the real one (``sessionkeeper.policy.due``), and so is the estimate of how often nodes
go (``sessionkeeper.rates``); what a checkpoint costs was measured. People and nodes are made up out
of a seed, as is said beside each constant. docs/simulated-month.md has the result.

*Lost* is work: seconds of cells that are run again after a loss, and seconds in which a cell that
runs, or that somebody wants to run, stands still for a checkpoint. What every policy pays alike
(until a session runs again) is left out. All losses come without notice. A cell that is lost is
not run again in the simulation: its time counts, but nobody's day is shifted by it.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil, inf, pi, sin

from sessionkeeper.policy import MEAN_TIME_BETWEEN_FAILURES, Situation, due
from sessionkeeper.rates import HOUR, Record, estimate

DAY = 24 * HOUR
DAYS, SESSIONS, NODES = 30, 400, 40

PAUSES = {50: 0.15, 240: 0.65, 2000: 4.4}
"""Seconds for which a kernel of so many MB stands still."""

SIZES = (50, 50, 50, 50, 50, 50, 240, 240, 240, 2000)
"""Of the sessions, in turn: most are small."""

COMMIT = 1.0
"""Seconds after its pause until a checkpoint is committed, and of use."""

FIXED = {"1 min": 60.0, "5 min": 300.0, "15 min": 900.0}
AUTO = "auto"

TIER = "spot"
MEAN_LIFE = 8 * HOUR
"""Of a node, between reclaims that concern it alone: twice as long as is believed beforehand."""

TIDE = 0.5
"""Reclaims are so much likelier at three in the afternoon, when clouds are full, and so much less
likely at three at night."""

WAVES, WAVE_SHARE, WAVE_LASTS = 36 * HOUR, 0.3, 120.0
"""Every so often on average a pool is reclaimed: this share of its nodes within so many seconds."""

WORKS = 0.6
"""On how many of the days somebody works with a session."""

BEGINS, LASTS = (10 * HOUR, 2.5 * HOUR), 3 * HOUR
"""When (mean and deviation of a normal distribution) and for how long (mean, exponential)."""

THINKS = 30.0
"""Seconds between two cells (mean, exponential)."""

CELLS = ((0.80, 2.0), (0.97, 45.0), (1.0, 40 * 60.0))
"""What share of cells is at most of which kind, and how long such cells take (mean seconds,
exponential): most are short, and most of the time goes into the long ones."""

LONGEST_CELL = 12 * HOUR


@dataclass(frozen=True)
class Life:
    """One session's month: when its cells ran (begin and end, in order; seconds from the first
    midnight), how long it stands still for a checkpoint, when its node was lost, and what
    was ``believed`` then: the node's mean time between losses at a moment.
    """

    cells: Sequence[tuple[float, float]]
    pause: float
    losses: Sequence[float]
    believed: Callable[[float], float]


@dataclass(frozen=True)
class Checkpoint:
    """When it began; for how long a cell ``stood`` still for it."""

    at: float
    stood: float


@dataclass(frozen=True)
class Result:
    """Of one policy: seconds of work that was ``repeated``, and that ``stood`` still; how many
    ``checkpoints`` there were, in how many seconds of ``work``.
    """

    repeated: float = 0.0
    stood: float = 0.0
    checkpoints: int = 0
    work: float = 0.0

    @property
    def lost(self) -> float:
        return self.repeated + self.stood

    def plus(self, more: Result) -> Result:
        return Result(
            self.repeated + more.repeated,
            self.stood + more.stood,
            self.checkpoints + more.checkpoints,
            self.work + more.work,
        )


def simulate(seed: int = 1, sessions: int = SESSIONS, days: int = DAYS) -> dict[str, Result]:
    """Return what each policy loses in one and the same month: ``auto``, and fixed intervals."""
    found = dict.fromkeys((AUTO, *FIXED), Result())
    for life in lives(seed, sessions, days):
        found[AUTO] = found[AUTO].plus(outcome(life, automatic(life)))
        for name, interval in FIXED.items():
            found[name] = found[name].plus(outcome(life, fixed(life, interval)))
    return found


def outcome(life: Life, checkpoints: Iterator[Checkpoint]) -> Result:
    """Return what is lost with these checkpoints."""
    taken = list(checkpoints)
    useful = [one.at + life.pause + COMMIT for one in taken]
    begins = [begin for begin, _ in life.cells]
    before = [0.0, *accumulate(end - begin for begin, end in life.cells)]

    def worked(until: float) -> float:
        at = bisect_right(begins, until)
        if at == 0:
            return 0.0
        begin, end = life.cells[at - 1]
        return before[at - 1] + min(until, end) - begin

    repeated = 0.0
    for loss in life.losses:
        newest = bisect_right(useful, loss)
        since = taken[newest - 1].at if newest else 0.0
        repeated += worked(loss) - worked(since)
    return Result(repeated, sum(one.stood for one in taken), len(taken), before[-1])


def automatic(life: Life) -> Iterator[Checkpoint]:
    """Yield the checkpoints that the real policy takes."""
    last, active, cost = 0.0, 0.0, life.pause
    changed: float | None = None
    for number, (begin, end) in enumerate(life.cells):
        mean, now = life.believed(begin), begin
        while True:
            wait = due(Situation(now, last, cost, True, changed, active, TIER, mean_time=mean))
            assert wait is not None  # a cell runs, and can be saved
            if (at := now + wait) >= end:
                break
            yield Checkpoint(at, cost)
            last, changed, now = at, None, at + cost
        changed, active = end if changed is None else changed, end
        after = life.cells[number + 1][0] if number + 1 < len(life.cells) else inf
        wait = due(Situation(end, last, cost, False, changed, active, TIER, mean_time=mean))
        assert wait is not None  # something has changed
        if (at := end + wait) < after:
            yield Checkpoint(at, max(0.0, at + cost - after))
            last, changed = at, None


def fixed(life: Life, interval: float) -> Iterator[Checkpoint]:
    """Yield those of a clock that strikes every ``interval`` seconds, when something has run."""
    for number, (begin, end) in enumerate(life.cells):
        at = ceil(begin / interval) * interval
        while at < end:
            yield Checkpoint(at, life.pause)
            at += interval
        after = life.cells[number + 1][0] if number + 1 < len(life.cells) else inf
        if at < after:
            yield Checkpoint(at, max(0.0, at + life.pause - after))


def lives(seed: int, sessions: int, days: int) -> Iterator[Life]:
    """Yield the sessions of a month, a tenth of them on each tenth of the nodes."""
    chance = random.Random(seed)  # noqa: S311
    nodes = max(1, sessions * NODES // SESSIONS)
    losses = trace(chance, nodes, days)
    everywhere = sorted(at for one in losses for at in one)
    for number in range(sessions):
        here = losses[number % nodes]

        def believed(now: float, here: Sequence[float] = here) -> float:
            before = HOUR / MEAN_TIME_BETWEEN_FAILURES[TIER]
            all_of_them = Record(nodes * now / HOUR, bisect_left(everywhere, now))
            own = Record(now / HOUR, bisect_left(here, now))
            return HOUR / estimate(estimate(before, all_of_them), own)

        yield Life(month(chance, days), PAUSES[SIZES[number % len(SIZES)]], here, believed)


def trace(chance: random.Random, nodes: int, days: int) -> list[list[float]]:
    """Return when each node is reclaimed (another one takes its place at once)."""
    found = []
    most = (1 + TIDE) / MEAN_LIFE
    for _ in range(nodes):
        own, at = [], 0.0
        while (at := at + chance.expovariate(most)) < days * DAY:
            # Of the moments at the highest rate, those that the hour keeps (thinning).
            if chance.random() * (1 + TIDE) < 1 + TIDE * sin(2 * pi * (at / DAY - 9 / 24)):
                own.append(at)
        found.append(own)
    at = 0.0
    while (at := at + chance.expovariate(1 / WAVES)) < days * DAY:
        for own in chance.sample(found, round(WAVE_SHARE * nodes)):
            own.append(at + chance.uniform(0, WAVE_LASTS))
    return [sorted(own) for own in found]


def month(chance: random.Random, days: int) -> list[tuple[float, float]]:
    """Return when the cells of one session run."""
    cells: list[tuple[float, float]] = []
    free = 0.0
    for day in range(days):
        if chance.random() >= WORKS:
            continue
        now = max(free, day * DAY + chance.gauss(*BEGINS))
        ends = now + chance.expovariate(1 / LASTS)
        while now < ends:
            kind = chance.random()
            mean = next(mean for share, mean in CELLS if kind < share)
            took = min(LONGEST_CELL, chance.expovariate(1 / mean))
            cells.append((now, now + took))
            now += took + chance.expovariate(1 / THINKS)
        free = now
    return cells
