"""`bench nodes`: twenty sessions on a node that goes, with notice and without, and one that was put
to sleep."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from sessionkeeper.bench.client import Kernel, Server
from sessionkeeper.bench.errors import RunFailed
from sessionkeeper.bench.feed import Feed
from sessionkeeper.bench.figures import REQUIRED, Figure
from sessionkeeper.bench.recovery import TROUBLE
from sessionkeeper.bench.stacks import System, sessionkeeper_system
from sessionkeeper.up.terminal import Terminal

__all__ = ["measure"]

SESSIONS = 20
MB = 50
"""In each kernel, of 2**20 random bytes."""

DEADLINE = 5.0
"""Seconds from the notice until the plug of the node is pulled."""

_SESSIONS = "/api/sessionkeeper/sessions"
_NODES = ("node-1", "node-2")
_WITNESS = "import os; witness = os.urandom(8).hex(); print(witness, end='')"
"""A cell that cannot be run again unnoticed."""


async def measure(terminal: Terminal, runs: int) -> tuple[list[Figure], str]:
    """The figures, and the runtime that was used. With the process runtime nothing is required."""
    async with sessionkeeper_system(terminal) as system:
        container = system.runtime == "container"
        kept, moved = _figure("drain20_kept", container), Figure("drain20_moved_s")
        killed, resumed = _figure("kill20_s", container), _figure("resume_s", container)
        async with _crowd(terminal, system) as crowd:
            await crowd.repeat([kept, moved], runs, crowd.drain)
            await crowd.repeat([killed], runs, crowd.kill)
            await crowd.repeat([resumed], runs, crowd.resume)
    figures, runtime = [kept, moved, killed, resumed], system.runtime
    if uplink := _part("uplink"):
        figures += (await uplink.measure(terminal, runs))[0]
    if placing := _part("placing"):
        placed = Figure("placement_s", must=REQUIRED["placement_s"])
        with terminal.step("placing sessions on nodes"):
            seeds = range(1, runs + 1)
            placed.runs += [await asyncio.to_thread(placing.placement_s, seed) for seed in seeds]
        figures.append(placed)
    return figures, runtime


def _part(name: str) -> Any:
    """The module of that name beside this one, if there is one."""
    found = find_spec(f"{__package__}.{name}")
    return import_module(f"{__package__}.{name}") if found else None


def _figure(name: str, required: bool) -> Figure:
    return Figure(name, must=REQUIRED[name] if required else None)


@dataclass
class _One:
    """A session with a kernel, as its user has it, and what its last cell has left."""

    name: str
    feed: Feed
    kernel: Kernel
    witness: str = ""

    async def change(self) -> float:
        """Run a cell whose outcome is its own; a moment between this and any checkpoint with it."""
        self.witness = (await self.kernel.run(_WITNESS)).text
        return time.time()

    async def settle(self) -> None:
        """The same, and wait until that is in a committed checkpoint."""
        await self.feed.committed(await self.change())

    async def kept(self) -> bool:
        """Whether the kernel answers, from wherever it is, and the cell did not run again."""
        return (await self.kernel.run("print(witness, end='')")).text == self.witness


@dataclass
class _Crowd:
    """All of them; they go from node to node together."""

    terminal: Terminal
    system: System
    sessions: list[_One]

    async def repeat(
        self, figures: list[Figure], runs: int, one: Callable[[], Awaitable[tuple[float, ...]]]
    ) -> None:
        for number in range(1, runs + 1):
            measured: tuple[float | None, ...] = (None,) * len(figures)
            try:
                with self.terminal.step(f"{figures[0].name}, {number}/{runs}"):
                    measured = await one()
                self.terminal.say("  " + ", ".join(f"{value:.3g}" for value in measured))
            except TROUBLE as error:
                self.terminal.say(f"  failed: {error}")
                figures[0].failures.append(f"run {number}: {error}")
            for figure, value in zip(figures, measured, strict=True):
                figure.runs.append(value)

    async def drain(self) -> tuple[float, float]:
        """Each session runs a cell; then its node gets notice, and its plug is pulled when that
        is over. How many lost nothing; seconds until the last one ran elsewhere.
        """
        node = await self._together()
        await asyncio.gather(*(one.change() for one in self.sessions))
        began = time.monotonic()
        draining = asyncio.create_task(self.system.drain(node, DEADLINE))
        moving = asyncio.create_task(self._all_away(node))
        await asyncio.sleep(DEADLINE - (time.monotonic() - began))
        await self.system.kill(node)
        await draining
        try:
            kept = await asyncio.gather(*(one.kept() for one in self.sessions))
            return sum(kept), await moving - began
        finally:
            moving.cancel()
            await self.system.start(node)

    async def kill(self) -> tuple[float]:
        """The plug is pulled without a word: seconds until all have answered elsewhere."""
        node = await self._together()
        began = time.monotonic()
        await self.system.kill(node)
        try:
            kept = await asyncio.gather(*(one.kept() for one in self.sessions))
            seconds = time.monotonic() - began
        finally:
            await self.system.start(node)
        if not all(kept):
            raise RunFailed(f"{len(kept) - sum(kept)} sessions lost what was committed")
        return (seconds,)

    async def resume(self) -> tuple[float]:
        """Seconds from the wish for a session that hibernates to the answer of its first cell."""
        one = self.sessions[0]
        await one.change()
        gateway = self.system.gateway
        await gateway.ask("POST", f"{_SESSIONS}/{one.name}/hibernate")
        await self.system.rest()
        began = time.monotonic()
        resuming = asyncio.create_task(gateway.ask("POST", f"{_SESSIONS}/{one.name}/resume"))
        kept = await one.kept()
        seconds = time.monotonic() - began
        await resuming
        if not kept:
            raise RunFailed("the session is not what it was")
        return (seconds,)

    async def _together(self) -> str:
        """Have all sessions on one node, committed and at rest, and the other one empty; the name
        of the former.
        """
        await asyncio.gather(*(one.feed.moved("") for one in self.sessions))
        there = {one.feed.node for one in self.sessions}
        if len(there) > 1:
            await self.system.drain(_NODES[1], 60.0)
            await self.system.uncordon(_NODES[1])
            await asyncio.gather(*(one.feed.moved(_NODES[1]) for one in self.sessions))
            there = {_NODES[0]}
        await asyncio.gather(*(one.settle() for one in self.sessions))
        await self.system.rest()
        return there.pop()

    async def _all_away(self, node: str) -> float:
        await asyncio.gather(*(one.feed.left(node) for one in self.sessions))
        return time.monotonic()


@asynccontextmanager
async def _crowd(terminal: Terminal, system: System) -> AsyncIterator[_Crowd]:
    async with AsyncExitStack() as stack:
        found = []
        for number in range(SESSIONS):
            with terminal.step(f"a session with {MB} MB, {number + 1}/{SESSIONS}"):
                found.append(await _begin(stack, system, f"bench-{number}"))
        yield _Crowd(terminal, system, found)


async def _begin(stack: AsyncExitStack, system: System, name: str) -> _One:
    said = await system.gateway.ask("POST", _SESSIONS, {"name": name})
    server = Server(system.gateway.url, said["token"])
    feed = await stack.enter_async_context(Feed.of(server))
    kernel = await stack.enter_async_context(Kernel.started(server))
    await kernel.run(f"import os; held = os.urandom({MB} << 20)")
    return _One(name, feed, kernel)
