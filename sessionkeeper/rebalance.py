"""Whether a session moves to a cheaper node while nothing forces it to. Pure.

Only to one that costs less by :data:`MARGIN`, of what stays as it is: the price of its cores and
how often it goes. How crowded it is and what is near does not count, so a move changes nothing of
what led to it: what a session's node costs falls with each move, and it never comes back to one it
left unless prices or rates change by as much. Only between cells, not soon after it came, not while
somebody waits for a node, and one session of the pool after the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sessionkeeper.placement import (
    INTERRUPTION,
    Needs,
    NodeFacts,
    no_images,
    price_of,
    rank,
    rate_of,
    unfit,
)

REBALANCE_AFTER = 600.0
"""Seconds that a session stays on a node at least, unless an operator says another number."""

MARGIN = 0.3
"""By what share the other node must cost less."""

CALM = 5.0
"""Seconds since anything ran, so that nobody is in the middle of running one cell after another."""

APART = 5.0
"""Seconds between two such moves in one pool."""


@dataclass(frozen=True)
class Situation:
    """Times are seconds on one clock: when the session came to its node, when something ran in it
    last, when a session of the pool was moved last. ``busy``: something runs, or is asked for;
    ``line``: somebody waits for a node.
    """

    now: float
    came: float
    active: float
    moved: float
    busy: bool
    line: bool = False


@dataclass(frozen=True)
class Advice:
    """Move to ``target``, or look ``again`` in so many seconds; neither: when something changes."""

    target: str | None = None
    again: float | None = None


def running_cost(node: NodeFacts) -> float:
    """Return what an hour on the node costs, whatever else is there."""
    return price_of(node) + INTERRUPTION * rate_of(node)


def advise(
    s: Situation, after: float | None, here: NodeFacts, nodes: Iterable[NodeFacts], needs: Needs
) -> Advice:
    """Return whether to move from ``here``; sessions stay for ``after`` seconds (None: always)."""
    if after is None or s.busy or s.line:
        return Advice()
    due = max(s.came + after, s.active + min(CALM, after), s.moved + min(APART, after))
    if due > s.now:
        return Advice(again=due - s.now)
    cost = running_cost(here)
    better = [
        node
        for node in nodes
        if node.name != here.name
        and running_cost(node) <= (1 - MARGIN) * cost
        and running_cost(node) < cost
        and unfit(node, needs) is None
        and no_images(node, needs) is None
    ]
    best = min(better, key=lambda node: rank(node, needs), default=None)
    return Advice(best.name if best is not None else None)
