"""One node, as the gateway knows it: its agent's connection, and what is asked of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from gateway.errors import GatewayError
from sessionkeeper.keeper.facts import facts_of
from sessionkeeper.keeper.pool import Pool
from sessionkeeper.keeper.pressure import SAVING, Pressure
from sessionkeeper.placement import NodeFacts

T = TypeVar("T")

STAGING_SHARE = 0.3
"""Of the time until a node leaves, how much may pass before its kernels are frozen."""


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
