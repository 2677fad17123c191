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
    """What placement knows of a node. ``load`` is the number of sessions it runs, ``cpu`` what
    process images are compared with that may come there, ``images`` what those need that are made
    of kernels which start there.
    """

    name: str
    ready: bool
    state: str = ""
    tier: str = "on-demand"
    runtime: str = "container"
    load: int = 0
    cpu: Cpu = UNKNOWN
    images: Cpu = UNKNOWN


@dataclass(frozen=True)
class Needs:
    """What a session needs: the engine its newest checkpoint was made with (None: any), and the CPU
    that its process images need. With ``variables`` a node can do without images: Python variables
    are saved beside them.
    """

    engine: str | None = None
    cpu: Cpu | None = None
    variables: bool = False
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
    """Return, among the nodes that fit, one that can take the process images if there is any, then
    the one with the cheapest tier, then the least load, then the first by name.
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

    def rank(node: NodeFacts) -> tuple[bool, int, int, str]:
        tier = TIER_ORDER.index(node.tier)
        return no_images(node, needs) is not None, tier, node.load, node.name

    best = min(fitting, key=rank)
    reasons.update({n.name: f"{best.name} is preferred" for n in fitting if n is not best})
    return Choice(best.name, reasons)


def _unfit(node: NodeFacts, needs: Needs) -> str | None:
    if not node.ready:
        return STATES.get(node.state, "is not ready")
    if node.name in needs.avoid:
        return "has just failed to run it"
    if needs.engine == "namespace" and node.runtime != "process":
        return "runs containers, and the session was saved from plain processes"
    return None if needs.variables else no_images(node, needs)


def no_images(node: NodeFacts, needs: Needs) -> str | None:
    """Why the node cannot restore the process images; None: it can, or there are none."""
    if needs.engine != "criu":
        return None
    if node.runtime != "container":
        return "cannot restore process images"
    if needs.cpu and node.cpu.lacks(needs.cpu):
        return f"has a CPU ({node.cpu.model}) that lacks features of {needs.cpu.model}"
    return None


def differ(host: NodeFacts, others: list[NodeFacts], needs: Needs) -> bool:
    """Whether one of ``others`` that stays could not take the process images of ``host``: those of
    kernels that start there, or of the session there, which has ``needs``.
    """
    if host.runtime != "container":
        return False
    fresh = Needs(engine="criu", cpu=host.images)
    return any(
        no_images(node, fresh) or no_images(node, needs)
        for node in others
        if node.name != host.name and node.state not in {"draining", "lost"}
    )
