"""Which node a session gets, and why. Pure functions.

A node must *fit*: tier, memory, cores, CPU, runtime, image. Of those that fit the one that can take
the process images is taken before one that cannot, on-demand capacity last (unless the session may
use nothing else), and then the one with the lowest *score*: what the session's first hour there
costs, in money and in waiting, counted in the price of one core for an hour on demand. What a term
weighs is said beside its constant, and :func:`explain` shows each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sessionkeeper.cpu import UNKNOWN, Cpu

TIER_ORDER = ("spot", "volunteer", "on-demand")
"""Cheapest first; a session goes to on-demand capacity when there is nothing else."""

LAST_RESORT = "on-demand"

PRICES = {"spot": 0.01, "volunteer": 0.0, "on-demand": 0.04}
"""Of one core for an hour, by tier, where a node does not say its price: list prices of the large
clouds are 0.03 to 0.05 dollars on demand, and a quarter to a third of it for spot."""

CORE_HOUR = PRICES[LAST_RESORT]

RATES = {"spot": 1 / 4, "volunteer": 1 / 2, "on-demand": 1 / 720}
"""Losses per hour, by tier, where none were measured (as ``policy`` has them)."""

INTERRUPTION = 1.2
"""What one weighs: somebody waits for ten seconds or runs a cell again."""

SECOND = INTERRUPTION / 10
"""What a second weighs in which somebody waits for the session's bytes."""

BYTES_PER_SECOND = {"spot": 200e6, "volunteer": 5e6, "on-demand": 200e6}
"""How fast a checkpoint comes to a node, roughly: a data centre's network, a home's line."""

IMAGE_SECONDS = 30.0
"""How long it takes until an image is there that is not."""

CROWD = 0.01
"""What each session per core weighs that is there already: what spreads those that fit alike."""

STATES = {
    "draining": "is being drained; `sessionkeeper node start NAME` takes it back",
    "suspect": "has not been heard for a moment",
    "cordoned": "is cordoned; `sessionkeeper node uncordon NAME` takes that back",
    "lost": "is lost",
    "away": "is not connected",
}


@dataclass(frozen=True)
class NodeFacts:
    """What placement knows of a node. ``load`` is the number of sessions it runs, ``cpu`` what
    process images are compared with that may come there, ``images`` what those need that are made
    of kernels which start there. Of its ``memory`` (bytes; None: as much as is wanted) and its
    ``cores`` so much is ``promised`` to the sessions there. ``price`` is that of the whole node per
    hour, ``rate`` its losses per hour as measured (None: nobody knows). ``present`` are the images
    it has (None: sessions there need none), and ``fetches`` says whether it can get others.
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
    promised_cores: float = 0.0
    price: float | None = None
    rate: float | None = None
    present: frozenset[str] | None = None
    fetches: bool = True
    only: str | None = None
    """The session that it was started for, and nobody else is let on; None: it is for all."""


@dataclass(frozen=True)
class Needs:
    """What a session needs: the engine its newest checkpoint was made with (None: any), and the CPU
    that its process images need. With ``variables`` a node can do without images: Python variables
    are saved beside them. ``memory`` (bytes) and ``cores`` are guaranteed to it; ``tiers`` are
    those it may use. Its newest checkpoint has ``size`` bytes, of which so many are ``near``: on
    the node already, by name. These two are no part of what kind of needs it is.
    """

    engine: str | None = None
    cpu: Cpu | None = None
    variables: bool = False
    avoid: frozenset[str] = frozenset()
    memory: int = 0
    tiers: tuple[str, ...] = TIER_ORDER
    cores: float = 0.0
    image: str | None = None
    """Digest of the container image that it runs in; None: in none."""
    only: str | None = None
    """The session, if there is a node for it alone."""
    size: int = field(default=0, compare=False)
    near: Mapping[str, int] = field(default_factory=dict, compare=False)

    @property
    def takes_room(self) -> bool:
        """Whether something is guaranteed to it."""
        return bool(self.memory or self.cores)


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


@dataclass(frozen=True)
class Score:
    """What a session's first hour on a node costs, in the price of one core for an hour on
    demand.
    """

    price: float
    interruptions: float
    waiting: float
    crowd: float

    @property
    def total(self) -> float:
        """The least is the best."""
        return self.price + self.interruptions + self.waiting + self.crowd

    def __str__(self) -> str:
        return (
            f"{self.total:.2f} = price {self.price:.2f} + interruptions {self.interruptions:.2f}"
            f" + waiting {self.waiting:.2f} + crowd {self.crowd:.2f}"
        )


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a node: ``reason`` is why it does not fit, empty if it does."""

    node: str
    reason: str
    score: Score


