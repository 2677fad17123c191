"""What placement is told of a node: of what its agent said, and of what runs there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sessionkeeper.cpu import Cpu
from sessionkeeper.placement import NodeFacts

if TYPE_CHECKING:
    from sessionkeeper.keeper.node import Node


def facts_of(node: Node, but: str = "") -> NodeFacts:
    """Return what placement wants to know; ``but`` that session does not count."""
    there = (node.hosting | node.coming) - {but}
    hello, pool = node.hello, node.pool
    return NodeFacts(
        name=node.name,
        ready=node.ready and node.connection is not None,
        state=node.state if not node.ready or node.connection is not None else "away",
        tier=node.tier,
        runtime=node.runtime,
        load=len(there),
        cores=int(hello.get("cores", 1)),
        memory=hello.get("memory"),
        promised=pool.memory_of(there),
        promised_cores=pool.cores_of(there),
        price=node.price,
        rate=pool.rates.rate(node.name, node.tier),
        present=frozenset(node.has),
        # One that was started for a session is in its image, or fetches it.
        fetches=node.runtime == "container" or pool.reserved.of(node.name) is not None,
        cpu=Cpu.from_json(hello),
        images=Cpu.from_json(hello.get("images") or {}),
        only=pool.reserved.of(node.name),
    )
