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
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from gateway.errors import GatewayError
from sessionkeeper.errors import UnknownNode
from sessionkeeper.keeper.facts import facts_of
from sessionkeeper.keeper.granted import Granted
from sessionkeeper.keeper.notices import By, Leaving, Notices, Word
from sessionkeeper.keeper.pool import Pool
from sessionkeeper.keeper.pressure import SAVING, Pressure
from sessionkeeper.leases import Leases
from sessionkeeper.placement import NodeFacts

log = logging.getLogger(__name__)
T = TypeVar("T")

SUSPECT_SHARE = 0.3
"""Silent for this share of its lease a node is suspect: others prepare to take over, nothing is
decided.
"""

STAGING_SHARE = 0.3
"""Of the time until a node leaves, how much may pass before its kernels are frozen."""

STALL = 0.25
"""Seconds this process may be late before silence is held to be its own fault, not the node's."""


class Connection(Protocol):
    """What is needed of an agent's connection; :class:`gateway.agents.AgentConnection` is one."""

    async def call(self, method: str, params: dict[str, Any], wait: float) -> Any: ...

    def send_frame(self, kernel_id: str, frame: bytes | memoryview) -> None: ...

    def send_event(self, event: dict[str, Any]) -> None: ...

    def close(self, reason: str, /) -> None: ...


class NameTaken(GatewayError):
    """Two nodes of one name."""

    code = "name_taken"
    retryable = True
    hint = "it is let in when the other's lease has ended; else give one of them another name"


class NodeLost(Exception):
    """The node's lease ended, or it left, while something was asked of it."""

    def __init__(self, node: str) -> None:
        super().__init__(f"{node} is lost")
        self.node = node


@dataclass(eq=False)
class Node:
    """One node. ``gone`` is done as soon as it is lost; a node that comes back is a new one of the
    same name.
    """

    name: str
    connection: Connection | None
    hello: dict[str, Any]
    lease: float
    last_seen: float = 0.0
    heard_at: float = 0.0
    """When something was received from it, in the event loop's time; ``last_seen`` may be later."""
    beat: float | None = None
    """The agent's clock when it sent its newest heartbeat."""
    draining: bool = False
    cordoned: bool = False
    """Nothing new is placed there; what is there stays."""
    leaves_at: float = 0.0
    """When it will be gone, in the event loop's time, while it is draining."""
    notice: str | None = None
    """Why it goes, and in how many seconds from when that was heard, if it said so itself."""
    suspect: bool = False
    gone: asyncio.Future[None] = field(default_factory=lambda: asyncio.Future())
    hosting: set[str] = field(default_factory=set)
    coming: set[str] = field(default_factory=set)
    """Sessions that are on their way to it."""
    near: dict[str, int] = field(default_factory=dict)
    """Bytes of each session's checkpoint that were brought to it ahead."""
    pool: Pool = field(default_factory=Pool)
    pressure: Pressure = field(default_factory=Pressure)
    has: set[str] = field(default_factory=set)
    """Digests of the images that are there."""

    def __post_init__(self) -> None:
        self._connected = asyncio.Event()
        self.connect(self.connection)
        self.has = set(self.hello.get("has_images") or ())

    def left(self) -> float:
        """Seconds until it will be gone, while it is draining."""
        return self.leaves_at - asyncio.get_running_loop().time()

    def time_to_stage(self) -> float:
        """Seconds that may pass, on a node that leaves, before its kernels are frozen: what the
        last checkpoints of all its sessions need is left.
        """
        left = self.left()
        others = SAVING * (len(self.hosting) - 1)
        return max(0.0, min(STAGING_SHARE * left, left - others))

    def is_another(self, hello: dict[str, Any]) -> bool:
        """Whether ``hello`` is from another machine, or from this one after it was made anew."""
        known = self.hello.get("instance")
        return known is not None and known != hello.get("instance")

    @property
    def ready(self) -> bool:
        return not (self.gone.done() or self.draining or self.suspect or self.cordoned)

    @property
    def engine(self) -> str | None:
        """What it saves kernels with."""
        return next(iter(self.hello.get("engines") or []), None)

    @property
    def runtime(self) -> str:
        return str(self.hello.get("runtime", "process"))

    @property
    def tier(self) -> str:
        return str(self.hello.get("tier", "on-demand"))

    @property
    def price(self) -> float | None:
        """What it costs per hour, if it says so."""
        said = self.hello.get("price")
        return None if said is None else float(said)

    @property
    def mean_time(self) -> float:
        """Seconds between two losses of it, as far as was seen."""
        return self.pool.rates.mean_time(self.name, self.tier)

    def take(self, session: str) -> None:
        """The session is on it from now on."""
        self.pool.before_change()
        self.hosting.add(session)

    def release(self, session: str) -> None:
        """The session is not on it any more."""
        if session in self.hosting:
            self.pool.before_change()
            self.hosting.discard(session)

    @property
    def state(self) -> str:
        if self.gone.done():
            return "lost"
        if self.draining:
            return "draining"
        return "suspect" if self.suspect else "cordoned" if self.cordoned else "ready"

    def facts(self, but: str = "") -> NodeFacts:
        """Return what placement wants to know; ``but`` that session does not count."""
        return facts_of(self, but)

    async def call(self, method: str, params: dict[str, Any], wait: float = 120.0) -> Any:
        """Ask the agent, as soon as it is connected: it may have crashed and be about to come back.

        Raises :class:`NodeLost` as soon as the node is, whatever the connection says.
        """
        if self.gone.done():
            await asyncio.sleep(0)  # whoever asks again at once leaves others their turn
            raise NodeLost(self.name)
        return await self.while_there(self._call(method, params, wait))

    async def _call(self, method: str, params: dict[str, Any], wait: float) -> Any:
        while self.connection is None:
            await self._connected.wait()
        return await self.connection.call(method, params, wait)

    def connect(self, connection: Connection | None) -> None:
        """The agent's connection is this one from now on; None: it has ended."""
        self.connection = connection
        if connection is not None:
            self._connected.set()
        else:
            self._connected.clear()

    async def while_there(self, work: Awaitable[T]) -> T:
        """Await ``work``, but no longer than the node is there. Raises :class:`NodeLost`."""
        task = asyncio.ensure_future(work)
        waited: set[asyncio.Future[Any]] = {task, self.gone}
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
        finally:
            task.cancel()
        raise NodeLost(self.name)


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
