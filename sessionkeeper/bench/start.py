"""`bench start`: from POST /api/kernels to the answer to kernel_info_request."""

from __future__ import annotations

import time

from sessionkeeper.bench.client import Kernel
from sessionkeeper.bench.figures import REQUIRED, Figure, median
from sessionkeeper.bench.stacks import PEERS, Stack, sessionkeeper_system
from sessionkeeper.up.terminal import Terminal

__all__ = ["measure"]


async def measure(terminal: Terminal, runs: int) -> tuple[list[Figure], str]:
    """The median start, and the very first one of a fresh system, which is none of the runs; and
    the runtime that was used."""
    first, start = Figure("kernel_first_start_s"), Figure("kernel_start_s")
    async with sessionkeeper_system(terminal) as system:
        taken = await _starts(terminal, "sessionkeeper", system, runs)
    first.runs, start.runs = [taken[0]], [*taken[1:]]
    if system.runtime == "container":
        start.must = REQUIRED["kernel_start_s"]
    for name, started in PEERS.items():
        async with started(terminal) as stack:
            theirs = await _starts(terminal, name, stack, runs)
        first.peers[name], start.peers[name] = theirs[0], median(theirs[1:])
    return [start, first], system.runtime


async def _starts(terminal: Terminal, name: str, stack: Stack, runs: int) -> list[float]:
    """One start more than `runs`, one kernel after the other."""
    taken = []
    for number in range(runs + 1):
        with terminal.step(f"{name}: a kernel, {number}/{runs}"):
            await stack.rest()
            began = time.perf_counter()
            async with Kernel.started(stack.server) as kernel:
                taken.append((await kernel.info()).replied - began)
        terminal.say(f"  {taken[-1]:.3f} s")
    return taken
