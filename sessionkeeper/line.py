"""Who gets a node next when not all can have one, and why the others wait. Pure.

In order of asking, but each session that an owner has counts as :data:`TURN` seconds of asking
later: nobody waits for somebody who began a hundred sessions, and nobody waits for ever behind
those who have none and come after it. For one that no node has room for now, a node is kept free
until it has, and who comes after it is told so. (One that nothing is guaranteed to takes no room,
and may go there all the same.) So of all that stay in the line one after the other becomes the
first, and the first gets a node as soon as enough of those that run have ended.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from sessionkeeper.placement import (
    LAST_RESORT,
    Choice,
    Needs,
    NodeFacts,
    Rank,
    full,
    last_resort,
    never,
    rank,
    unfit,
)
from sessionkeeper.quotas import Quotas

MOST_KEPT = 8
"""Nodes that are kept free at a time: for the first in the line, not for all of a long one."""

TURN = 300.0
"""Seconds that each session of an owner puts the next one back."""


@dataclass(frozen=True)
class Waiting:
    """A session that wants a node, ``since`` (seconds on any one clock). ``image`` is what quotas
    call the image that it is in, whatever its version.
    """

    session: str
    owner: str
    needs: Needs
    since: float
    image: str | None = None


@dataclass(frozen=True)
class Rules:
    """What holds for all. On-demand capacity is taken after ``on_demand`` seconds of waiting (0: at
    once when nothing else fits; None: never) by sessions that may use other tiers as well.
    """

    quotas: Quotas = field(default_factory=Quotas)
    on_demand: float | None = 0.0
    turn: float = TURN

    def tiers(self, needs: Needs, waited: float) -> tuple[str, ...]:
        """Return those that a session may have which has waited for so many seconds."""
        if not last_resort(needs) or (self.on_demand is not None and waited >= self.on_demand):
            return needs.tiers
        return tuple(tier for tier in needs.tiers if tier != LAST_RESORT)

    def left(self, waited: float) -> float | None:
        """Return in how many seconds more tiers can be had; None: never."""
        if self.on_demand is None or waited >= self.on_demand:
            return None
        return self.on_demand - waited

    def put_off(self) -> str:
        """Why a session that waits gets no on-demand capacity."""
        when = "never" if self.on_demand is None else f"after {self.on_demand:g} s of waiting"
        return f"is {LAST_RESORT}, which is taken {when}"


ALWAYS = Rules()


def place(
    nodes: Iterable[NodeFacts],
    waiting: Iterable[Waiting],
    running: Mapping[str, int],
    rules: Rules = ALWAYS,
    now: float | None = None,
    images: Mapping[str, int] | None = None,
) -> dict[str, Choice]:
    """Return what each that waits gets ``now``, by session: a node, or its place in the line and
    why.

    ``running`` is how many sessions each owner has on nodes, ``images`` how many there are in each
    image. The reasons of one that gets a node are left out.
    """
    room = _Room({node.name: node for node in nodes})
    taken = Taken(rules.quotas, Counter(running), Counter(images or {}))
    got: dict[str, Choice] = {}
    left: list[tuple[Waiting, Needs, str]] = []
    for one in order(waiting, running, rules.turn):
        over = taken.over(one)
        if over:
            left.append((one, one.needs, over))
            continue
        waited = rules.on_demand or 0.0 if now is None else now - one.since
        needs = _within(one.needs, rules.tiers(one.needs, waited))
        node = room.best(needs)
        if node is None:
            room.keep_free(one.session, needs)
            left.append((one, needs, ""))
        else:
            room.give(node, needs)
            taken.give(one)
            got[one.session] = Choice(node, {})
    reasons: dict[tuple[Needs, Needs, str], dict[str, str]] = {}
    for number, (one, needs, over) in enumerate(left, 1):
        key = one.needs, needs, over
        if key not in reasons:
            later = set(one.needs.tiers) - set(needs.tiers)
            reasons[key] = room.reasons(needs, over, dict.fromkeys(later, rules.put_off()))
        got[one.session] = Choice(None, reasons[key], number, len(left))
    return got


def _within(needs: Needs, tiers: tuple[str, ...]) -> Needs:
    return needs if tiers == needs.tiers else replace(needs, tiers=tiers)


def order(
    waiting: Iterable[Waiting], running: Mapping[str, int], turn: float = TURN
) -> list[Waiting]:
    """Return who comes after whom: who asked first, where each session that its owner has, or had
    by then, counts as asking ``turn`` seconds later.
    """
    of: dict[str, list[Waiting]] = defaultdict(list)
    for one in sorted(waiting, key=lambda one: (one.since, one.session), reverse=True):
        of[one.owner].append(one)
    owners = [
        (its[-1].since + turn * running.get(owner, 0), running.get(owner, 0), owner)
        for owner, its in of.items()
    ]
    heapq.heapify(owners)
    line = []
    while owners:
        _, has, owner = heapq.heappop(owners)
        line.append(of[owner].pop())
        if of[owner]:
            after = of[owner][-1].since + turn * (has + 1)
            heapq.heappush(owners, (after, has + 1, owner))
    return line


@dataclass
class Taken:
    """What of the quotas is taken."""

    quotas: Quotas
    owners: Counter[str]
    images: Counter[str]

    def over(self, one: Waiting) -> str:
        """Why it gets no node whatever is free; empty if it may have one."""
        most, image = self.quotas.of_owner(one.owner), one.image
        if most is not None and self.owners[one.owner] >= most:
            return f"{one.owner} may have {most} at a time, and has {self.owners[one.owner]}"
        most = self.quotas.of_image(image)
        if image and most is not None and self.images[image] >= most:
            return f"{most} at a time may be in {image}, and {self.images[image]} are"
        return ""

    def give(self, one: Waiting) -> None:
        self.owners[one.owner] += 1
        if one.image:
            self.images[one.image] += 1


@dataclass
class _Room:
    """What is left on the nodes while one after the other is given a part of it. It only becomes
    less, so for each kind of needs the nodes of a tier are ordered once, and looked at again when
    it is their turn. How many bytes must come is no part of that order, but is the same for all
    nodes of a tier except those that have some, which are looked at beside.
    """

    nodes: dict[str, NodeFacts]
    kept: dict[str, str] = field(default_factory=dict)
    heaps: dict[tuple[Needs, str], list[tuple[Rank, str]]] = field(default_factory=dict)

    def best(self, needs: Needs) -> str | None:
        names = {self._first(needs, tier) for tier in needs.tiers}
        names |= {name for name in needs.near if name in self.nodes and self._may(name, needs)}
        found = [(rank(self.nodes[name], needs), name) for name in names if name is not None]
        return min(found)[1] if found else None

    def _may(self, name: str, needs: Needs) -> bool:
        node = self.nodes[name]
        kept = needs.takes_room and name in self.kept
        return not kept and unfit(node, needs) is None

    def _first(self, needs: Needs, tier: str) -> str | None:
        plain = replace(needs, size=0) if needs.size else needs
        heap = self.heaps.get((needs, tier))
        if heap is None:
            of = [node for node in self.nodes.values() if node.tier == tier]
            heap = [(rank(node, plain), node.name) for node in of if unfit(node, needs) is None]
            heapq.heapify(heap)
            self.heaps[needs, tier] = heap
        while heap:
            before, name = heap[0]
            node = self.nodes[name]
            if full(node, needs) or (needs.takes_room and name in self.kept):
                heapq.heappop(heap)
            elif (now := rank(node, plain)) != before:
                heapq.heapreplace(heap, (now, name))
            else:
                return name
        return None

    def give(self, name: str, needs: Needs) -> None:
        node = self.nodes[name]
        self.nodes[name] = replace(
            node,
            load=node.load + 1,
            promised=node.promised + needs.memory,
            promised_cores=node.promised_cores + needs.cores,
        )

    def keep_free(self, session: str, needs: Needs) -> None:
        """The node that will soonest have room for it gets nobody else's guarantee any more."""
        if len(self.kept) >= MOST_KEPT:
            return
        could = [
            (node.promised, node.promised_cores, name)
            for name, node in self.nodes.items()
            if node.ready and name not in needs.avoid | self.kept.keys()
            if full(node, needs) and not never(node, needs)
        ]
        if could:
            self.kept[min(could)[2]] = session

    def reasons(self, needs: Needs, over: str, later: Mapping[str, str]) -> dict[str, str]:
        """Why each node is not given; ``later`` is why those of a tier are not yet."""
        if over:
            return dict.fromkeys(self.nodes, over)
        said = {name: later.get(n.tier) or unfit(n, needs) for name, n in self.nodes.items()}
        return {
            name: why or f"is kept free for {self.kept.get(name)}" for name, why in said.items()
        }
