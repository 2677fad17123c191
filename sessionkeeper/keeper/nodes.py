"""The nodes the gateway knows, and their leases.

A node is *lost* when nothing was heard of it for its lease. Its agent stops its own kernels
when the lease it was granted has passed on its own clock, counted from when it *sent* the
heartbeat that was answered, and so always before the gateway, which counts from when it
*received* it, gives its sessions to another node.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sessionkeeper.errors import UnknownNode
from sessionkeeper.keeper.granted import Granted
from sessionkeeper.keeper.node import Connection, NameTaken, Node
from sessionkeeper.keeper.notices import By, Leaving, Notices, Word
from sessionkeeper.keeper.pool import Pool
from sessionkeeper.leases import Leases

log = logging.getLogger(__name__)
T = TypeVar("T")

SUSPECT_SHARE = 0.3
"""Silent for this share of its lease a node is suspect: others prepare to take over, nothing is
decided.
"""

STALL = 0.25
"""Seconds this process may be late before silence is held to be its own fault, not the node's."""


class Nodes:
    """All nodes by name. ``changed`` is called with a node whenever its state changed."""

    def __init__(
        self,
        leases: Leases,
        changed: Callable[[Node], None],
        notices: Notices | None = None,
        granted: Path | None = None,
    ) -> None:
        """``granted`` is a file with the leases that nodes have, for who is started after us."""
        self._leases = leases
        self._granted = Granted(granted)
        self._changed = changed
        self._notices = notices or Notices()
        self._nodes: dict[str, Node] = {}
        self.pool = Pool()

    def __iter__(self) -> Any:
        return iter(self._nodes.values())

    def get(self, name: str) -> Node:
        """Return the node. Raises :class:`UnknownNode` that names the nodes there are."""
        try:
            return self._nodes[name]
        except KeyError:
            known = ", ".join(sorted(self._nodes)) or "none"
            raise UnknownNode(f"there is no node {name!r}", hint=f"nodes: {known}") from None

    def find(self, name: str | None) -> Node | None:
        return self._nodes.get(name) if name else None

    def joined(
        self, connection: Connection, hello: dict[str, Any], *, cordoned: bool = False
    ) -> Node:
        """An agent said hello. Its node is the one it was if its lease has not ended, else a new
        one.

        Raises :class:`NameTaken` while another node of that name has a lease: what runs there has
        not ended yet.
        """
        name = str(hello["node"])
        node = self._nodes.get(name)
        if node is not None and not node.gone.done() and node.is_another(hello):
            raise NameTaken(f"another node {name} has a lease; it was heard a moment ago")
        lease = self._leases.of(str(hello.get("tier", "on-demand")))
        if node is None or node.gone.done():
            node = Node(name, connection, hello, lease, pool=self.pool)
            self._nodes[name] = node
            there = (one for one in self._nodes.values() if not one.gone.done())
            self._granted.are({one.name: one.lease for one in there})
        else:
            node.hello = hello
            node.connect(connection)
        node.cordoned = cordoned
        self.heard(node)
        leaving = self._notices.leaving(name, hello.get("instance"))
        if leaving is not None and not node.draining:
            self._leaves(node, leaving)
        self._changed(node)
        return node

    def drain(self, node: Node, seconds: float) -> None:
        """The node leaves in so many seconds; nothing new is placed there."""
        self._notices.give(node.name, node.hello.get("instance"), seconds)
        self._count(node)

    def cordon(self, node: Node) -> None:
        """Nothing new is placed there until :meth:`uncordon`; what is there stays."""
        node.cordoned = True
        self._changed(node)

    def uncordon(self, node: Node) -> None:
        """All notices are withdrawn, and sessions may be placed there again."""
        node.cordoned = False
        self._notices.withdraw(node.name)
        self._count(node)
        self._changed(node)

    def noticed(self, node: Node, word: Word, by: By = "node") -> None:
        """The node says that it goes, may go, or stays, which it does each time it connects; or
        who started it says so.
        """
        before = (node.draining, node.notice)
        if word.seconds is None:
            self._notices.withdraw(node.name, by=by)
        else:
            instance = node.hello.get("instance")
            self._notices.give(node.name, instance, word.seconds, word.reason, by=by)
        self._count(node)
        if word.reason and word.seconds is None and not node.draining:
            node.notice = f"{node.name} may go soon ({word.reason})"
        if (node.draining, node.notice) != before or node.draining:
            self._changed(node)

    def _count(self, node: Node) -> None:
        leaving = self._notices.leaving(node.name, node.hello.get("instance"))
        if leaving is not None:
            self._leaves(node, leaving)
        else:
            node.draining, node.notice = False, None

    def _leaves(self, node: Node, leaving: Leaving) -> None:
        node.draining = True
        node.leaves_at = asyncio.get_running_loop().time() + leaving.left()
        node.notice = leaving.words(node.name)

    def expect(self, name: str) -> None:
        """A node of that name had a session when this process ended: it has one lease to come
        back.
        """
        if name in self._nodes:
            return
        lease = self._granted.of(name) or self._leases.seconds
        node = Node(name, None, {"node": name}, lease, pool=self.pool)
        self._nodes[name] = node
        self.heard(node)

    def disconnected(self, node: Node, connection: Connection) -> None:
        """The connection ended. The node's lease runs on: its agent may have crashed and come
        back.
        """
        if node.connection is connection:
            node.connect(None)
            self._changed(node)

    def heard(self, node: Node) -> None:
        """Something was received from the node: its lease begins anew."""
        loop = asyncio.get_running_loop()
        first = node.last_seen == 0.0
        node.heard_at = loop.time()
        node.last_seen = max(node.last_seen, node.heard_at)
        if node.suspect:
            node.suspect = False
            self._changed(node)
        if first:
            self._watch(node)

    def stand_still(self, seconds: float) -> None:
        """This process is about to be busy for so long, and will answer no heartbeat. All leases
        are longer by that, and agents are told: theirs must not end meanwhile. Not that of a node
        that is silent already, so a lost one is found out however often this is called.
        """
        now = asyncio.get_running_loop().time()
        for node in self._nodes.values():
            silent = now - node.heard_at > node.lease * SUSPECT_SHARE
            if node.connection is not None and node.beat is not None and not silent:
                node.last_seen = max(node.last_seen, node.heard_at + seconds)
                longer = {"sent": node.beat, "seconds": node.lease + seconds}
                node.connection.send_event({"event": "lease", **longer})

    def left(self, node: Node, how: str = "left") -> None:
        """The node is gone for good, by its own or the operator's word."""
        self._lose(node, how)

    def _watch(self, node: Node) -> None:
        loop = asyncio.get_running_loop()
        if node.gone.done():
            return
        silent = loop.time() - node.last_seen
        if silent >= node.lease:
            self._lose(node, f"was silent for {silent:.1f} s")
            return
        suspicion = node.lease * SUSPECT_SHARE
        if silent >= suspicion and not node.suspect:
            node.suspect = True
            self._changed(node)
        due = node.lease - silent if node.suspect else suspicion - silent
        when = loop.time() + max(due, 0.01)
        loop.call_at(when, self._look, node, when)

    def _look(self, node: Node, when: float) -> None:
        now = asyncio.get_running_loop().time()
        late = now - when
        if late > STALL:
            # We stood still, not the node: what it sent meanwhile is read first.
            log.warning("this process stood still for %.1f s; leases are extended", late)
            node.last_seen = max(node.last_seen + late, now - node.lease + STALL)
        self._watch(node)

    def _lose(self, node: Node, why: str) -> None:
        if not node.gone.done():
            log.warning("node %s is lost: it %s", node.name, why)
            self._notices.withdraw(node.name)
            self.pool.note_loss(node.name, node.tier, by_wish=why == "left")
            node.gone.set_result(None)
            if node.connection is not None:
                node.connection.close("your lease is over")
            self._changed(node)

    def _notice_of(self, node: Node) -> str | None:
        """What is read of it now, with the seconds that are left now."""
        if node.gone.done():
            return None
        leaving = self._notices.leaving(node.name, node.hello.get("instance"))
        return leaving.words(node.name) if leaving else node.notice

    def report(self) -> list[dict[str, Any]]:
        """Return what ``GET /api/sessionkeeper/nodes`` says."""
        now = asyncio.get_running_loop().time()
        return [
            {
                "name": n.name,
                "state": n.state,
                "tier": n.hello.get("tier"),
                "runtime": n.runtime,
                "cpu": n.hello.get("cpu"),
                "cpu_level": n.hello.get("cpu_level"),
                "cpu_baseline": n.hello.get("cpu_baseline"),
                "cores": n.hello.get("cores"),
                "memory": n.hello.get("memory"),
                "price": n.price,
                "losses_per_hour": n.pool.rates.rate(n.name, n.tier),
                "sessions": sorted(n.hosting),
                "last_seen": time.time() - (now - n.last_seen),
                "notice": self._notice_of(n),
            }
            for n in self._nodes.values()
        ]
