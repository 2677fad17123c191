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
    of kernels which start there. Of its ``memory`` (bytes; None: as much as is wanted) so much is
    ``promised`` to the sessions there.
    """

    name: str
    ready: bool
    state: str = ""
    tier: str = "on-demand"
    runtime: str = "container"
    load: int = 0
    cpu: Cpu = UNKNOWN
    images: Cpu = UNKNOWN
    cores: int = 1
    memory: int | None = None
    promised: int = 0
    only: str | None = None
    """The session that it was started for, and nobody else is let on; None: it is for all."""


@dataclass(frozen=True)
class Needs:
    """What a session needs: the engine its newest checkpoint was made with (None: any), and the CPU
    that its process images need. With ``variables`` a node can do without images: Python variables
    are saved beside them. ``memory`` (bytes) is guaranteed to it; ``tiers`` are those it may use.
    """

    engine: str | None = None
    cpu: Cpu | None = None
    variables: bool = False
    avoid: frozenset[str] = frozenset()
    memory: int = 0
    tiers: tuple[str, ...] = TIER_ORDER
    only: str | None = None
    """The session, if there is a node for it alone."""


@dataclass(frozen=True)
class Choice:
    """``node`` is None when no node fits; ``reasons`` says why each other one was not taken, by
    name. ``place`` is that in the line of those that wait, from 1; ``line`` is how long that is.
    """

    node: str | None
    reasons: dict[str, str]
    place: int = 0
    line: int = 0

    def __str__(self) -> str:
        if self.node:
            return self.node
        why = "; ".join(f"{name}: {reason}" for name, reason in sorted(self.reasons.items()))
        place = f"place {self.place} of {self.line} in the line: " if self.line > 1 else ""
        return place + (why or "there is no node")


def choose(nodes: list[NodeFacts], needs: Needs) -> Choice:
    """Return, among the nodes that fit, one that can take the process images if there is any, then
    the one with the cheapest tier, then the least load, then the first by name.
    """
    reasons: dict[str, str] = {}
    fitting: list[NodeFacts] = []
    for node in nodes:
        reason = unfit(node, needs)
        if reason:
            reasons[node.name] = reason
        else:
            fitting.append(node)
    if not fitting:
        return Choice(None, reasons)
    best = min(fitting, key=lambda node: rank(node, needs))
    reasons.update({n.name: f"{best.name} is preferred" for n in fitting if n is not best})
    return Choice(best.name, reasons)


Rank = tuple[bool, int, float, str]


def rank(node: NodeFacts, needs: Needs) -> Rank:
    """Return what nodes that fit are ordered by: the least is the best."""
    tier, crowd = TIER_ORDER.index(node.tier), node.load / max(1, node.cores)
    return no_images(node, needs) is not None, tier, crowd, node.name


def unfit(node: NodeFacts, needs: Needs) -> str | None:
    """Why the node cannot have the session now; None: it can."""
    if not node.ready:
        return STATES.get(node.state, "is not ready")
    if node.name in needs.avoid:
        return "has just failed to run it"
    return never(node, needs) or full(node, needs)


def never(node: NodeFacts, needs: Needs) -> str | None:
    """Why the node could not have it even if nothing else were there; None: it could."""
    if node.only is not None and node.only != needs.only:
        return "is another session's own"
    if node.tier not in needs.tiers:
        return f"is of the tier {node.tier}, which it may not use"
    if needs.memory and node.memory is not None and needs.memory > node.memory:
        return f"has {_gigabytes(node.memory)} of memory, and {_gigabytes(needs.memory)} are wanted"
    return None if needs.variables else no_images(node, needs)


def full(node: NodeFacts, needs: Needs) -> str | None:
    """Why there is no room for it beside what is there; None: there is."""
    if not needs.memory or node.memory is None:
        return None
    left = node.memory - node.promised
    if needs.memory <= left:
        return None
    return f"has {_gigabytes(left)} of memory left, and {_gigabytes(needs.memory)} are wanted"


def _gigabytes(size: int) -> str:
    return f"{max(0, size) / (1 << 30):.2f} GiB"


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
