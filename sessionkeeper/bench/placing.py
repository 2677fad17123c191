"""How long it takes to give nodes to very many sessions at once: pure, no input and no output."""

from __future__ import annotations

import random
import time

from sessionkeeper.line import Rules, Waiting, place
from sessionkeeper.placement import Needs, NodeFacts
from sessionkeeper.quotas import Quotas

SESSIONS, NODES = 10_000, 500
_GIB = 1 << 30


def placement_s(seed: int = 1) -> float:
    """Return the seconds of processor time in which 10,000 sessions of 300 owners are placed over
    500 nodes of all tiers: with prices, rates, images, bytes that are near, and quotas.
    """
    nodes, waiting = pool(seed)
    rules = Rules(Quotas(owner=1000, image=9000), on_demand=300.0)
    began = time.process_time()
    got = place(nodes, waiting, {}, rules, now=400.0)
    took = time.process_time() - began
    assert len(got) == SESSIONS
    return took


def pool(seed: int) -> tuple[list[NodeFacts], list[Waiting]]:
    """Return made-up nodes and the sessions that wait for one."""
    chance = random.Random(seed)  # noqa: S311
    images = [f"image-{n}" for n in range(20)]
    nodes = [
        NodeFacts(
            f"n{n}",
            ready=chance.random() < 0.98,
            tier=chance.choice(("spot", "spot", "spot", "volunteer", "on-demand")),
            cores=chance.choice((4, 8, 16)),
            memory=chance.choice((16, 32, 64)) * _GIB,
            price=chance.uniform(0.02, 0.4),
            rate=chance.uniform(0.01, 0.5),
            present=frozenset(chance.sample(images, 5)),
        )
        for n in range(NODES)
    ]
    waiting = []
    for n in range(SESSIONS):
        near = {nodes[at].name: 10**8 for at in chance.sample(range(NODES), 2)}
        needs = Needs(
            memory=chance.choice((0, 1, 2, 4)) * _GIB // 2,
            cores=chance.choice((0.0, 0.5)),
            image=chance.choice(images),
            size=chance.randrange(10**7, 10**9),
            near=near if chance.random() < 0.5 else {},
        )
        since = chance.uniform(0, 400)
        waiting.append(Waiting(str(n), f"owner-{n % 300}", needs, since, needs.image))
    return nodes, waiting
