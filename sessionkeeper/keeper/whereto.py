"""Where a session is to go: what its keeper and the line of all that wait tell each other."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Any

from sessionkeeper.images.reference import parse
from sessionkeeper.keeper.incarnation import Incarnation
from sessionkeeper.keeper.node import Node
from sessionkeeper.keeper.nodes import Nodes
from sessionkeeper.line import ALWAYS, Rules, Taken, Waiting, place
from sessionkeeper.placement import (
    LAST_RESORT,
    Choice,
    Needs,
    Verdict,
    choose,
    explain,
    last_resort,
)
from sessionkeeper.rebalance import REBALANCE_AFTER, Advice, Situation, advise
from sessionkeeper.registration import Registration
from sessionkeeper.sensitive import has_secrets

log = logging.getLogger(__name__)


@dataclass
class _Known:
    registration: Registration
    wake: Callable[[], None]
    waiting: Waiting | None = None
    tiers: tuple[str, ...] = ()
    """Those it could use when it waited last."""


class Line:
    """The sessions of a gateway that want a node, and the ``rules`` that hold for all of them. One
    may move to a cheaper node when it has been on its own for ``stays`` seconds (None: never).
    """

    def __init__(
        self, nodes: Nodes, rules: Rules = ALWAYS, stays: float | None = REBALANCE_AFTER
    ) -> None:
        self.rules = rules
        self.stays = stays
        self.moved = -inf
        """When a session was moved to a cheaper node (monotonic seconds)."""
        self._nodes = nodes
        self._known: dict[str, _Known] = {}
        self._got: dict[str, Choice] | None = None
        self.grew: Callable[[], None] = lambda: None
        """Called when one more session waits."""

    def enter(self, registration: Registration, wake: Callable[[], None]) -> None:
        """The session is kept here; ``wake`` is called when it may be its turn."""
        self._known[registration.name] = _Known(registration, wake)
        self._nodes.pool.promised[registration.name] = registration

    def forget(self, session: str) -> None:
        """It is not kept here any more."""
        self._known.pop(session, None)
        self._nodes.pool.promised.pop(session, None)
        for node in self._nodes:
            node.near.pop(session, None)
        self.changed()

    def turn(self, session: str, needs: Needs) -> Choice:
        """Return what it gets now; it waits from then on until :meth:`left`."""
        known, loop = self._known[session], asyncio.get_running_loop()
        now = loop.time()
        if known.waiting is None or known.waiting.needs != needs:
            since = known.waiting.since if known.waiting is not None else now
            agreed = known.registration
            image = repository_of(agreed)
            known.waiting = Waiting(session, agreed.owner, needs, since, image)
            known.tiers = needs.tiers
            self._got = None
            self.grew()
            if (left := self.rules.left(now - since)) is not None:
                loop.call_later(left, self.changed)
        if self._got is None:
            waiting = [one.waiting for one in self._known.values() if one.waiting is not None]
            nodes = [node.facts() for node in self._nodes]
            owners, images = self._running()
            self._got = place(nodes, waiting, owners, self.rules, now, images)
            # All that are woken at once share it; who looks later finds how things are then.
            loop.call_soon(self._forget_got)
        return self._got[session]

    def tiers(self, session: str) -> tuple[str, ...]:
        """Return the tiers in which compute may be started for it now; none while somebody has as
        many sessions as they may.
        """
        known = self._known[session]
        one = known.waiting
        if one is None:  # it has compute, which leaves
            return known.tiers or known.registration.tiers
        if Taken(self.rules.quotas, *self._running()).over(one):
            return ()
        return self.rules.tiers(one.needs, asyncio.get_running_loop().time() - one.since)

    @property
    def empty(self) -> bool:
        """Whether nobody waits."""
        return all(known.waiting is None for known in self._known.values())

    def waits(self, session: str) -> Choice | None:
        """Return what a session gets that waits; None: it does not."""
        known = self._known.get(session)
        if known is None or known.waiting is None:
            return None
        return self.turn(session, known.waiting.needs)

    def left(self, session: str) -> None:
        """It does not wait any more."""
        known = self._known.get(session)
        if known is not None and known.waiting is not None:
            known.waiting = None
            self.changed()

    def changed(self) -> None:
        """There may be room, or less of it: who waits looks again."""
        self._got = None
        for known in self._known.values():
            if known.waiting is not None:
                known.wake()

    def _forget_got(self) -> None:
        self._got = None

    def _running(self) -> tuple[Counter[str], Counter[str]]:
        """How many sessions on nodes each owner has, and how many are in each image."""
        names = {session for node in self._nodes for session in node.hosting | node.coming}
        there = [self._known[name].registration for name in names & self._known.keys()]
        return Counter(r.owner for r in there), Counter(filter(None, map(repository_of, there)))


class Whereto:
    """Where one session is to go."""

    def __init__(
        self,
        registration: Registration,
        nodes: Nodes,
        line: Line,
        kernels: Callable[[], Iterable[Mapping[str, Any]]] = lambda: (),
    ) -> None:
        """``kernels`` tells which there are, each with its ``env``."""
        self._registration = registration
        self._kernels = kernels
        self._nodes = nodes
        self._line = line
        self._heading: Node | None = None

    def needs(self, needs: Needs) -> Needs:
        """Return ``needs`` with what was agreed of the session."""
        agreed = self._registration
        tiers = agreed.may_use(self._secrets())
        wanted = replace(
            needs,
            memory=agreed.guarantee,
            cores=agreed.cores,
            image=parse(agreed.image).digest if agreed.image else None,
            tiers=tiers,
            only=agreed.name if self._nodes.pool.reserved.has(agreed.name) else None,
            near={
                node.name: node.near[agreed.name]
                for node in self._nodes
                if agreed.name in node.near
            },
        )
        if self._line.rules.on_demand is None and last_resort(wanted):
            tiers = tuple(tier for tier in tiers if tier != LAST_RESORT)
        return replace(wanted, tiers=tiers)

    def may_be_on(self, node: Node) -> bool:
        """Whether it may use a node of that tier. It may not any more when it gets secrets."""
        return node.tier in self._registration.may_use(self._secrets())

    def barred(self, here: Node | None, *, busy: bool) -> set[str]:
        """Return the name of the node where it is, if it may not be there any more.

        It leaves between two cells, as nothing makes it hurry.
        """
        return set() if here is None or busy or self.may_be_on(here) else {here.name}

    def _secrets(self) -> bool:
        return any(has_secrets(kernel.get("env", {})) for kernel in self._kernels())

    def turn(self, needs: Needs, failed: frozenset[str]) -> Choice:
        """Return what the line has for it."""
        return self._line.turn(self._registration.name, replace(needs, avoid=failed))

    def advise(self, here: Incarnation | None, active: float, busy: bool, needs: Needs) -> Advice:
        """Return whether it should move from ``here``; it was ``active`` then (monotonic
        seconds).
        """
        if here is None or not here.node.ready:
            return Advice()
        line, now = self._line, time.monotonic()
        s = Situation(now, here.began, active, line.moved, busy, not line.empty)
        others = (node.facts() for node in self._nodes)
        facts = here.node.facts(but=self._registration.name)
        return advise(s, line.stays, facts, others, self.needs(needs))

    def moves(self) -> None:
        """It is about to, as it was advised to."""
        self._line.moved = time.monotonic()

    def heads_for(self, node: Node | None) -> None:
        """It is on its way there, and counts there as if it were; None: nowhere (any more)."""
        name, before = self._registration.name, self._heading
        if node is before:
            return
        if before is not None:
            before.coming.discard(name)
        if node is not None:
            node.coming.add(name)
        self._heading = node
        self._line.left(name)
        self._line.changed()

    def rests(self) -> None:
        """It wants no node."""
        self._line.left(self._registration.name)

    def why(self, needs: Needs, failed: frozenset[str]) -> dict[str, Any]:
        """Return which node it would get now, or what it waits for, and what is to be said of
        each node.
        """
        wanted = replace(self.needs(needs), avoid=failed)
        name = self._registration.name
        nodes = [node.facts(but=name) for node in self._nodes]
        choice = choose(nodes, wanted)
        waits = self._line.waits(name)
        if waits is not None and waits.node is None:
            choice = waits
        return {
            "node": choice.node,
            "reasons": choice.reasons,
            "place": choice.place,
            "line": choice.line,
            "nodes": [_told(verdict) for verdict in explain(nodes, wanted)],
        }


def repository_of(agreed: Registration) -> str | None:
    """Return what quotas call the session's image: ``[HOST/]NAME``, as all its versions count."""
    if not agreed.image:
        return None
    found = parse(agreed.image)
    return f"{found.host}/{found.name}" if found.host else found.name


def _told(verdict: Verdict) -> dict[str, Any]:
    score = {**asdict(verdict.score), "total": verdict.score.total}
    return {"node": verdict.node, "reason": verdict.reason, "score": score}
