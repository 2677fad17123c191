"""Who gets a node next when not all can have one, and why the others wait. Pure.

In order of asking, but the owner who has the least comes first, so nobody waits for somebody who
began a hundred sessions. Nobody starves: for one that no node has room for now, a node is kept free
until it has, and who comes after it is told so. (One that nothing is guaranteed to takes no room,
and may go there all the same.)
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from sessionkeeper.placement import Choice, Needs, NodeFacts, Rank, full, never, rank, unfit

MOST_KEPT = 8
"""Nodes that are kept free at a time: for the first in the line, not for all of a long one."""


@dataclass(frozen=True)
class Waiting:
    """A session that wants a node, ``since`` (seconds on any one clock)."""

    session: str
    owner: str
    needs: Needs
    since: float


def place(
    nodes: Iterable[NodeFacts], waiting: Iterable[Waiting], running: Mapping[str, int]
) -> dict[str, Choice]:
    """Return what each that waits gets, by session: a node, or its place in the line and why.

    ``running`` is how many sessions each owner has on nodes. The reasons of one that gets a node
    are left out.
    """
    room = _Room({node.name: node for node in nodes})
    got: dict[str, Choice] = {}
    left: list[Waiting] = []
    for one in order(waiting, running):
        node = room.best(one.needs)
        if node is None:
            room.keep_free(one)
            left.append(one)
        else:
            room.give(node, one.needs)
            got[one.session] = Choice(node, {})
    reasons: dict[Needs, dict[str, str]] = {}
    for number, one in enumerate(left, 1):
        if one.needs not in reasons:
            reasons[one.needs] = room.reasons(one.needs)
        got[one.session] = Choice(None, reasons[one.needs], number, len(left))
    return got


def order(waiting: Iterable[Waiting], running: Mapping[str, int]) -> list[Waiting]:
    """Return who comes after whom: of the owners the one who has the least, or had it by then, and
    of each owner's sessions the one that waits longest.
    """
    of: dict[str, list[Waiting]] = defaultdict(list)
    for one in sorted(waiting, key=lambda one: (one.since, one.session), reverse=True):
        of[one.owner].append(one)
    owners = [(running.get(owner, 0), its[-1].since, owner) for owner, its in of.items()]
    heapq.heapify(owners)
    line = []
    while owners:
        has, _, owner = heapq.heappop(owners)
        line.append(of[owner].pop())
        if of[owner]:
            heapq.heappush(owners, (has + 1, of[owner][-1].since, owner))
    return line


@dataclass
class _Room:
    """What is left on the nodes while one after the other is given a part of it. It only becomes
    less, so for each kind of needs the nodes are ordered once, and looked at again when it is their
    turn.
    """

    nodes: dict[str, NodeFacts]
    kept: dict[str, str] = field(default_factory=dict)
    heaps: dict[Needs, list[tuple[Rank, str]]] = field(default_factory=dict)

    def best(self, needs: Needs) -> str | None:
        if needs not in self.heaps:
            fit = (node for node in self.nodes.values() if unfit(node, needs) is None)
            self.heaps[needs] = [(rank(node, needs), node.name) for node in fit]
            heapq.heapify(self.heaps[needs])
        heap = self.heaps[needs]
        while heap:
            before, name = heap[0]
            node = self.nodes[name]
            if full(node, needs) or (needs.memory and name in self.kept):
                heapq.heappop(heap)
            elif (now := rank(node, needs)) != before:
                heapq.heapreplace(heap, (now, name))
            else:
                return name
        return None

    def give(self, name: str, needs: Needs) -> None:
        node = self.nodes[name]
        promised = node.promised + needs.memory
        self.nodes[name] = replace(node, load=node.load + 1, promised=promised)

    def keep_free(self, one: Waiting) -> None:
        """The node that will soonest have room for it gets nobody else's guarantee any more."""
        if len(self.kept) >= MOST_KEPT:
            return
        could = [
            (node.promised, name)
            for name, node in self.nodes.items()
            if node.ready and name not in one.needs.avoid | self.kept.keys()
            if full(node, one.needs) and not never(node, one.needs)
        ]
        if could:
            self.kept[min(could)[1]] = one.session

    def reasons(self, needs: Needs) -> dict[str, str]:
        said = {name: unfit(node, needs) for name, node in self.nodes.items()}
        return {
            name: why or f"is kept free for {self.kept.get(name)}" for name, why in said.items()
        }
