"""What a session should do next. Pure: no I/O, no clock.

What is *wanted* and what *is* go in, one step comes out; the keeper does it and asks again. So
a crash between any two steps needs no code of its own: what is observed afterwards leads to the
right step.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sessionkeeper.placement import Choice, Needs, NodeFacts, choose


@dataclass(frozen=True)
class Placed:
    """The session's compute: ``epoch`` on ``node``. ``up``: the node has said that the session is
    there.
    """

    node: str
    epoch: int
    up: bool


@dataclass(frozen=True)
class Facts:
    """All that is known. ``failed`` are the nodes that could not open the newest checkpoint.

    ``turn``: what the line has for it, if it must wait its turn. ``better``: a node that costs
    less, to which it may go now. ``asleep``: it hibernates.
    ``go_back``: the user wants an earlier checkpoint back; ``unsaved``: there is something that no
    checkpoint has. Incarnations up to the epoch ``over`` are: the user went back, and they did not.
    """

    wanted: bool
    placed: Placed | None
    nodes: tuple[NodeFacts, ...]
    lost: frozenset[str] = frozenset()
    leaving: frozenset[str] = frozenset()
    needs: Needs = field(default_factory=Needs)
    failed: frozenset[str] = frozenset()
    go_back: bool = False
    unsaved: bool = False
    over: int = 0
    turn: Choice | None = None
    better: str | None = None
    asleep: bool = False


@dataclass(frozen=True)
class Rest:
    """No compute is wanted and none is there."""


@dataclass(frozen=True)
class Wait:
    """No node fits; ``why`` says so for each."""

    why: Choice


@dataclass(frozen=True)
class Open:
    """Bring the session up on ``node``."""

    node: str


@dataclass(frozen=True)
class GiveUp:
    """Every node that fits failed to open this checkpoint: its kernels must start anew."""

    nodes: frozenset[str]


@dataclass(frozen=True)
class Lose:
    """The node that had the session is lost: its incarnation is over."""

    placed: Placed


@dataclass(frozen=True)
class Serve:
    """All is well: keep it going and take checkpoints."""


@dataclass(frozen=True)
class Move:
    """The node is leaving: bring the session to ``target``."""

    target: str


@dataclass(frozen=True)
class Rebalance:
    """A node that costs less has room: bring the session there, if nothing is in the way."""

    target: str


@dataclass(frozen=True)
class Secure:
    """The node is leaving and there is nowhere to go yet: commit what there is."""

    why: Choice


@dataclass(frozen=True)
class GoBack:
    """Save what is now, and make the checkpoint that the user wants the newest."""


@dataclass(frozen=True)
class End:
    """End this incarnation: the newest checkpoint is of another life."""


@dataclass(frozen=True)
class Hibernate:
    """Take a last checkpoint, and release the compute."""


Step = (
    Rest
    | Wait
    | Open
    | GiveUp
    | Lose
    | Serve
    | Move
    | Rebalance
    | Secure
    | GoBack
    | End
    | Hibernate
)


def decide(facts: Facts) -> Step:
    """Return the next step."""
    placed = facts.placed
    if placed is not None:
        if placed.node in facts.lost:
            return Lose(placed)
        if placed.epoch <= facts.over:
            return End()
        if facts.go_back:
            return GoBack()
        if facts.asleep:
            return Hibernate()
        if placed.node in facts.leaving:
            choice = _choose(facts, but=facts.failed | {placed.node})
            return Move(choice.node) if choice.node else Secure(choice)
        return Rebalance(facts.better) if facts.better else Serve()
    if facts.go_back and not facts.unsaved:
        return GoBack()
    if (facts.asleep or not facts.wanted) and not facts.go_back:
        return Rest()
    now = _choose(facts, but=facts.failed)
    choice = facts.turn or now
    if choice.node:
        return Open(choice.node)
    if not now.node and _choose(facts).node:
        return GiveUp(facts.failed)
    return Wait(choice)


def _choose(facts: Facts, but: frozenset[str] = frozenset()) -> Choice:
    out = facts.lost | facts.leaving
    nodes = [replace(n, ready=n.ready and n.name not in out) for n in facts.nodes]
    return choose(nodes, replace(facts.needs, avoid=facts.needs.avoid | but))
