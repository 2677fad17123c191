"""`bench latency`: `1+1` at the browser's end of the WebSocket until reply and idle are there."""

from __future__ import annotations

import time

from sessionkeeper.bench.client import Kernel
from sessionkeeper.bench.figures import REQUIRED, Figure, median, percentile
from sessionkeeper.bench.stacks import PEERS, Stack, sessionkeeper_system
from sessionkeeper.up.terminal import Terminal

__all__ = ["measure", "rounds"]

WARM_UPS, REQUESTS = 30, 300
PEER_RUNS = 2
"""At most; each takes 14 s, as stock servers wait for Nagle's algorithm."""

Rounds = list[tuple[float, float]]


async def measure(terminal: Terminal, runs: int) -> tuple[list[Figure], str]:
    """p50 and p99 of `REQUESTS` requests, a run each, and the runtime that was used."""
    async with sessionkeeper_system(terminal) as system:
        own = await rounds(terminal, "sessionkeeper", system, runs)
    p50 = Figure("latency_p50_ms", must=REQUIRED["latency_p50_ms"])
    p99 = Figure("latency_p99_ms", must=REQUIRED["latency_p99_ms"])
    p50.runs, p99.runs = [one[0] for one in own], [one[1] for one in own]
    for name, started in PEERS.items():
        async with started(terminal) as stack:
            theirs = await rounds(terminal, name, stack, min(runs, PEER_RUNS))
        p50.peers[name] = median([one[0] for one in theirs])
        p99.peers[name] = median([one[1] for one in theirs])
    return [p50, p99], system.runtime


async def rounds(terminal: Terminal, name: str, stack: Stack, runs: int) -> Rounds:
    """p50 and p99 in milliseconds, of so many rounds of `REQUESTS` cells."""
    found: Rounds = []
    async with Kernel.started(stack.server) as kernel:
        await kernel.info()
        for _ in range(WARM_UPS):
            await kernel.run("1+1")
        for number in range(1, runs + 1):
            await stack.rest()
            with terminal.step(f"{name}: {REQUESTS} cells, {number}/{runs}"):
                taken = [await _one(kernel) for _ in range(REQUESTS)]
            found.append((percentile(taken, 50), percentile(taken, 99)))
            terminal.say(f"  p50 {found[-1][0]:.2f} ms, p99 {found[-1][1]:.2f} ms")
    return found


async def _one(kernel: Kernel) -> float:
    began = time.perf_counter()
    answer = await kernel.run("1+1")
    return (answer.ended - began) * 1000