def choose(nodes: list[NodeFacts], needs: Needs) -> Choice:
    """Return the best of the nodes that fit, as the module says; of equal ones the first by
    name.
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
    why = f"{best.name} is preferred"
    had = f"{why}, which has the image" if needs.image in (best.present or ()) else why
    for node in fitting:
        if node is not best:
            reasons[node.name] = why if needs.image in (node.present or ()) else had
    return Choice(best.name, reasons)


def explain(nodes: Iterable[NodeFacts], needs: Needs) -> list[Verdict]:
    """Return what is to be said of every node: those that fit first, best first."""
    said = [
        ((reason is not None, rank(node, needs)), Verdict(node.name, reason or "", score))
        for node in nodes
        for reason, score in [(unfit(node, needs), score_of(node, needs))]
    ]
    return [verdict for _, verdict in sorted(said, key=lambda one: one[0])]


Rank = tuple[bool, bool, float, str]


def rank(node: NodeFacts, needs: Needs) -> Rank:
    """Return what nodes that fit are ordered by: the least is the best."""
    last = node.tier == LAST_RESORT and last_resort(needs)
    return no_images(node, needs) is not None, last, score_of(node, needs).total, node.name


def last_resort(needs: Needs) -> bool:
    """Whether on-demand capacity is what is taken when there is nothing else: not for a session
    that may use nothing else.
    """
    return set(needs.tiers) != {LAST_RESORT}


def score_of(node: NodeFacts, needs: Needs) -> Score:
    """Return what the node scores for a session with these needs."""
    missing = max(0, needs.size - needs.near.get(node.name, 0))
    seconds = missing / BYTES_PER_SECOND[node.tier]
    if needs.image and needs.image not in (node.present or ()):
        seconds += IMAGE_SECONDS
    return Score(
        price=price_of(node),
        interruptions=INTERRUPTION * rate_of(node),
        waiting=SECOND * seconds,
        crowd=CROWD * node.load / max(1, node.cores),
    )


def price_of(node: NodeFacts) -> float:
    """Return what a core of it costs, in that of one on demand."""
    if node.price is None:
        return PRICES[node.tier] / CORE_HOUR
    return node.price / max(1, node.cores) / CORE_HOUR


def rate_of(node: NodeFacts) -> float:
    """Return its losses per hour."""
    return RATES[node.tier] if node.rate is None else node.rate


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
    if needs.cores > node.cores:
        return f"has {_cores(node.cores)}, and {needs.cores:g} are wanted"
    own = node.only is not None  # it was started in its session's image
    if needs.image and not own and not node.fetches and needs.image not in (node.present or ()):
        return "does not have the image of its kernels, and cannot fetch it"
    return None if needs.variables else no_images(node, needs)


def full(node: NodeFacts, needs: Needs) -> str | None:
    """Why there is no room for it beside what is there; None: there is."""
    free = node.cores - node.promised_cores
    if needs.cores > free:
        return f"has {_cores(max(0.0, free))} left, and {needs.cores:g} are wanted"
    if not needs.memory or node.memory is None:
        return None
    left = node.memory - node.promised
    if needs.memory <= left:
        return None
    return f"has {_gigabytes(left)} of memory left, and {_gigabytes(needs.memory)} are wanted"


def _cores(number: float) -> str:
    return f"{number:g} core" if number == 1 else f"{number:g} cores"


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
