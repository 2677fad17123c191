"""`uplink_age_p95_s`: a machine at home, behind 10 Mbit/s, 40 ms and 1 % loss.

A kernel holds 200 MB and somebody runs small cells beside it. How old is the newest committed
checkpoint meanwhile, that is, how much would a pulled plug cost? The first upload is not counted:
200 MB take 160 s over such a line, whatever is done; it is made before the line is narrowed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sessionkeeper.bench.client import Kernel
from sessionkeeper.bench.coverage import Coverage
from sessionkeeper.bench.errors import RunFailed
from sessionkeeper.bench.feed import Feed
from sessionkeeper.bench.figures import Figure, percentile
from sessionkeeper.bench.line import HOME, instead_of_link
from sessionkeeper.bench.stacks import System, sessionkeeper_system
from sessionkeeper.up.terminal import Terminal

__all__ = ["FIGURE", "Ages", "measure"]

FIGURE, MUST = "uplink_age_p95_s", 10.0
FLAGS = ("--tier", "volunteer")
MB = 10**6
HELD = 200
SECONDS = 60.0
EVERY = 1.0
"""Seconds from one cell to the next, as of somebody who reads what it shows."""

SAMPLE = 0.1
_HOLD = f"import os, time; held = os.urandom({HELD * MB}); small = {{}}; print(time.time())"
_CELL = "small[len(small)] = os.urandom(1000); print(len(small))"


@dataclass
class Ages:
    """How old the newest committed checkpoint is: seconds since the moment that it contains, while
    something has happened since. `found` has a sample each `SAMPLE` seconds.
    """

    found: list[float] = field(default_factory=list)
    coverage: Coverage = field(default_factory=Coverage)

    def feed(self, at: float, status: Mapping[str, Any]) -> None:
        """A status that was received at a moment, in seconds since the epoch."""
        self.coverage.feed(at, status)

    def sample(self, now: float, worked: float) -> None:
        """`worked`: when the last cell ended. Nothing is at stake if the checkpoint has that."""
        covered = self.coverage.covered
        self.found.append(0.0 if covered >= worked else now - covered)

    def p95(self) -> float:
        """Seconds."""
        return percentile(self.found, 95)


async def measure(terminal: Terminal, runs: int) -> tuple[list[Figure], str]:
    """The figure, a run being a minute of cells; and the runtime. Needs root (RunFailed else)."""
    figure = Figure(FIGURE, must=MUST)
    async with (
        sessionkeeper_system(terminal, *FLAGS) as system,
        Feed.of(system.gateway) as feed,
        Kernel.started(system.server) as kernel,
    ):
        with terminal.step(f"having a kernel with {HELD} MB, and a checkpoint of it"):
            answer = await kernel.run(_HOLD)
            await feed.committed(float(answer.text))
        with narrowed(system, feed.node):
            for number in range(1, runs + 1):
                with terminal.step(f"{FIGURE}, {number}/{runs}: cells for {SECONDS:.0f} s"):
                    ages = await _work(kernel, feed)
                terminal.say(f"  p95 {ages.p95():.1f} s, at most {max(ages.found):.1f} s")
                figure.runs.append(ages.p95())
    return [figure], system.runtime


async def _work(kernel: Kernel, feed: Feed) -> Ages:
    ages, worked = Ages(), time.time()
    # All that there is was committed a moment ago.
    ages.coverage.covered = worked
    stop = feed.listen(lambda status: ages.feed(time.time(), status))
    begin = time.monotonic()

    async def sample() -> None:
        while True:
            await asyncio.sleep(SAMPLE)
            ages.sample(time.time(), worked)

    sampling = asyncio.create_task(sample())
    try:
        while (spent := time.monotonic() - begin) < SECONDS:
            await kernel.run(_CELL)
            worked = time.time()
            await asyncio.sleep(max(0.0, EVERY - (time.monotonic() - begin - spent)))
    finally:
        sampling.cancel()
        stop()
    return ages


@contextmanager
def narrowed(system: System, node: str) -> Iterator[None]:
    """The node's line is a home's meanwhile. Raises RunFailed where that cannot be had."""
    init = system.state.running()["nodes"][node]["init"]
    if init is None:
        raise RunFailed("nodes have no network of their own here: it takes root")
    index = int(node.removeprefix("node-")) - 1
    name = system.state.id
    with instead_of_link(init, f"skve-{name}-{index}", f"skbr-{name}", HOME):
        yield
