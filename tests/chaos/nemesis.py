"""What goes wrong, and when: a plan made of a seed, and the hands that do it.

| fault | what it is |
|---|---|
| `kill` | the plug of the node that has the session is pulled |
| `drain` | that node gets notice, and its plug is pulled when the notice is over |
| `pause` | everything on it stands still for a while, longer than its lease or not |
| `cut` | nothing comes or goes over its link for a while |
| `deaf` | what the gateway says does not reach it for a while |
| `mute` | what it says does not reach the gateway for a while |
| `agent` | its agent is killed; its kernels are not |
| `gateway` | the gateway is killed |
| `stall` | the gateway stands still for a while |
| `store` | the store is not there for a while |
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from system.running import System

from sessionkeeper.nodes import processes

HARD = ("kill", "drain", "pause", "cut", "deaf", "mute")
"""After these the session may have to go elsewhere, which takes seconds."""

SOFT = ("agent", "gateway", "stall", "store")
NODES = ("node-1", "node-2")


@dataclass(frozen=True)
class Fault:
    """`kind` begins at `at` seconds, and lasts for `seconds` where it lasts."""

    at: float
    kind: str
    seconds: float


def plan(seed: int, within: float) -> list[Fault]:
    """The faults of a seed, in the order of their time: one that is hard, and up to two others."""
    chance = random.Random(seed)
    kinds = [chance.choice(HARD), *chance.sample(SOFT, chance.randint(0, 2))]
    faults = [
        Fault(chance.uniform(0, within), kind, chance.choice([0.3, 1.0, 2.0, 3.0]))
        for kind in kinds
    ]
    return sorted(faults, key=lambda fault: fault.at)


class Nemesis:
    """Does to a system what a plan says; `heal` takes back all of it."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._dead: set[str] = set()

    async def carry_out(self, faults: Iterable[Fault]) -> None:
        """All of them, each at its time, and until each is over."""
        await asyncio.gather(*(self._one(fault) for fault in faults))

    async def _one(self, fault: Fault) -> None:
        await asyncio.sleep(fault.at)
        await getattr(self, f"_{fault.kind}")(fault.seconds)

    async def heal(self) -> None:
        """Nodes that are dead or leave are there again."""
        await self._system.until(lambda s: True)  # the gateway is there
        await self._system.heal(NODES)
        self._dead.clear()

    # -- nodes ---------------------------------------------------------------------------------

    async def _kill(self, seconds: float) -> None:
        node = await self._there()
        if node is not None:
            self._dead.add(node)
            await self._system.kill(node)

    async def _drain(self, seconds: float) -> None:
        node = await self._there()
        if node is None:
            return
        self._dead.add(node)
        # Also while the gateway is away: then nobody hears of it before the plug is pulled.
        draining = asyncio.create_task(
            self._system.attempt("node", "drain", node, "--deadline", f"{1 + seconds}s")
        )
        await asyncio.sleep(1 + seconds)
        await self._system.kill(node)
        await draining

    async def _pause(self, seconds: float) -> None:
        node = await self._there()
        if node is not None:
            marked = {pid for pid, part in self._parts().items() if part == node}
            whole = marked.union(*(processes.descendants(pid) for pid in marked))
            async with _stopped(whole):
                await asyncio.sleep(seconds)

    async def _cut(self, seconds: float) -> None:
        node = await self._there()
        if node is not None:
            link = f"skve-{self._system.state.id}-{int(node.removeprefix('node-')) - 1}"
            async with _undone(
                ["ip", "link", "set", link, "down"], ["ip", "link", "set", link, "up"]
            ):
                await asyncio.sleep(seconds)

    async def _deaf(self, seconds: float) -> None:
        await self._drop("output", "daddr", seconds)

    async def _mute(self, seconds: float) -> None:
        await self._drop("input", "saddr", seconds)

    async def _drop(self, hook: str, side: str, seconds: float) -> None:
        node = await self._there()
        if node is None:
            return
        table = f"chaos-{hook}-{self._system.state.id}"
        rules = (
            f"add table ip {table}; "
            f"add chain ip {table} drops {{ type filter hook {hook} priority 0; }}; "
            f"add rule ip {table} drops ip {side} {address_of(self._system, node)} drop"
        )
        async with _undone(["nft", rules], ["nft", f"delete table ip {table}"]):
            await asyncio.sleep(seconds)

    # -- the rest ------------------------------------------------------------------------------

    async def _agent(self, seconds: float) -> None:
        node = await self._there()
        with suppress(AssertionError, ProcessLookupError):  # killed by another fault just now
            if node is not None:
                self._system.kill_agent(node)

    async def _gateway(self, seconds: float) -> None:
        with suppress(AssertionError):
            self._system.kill_part("gateway")

    async def _stall(self, seconds: float) -> None:
        async with _stopped(pid for pid, part in self._parts().items() if part == "gateway"):
            await asyncio.sleep(seconds)

    async def _store(self, seconds: float) -> None:
        there = self._system.state.path / "store"
        away = there.with_name("store-away")
        there.rename(away)
        try:
            await asyncio.sleep(seconds)
        finally:
            away.rename(there)

    # -- small things --------------------------------------------------------------------------

    async def _there(self) -> str | None:
        """The node that has the session, or had it last; None when its plug was pulled."""
        told = await self._system.until(lambda s: s["node"] is not None)
        return None if told["node"] in self._dead else str(told["node"])

    def _parts(self) -> dict[int, str]:
        return processes.parts(self._system.state.id)


def address_of(system: System, node: str) -> str:
    """Where a node's packets come from."""
    name = system.state.id
    said = subprocess.run(["ip", "-j", "-4", "addr"], capture_output=True, check=True).stdout
    bridge = next(one for one in json.loads(said) if one["ifname"] == f"skbr-{name}")
    first = bridge["addr_info"][0]["local"]
    return f"{first.rpartition('.')[0]}.{int(node.removeprefix('node-')) + 1}"


@asynccontextmanager
async def _stopped(pids: Iterable[int]) -> AsyncIterator[None]:
    stopped = [pid for pid in pids if _signal(pid, signal.SIGSTOP)]
    try:
        yield
    finally:
        for pid in stopped:
            _signal(pid, signal.SIGCONT)


def _signal(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


@asynccontextmanager
async def _undone(do: list[str], undo: list[str]) -> AsyncIterator[None]:
    run: Callable[..., object] = subprocess.run
    await asyncio.to_thread(run, do, check=True, capture_output=True)
    try:
        yield
    finally:
        # Its node may be gone by now, and its link with it.
        await asyncio.to_thread(run, undo, check=False, capture_output=True)
