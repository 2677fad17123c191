"""Which node a session gets, and why. A pure function."""

from __future__ import annotations

from dataclasses import dataclass

from sessionkeeper.cpu import UNKNOWN, Cpu

TIER_ORDER = ("spot", "volunteer", "on-demand")
"""Cheapest first; a session goes to on-demand capacity when there is nothing else."""


STATES = {
    "draining": "is being drained; `sessionkeeper node start NAME` takes it back",
    "suspect": "has not been heard for a moment",
    "lost": "is lost",
    "away": "is not connected",
}


@dataclass(frozen=True)
class NodeFacts:
    """What placement knows of a node. ``load`` is the number of sessions it runs."""

    name: str
    ready: bool
    state: str = ""
    tier: str = "on-demand"
    runtime: str = "container"
    load: int = 0
    cpu: Cpu = UNKNOWN


@dataclass(frozen=True)
class Needs:
    """What a session needs: the engine its newest checkpoint was made with (None: any), and the CPU
    on which its processes were dumped.
    """

    engine: str | None = None
    cpu: Cpu | None = None
    avoid: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Choice:
    """``node`` is None when no node fits; ``reasons`` says why each other one was not taken, by
    name.
    """

    node: str | None
    reasons: dict[str, str]

    def __str__(self) -> str:
        if self.node:
            return self.node
        if not self.reasons:
            return "there is no node"
        return "; ".join(f"{name}: {reason}" for name, reason in sorted(self.reasons.items()))


def choose(nodes: list[NodeFacts], needs: Needs) -> Choice:
    """Return the node with the cheapest tier, then the least load, then the first by name, among
    those that fit.
    """
    reasons: dict[str, str] = {}
    fitting: list[NodeFacts] = []
    for node in nodes:
        reason = _unfit(node, needs)
        if reason:
            reasons[node.name] = reason
        else:
            fitting.append(node)
    if not fitting:
        return Choice(None, reasons)
    best = min(fitting, key=lambda n: (TIER_ORDER.index(n.tier), n.load, n.name))
    reasons.update({n.name: f"{best.name} is preferred" for n in fitting if n is not best})
    return Choice(best.name, reasons)


def _unfit(node: NodeFacts, needs: Needs) -> str | None:
    if not node.ready:
        return STATES.get(node.state, "is not ready")
    if node.name in needs.avoid:
        return "has just failed to run it"
    if needs.engine == "criu" and node.runtime != "container":
        return "cannot restore process images"
    if needs.engine == "namespace" and node.runtime != "process":
        return "runs containers, and the session was saved from plain processes"
    if needs.engine == "criu" and needs.cpu and node.cpu.lacks(needs.cpu):
        return f"has a CPU ({node.cpu.model}) that lacks features of {needs.cpu.model}"
    return None
