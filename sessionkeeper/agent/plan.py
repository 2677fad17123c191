"""What a node that goes can still save of its sessions, and in which order. Pure.

Saving a session takes a processor, to dump and compare its memory, and then the line to the store.
Processors work beside each other, the line is one. Which sessions to take is a knapsack with two
resources; orders that are good each in their case are tried, and the one that saves most is taken.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Todo = Literal["whole", "changes", "newest"]
"""All of a session goes to the store; what its newest checkpoint lacks; nothing: the newest
checkpoint is what there is."""

EACH = 0.01
"""Seconds of work that a session counts beside its own: of two with nothing to lose one is saved
rather than none."""


@dataclass(frozen=True)
class Unsaved:
    """A session that wants a last checkpoint: the ``size`` (bytes) of its memory, how much of that
    the store has not (``fresh``, about), and the ``work`` (seconds) that its newest checkpoint
    lacks, which would have to be done again.
    """

    session: str
    size: int
    fresh: int
    work: float


@dataclass(frozen=True)
class Rates:
    """What was measured on this node: a dump takes ``each`` seconds, and one more for ``dump``
    bytes, on one of ``at_once`` processors; the line takes ``upload`` bytes a second.
    """

    each: float
    dump: float
    upload: float
    at_once: int

    def dumping(self, session: Unsaved) -> float:
        """Seconds that it takes a processor."""
        return self.each + session.size / self.dump

    def sending(self, session: Unsaved) -> float:
        """Seconds that it takes the line."""
        return session.fresh / self.upload


@dataclass(frozen=True)
class Planned:
    """What becomes of a session; it is in the store ``done`` seconds from now."""

    session: str
    todo: Todo
    done: float = 0.0


def plan(sessions: Iterable[Unsaved], rates: Rates, left: float) -> list[Planned]:
    """Return what to do in ``left`` seconds: first what is saved, in the order in which to begin,
    then the sessions for which the newest checkpoint must do.
    """
    asked = list(sessions)
    orders: list[Callable[[Unsaved], float]] = [
        lambda one: -_worth(one) / _share(one, rates),
        lambda one: -_worth(one),
        lambda one: _share(one, rates),
        lambda one: 0.0,
    ]
    tried = [_follow(sorted(asked, key=order), rates, left) for order in orders]
    worth = {one.session: _worth(one) for one in asked}
    best = max(tried, key=lambda saved: sum(worth[one.session] for one in saved))
    chosen = {one.session for one in best}
    return [*best, *(Planned(one.session, "newest") for one in asked if one.session not in chosen)]


def _follow(order: Sequence[Unsaved], rates: Rates, left: float) -> list[Planned]:
    """What is saved by the deadline if sessions are taken in this order, each where it fits."""
    processors = [0.0] * rates.at_once
    line = 0.0
    saved = []
    for one in order:
        dumped = processors[0] + rates.dumping(one)
        done = max(dumped, line) + rates.sending(one)
        if done <= left:
            heapq.heapreplace(processors, dumped)
            line = done
            saved.append(Planned(one.session, _todo(one), done))
    return saved


def _todo(one: Unsaved) -> Todo:
    return "whole" if one.fresh >= one.size else "changes"


def _worth(one: Unsaved) -> float:
    return one.work + EACH


def _share(one: Unsaved, rates: Rates) -> float:
    """Seconds that the whole node spends on it."""
    return max(rates.dumping(one) / rates.at_once, rates.sending(one))
