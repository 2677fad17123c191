"""Where a session is to go: what its keeper and the line of all that wait tell each other."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sessionkeeper.keeper.nodes import Node, Nodes
from sessionkeeper.line import Waiting, place
from sessionkeeper.placement import Choice, Needs, choose
from sessionkeeper.registration import Registration

log = logging.getLogger(__name__)


@dataclass
class _Known:
    registration: Registration
    wake: Callable[[], None]
    waiting: Waiting | None = None


class Line:
    """The sessions of a gateway that want a node."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._known: dict[str, _Known] = {}
        self._got: dict[str, Choice] | None = None
        self.grew: Callable[[], None] = lambda: None
        """Called when one more session waits."""

    def enter(self, registration: Registration, wake: Callable[[], None]) -> None:
        """The session is kept here; ``wake`` is called when it may be its turn."""
        self._known[registration.name] = _Known(registration, wake)
        self._nodes.guarantees[registration.name] = registration.guarantee

    def forget(self, session: str) -> None:
        """It is not kept here any more."""
        self._known.pop(session, None)
        self._nodes.guarantees.pop(session, None)
        self.changed()

    def turn(self, session: str, needs: Needs) -> Choice:
        """Return what it gets now; it waits from then on until :meth:`left`."""
        known = self._known[session]
        if known.waiting is None or known.waiting.needs != needs:
            now = asyncio.get_running_loop().time()
            since = known.waiting.since if known.waiting is not None else now
            known.waiting = Waiting(session, known.registration.owner, needs, since)
            self._got = None
            self.grew()
        if self._got is None:
            waiting = [one.waiting for one in self._known.values() if one.waiting is not None]
            nodes = [node.facts() for node in self._nodes]
            self._got = place(nodes, waiting, self._running())
            # All that are woken at once share it; who looks later finds how things are then.
            asyncio.get_running_loop().call_soon(self._forget_got)
        return self._got[session]

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

    def _running(self) -> Counter[str]:
        there = {session for node in self._nodes for session in node.hosting | node.coming}
        return Counter(
            self._known[session].registration.owner for session in there & self._known.keys()
        )


class Whereto:
    """Where one session is to go."""

    def __init__(self, registration: Registration, nodes: Nodes, line: Line) -> None:
        self._registration = registration
        self._nodes = nodes
        self._line = line
        self._heading: Node | None = None

    def needs(self, needs: Needs) -> Needs:
        """Return ``needs`` with what was agreed of the session."""
        agreed = self._registration
        own = agreed.name if self._nodes.reserved.has(agreed.name) else None
        return replace(needs, memory=agreed.guarantee, tiers=agreed.tiers, only=own)

    def turn(self, needs: Needs, failed: frozenset[str]) -> Choice:
        """Return what the line has for it."""
        return self._line.turn(self._registration.name, replace(needs, avoid=failed))

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
        """Return which node it would get now, or what it waits for."""
        wanted = replace(self.needs(needs), avoid=failed)
        name = self._registration.name
        choice = choose([node.facts(but=name) for node in self._nodes], wanted)
        waits = self._line.waits(name)
        if waits is not None and waits.node is None:
            choice = waits
        return {
            "node": choice.node,
            "reasons": choice.reasons,
            "place": choice.place,
            "line": choice.line,
        }
