"""`bench recovery`: how long a cell stands still when its node is drained, and how long the next
cell takes when its node is gone without a word."""

from __future__ import annotations

import asyncio
import http.client
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy
from websockets.exceptions import ConnectionClosed

from sessionkeeper.bench.client import Kernel
from sessionkeeper.bench.counter import CELL, parse
from sessionkeeper.bench.errors import RunFailed
from sessionkeeper.bench.feed import Feed
from sessionkeeper.bench.figures import REQUIRED, Figure
from sessionkeeper.bench.stacks import PEERS, System, sessionkeeper_system
from sessionkeeper.errors import SessionkeeperError
from sessionkeeper.up.terminal import Terminal

__all__ = ["TROUBLE", "measure"]

MB = 2**20
DEADLINE = 30.0
BEFORE, AFTER = 0.7, 0.5
"""Seconds that the cell counts before the notice, and after the move."""

END_SECONDS = 60.0
GIVE_UP = 3
TROUBLE = (SessionkeeperError, ConnectionClosed, OSError, http.client.HTTPException, ValueError)
"""What a run may fail with, while the others go on."""


async def measure(terminal: Terminal, sizes: Sequence[int], runs: int) -> tuple[list[Figure], str]:
    """The figures for kernels that hold so many MB (2**20 bytes), and the runtime that was used.
    With the process runtime there is no drain in mid-cell: it moves between cells only."""
    figures: list[Figure] = []
    async with sessionkeeper_system(terminal) as system, Feed.of(system.gateway) as feed:
        container = system.runtime == "container"
        if not container:
            terminal.say("Process runtime: a running cell does not move, drains are not measured.")
        for size in sizes:
            blackout = _figure(f"drain_blackout_{size}mb_s", required=True)
            stalled = _figure(f"drain_stalled_{size}mb_s", required=False)
            killed = _figure(f"kill_recovery_{size}mb_s", required=container)
            of_size = [blackout, stalled, killed] if container else [killed]
            figures += of_size
            try:
                async with Kernel.started(system.server) as kernel:
                    bench = _Recovery(terminal, system, feed, kernel, size)
                    with terminal.step(f"having a kernel with {size} MB, and a checkpoint of it"):
                        await bench.fill()
                    if container:
                        await bench.repeat([blackout, stalled], runs, bench.drain)
                    await bench.repeat([killed], runs, bench.kill)
            except TROUBLE as error:
                for figure in of_size:
                    figure.runs += [None] * (runs - len(figure.runs))
                    figure.failures.append(str(error))
    return figures, system.runtime


def _figure(name: str, *, required: bool) -> Figure:
    # The stock servers lose the kernel, and what it held, with its machine.
    peers: dict[str, float | None] = dict.fromkeys(PEERS)
    return Figure(name, peers=peers, must=REQUIRED.get(name) if required else None)


@dataclass
class _Recovery:
    """Runs on one kernel, which goes from node to node."""

    terminal: Terminal
    system: System
    feed: Feed
    kernel: Kernel
    size: int

    async def fill(self) -> None:
        """Have the kernel hold random, so incompressible, bytes; until they are committed."""
        self._checksum = zlib.crc32(_held(self.size))
        await self._committed(
            f"import numpy, zlib; x = numpy.random.default_rng({self.size}).bytes({self.size * MB})"
        )

    async def repeat(
        self, figures: Sequence[Figure], runs: int, one: Callable[[], Awaitable[Sequence[float]]]
    ) -> None:
        """Add the runs to the figures. After some that failed in a row the rest is not tried."""
        in_a_row = 0
        for number in range(1, runs + 1):
            measured: Sequence[float | None] = [None] * len(figures)
            if in_a_row < GIVE_UP:
                try:
                    with self.terminal.step(f"{figures[0].name}, {number}/{runs}"):
                        measured = await one()
                    in_a_row = 0
                    self.terminal.say("  " + ", ".join(f"{value:.3f} s" for value in measured))
                except TROUBLE as error:
                    in_a_row += 1
                    self.terminal.say(f"  failed: {error}")
                    for figure in figures:
                        figure.failures.append(f"run {number}: {error}")
            for figure, value in zip(figures, measured, strict=True):
                figure.runs.append(value)

    async def drain(self) -> tuple[float, float]:
        """Notice in the middle of a cell: seconds of the longest time in which the cell does not
        advance, and of all such times together."""
        await self._committed("pass")
        node = self.feed.node
        request = await self.kernel.execute(CELL)
        printed: list[str] = []
        reading = asyncio.create_task(self._read(request, printed))
        try:
            await self._counted(printed, time.time() + BEFORE, reading)
            answer = await self.system.drain(node, DEADLINE)
            if answer["left"]:
                raise RunFailed(f"it was not moved within {DEADLINE:.0f} s")
            await self.feed.moved(node)
            await self._counted(printed, time.time() + AFTER, reading)
        finally:
            await self._end(reading)
            await self.system.uncordon(node)
        count = parse("".join(printed))
        if trouble := count.trouble():
            raise RunFailed(trouble)
        return count.blackout(), count.stalled()

    async def kill(self) -> tuple[float]:
        """No notice, between cells: seconds from the plug to the reply of the next cell."""
        await self._committed("pass")
        node = self.feed.node
        began = time.perf_counter()
        await self.system.kill(node)
        try:
            answer = await self.kernel.answer(await self.kernel.execute("len(x)"))
            await self.feed.moved(node)
            found = (answer.text, (await self.kernel.run("print(zlib.crc32(x))")).text)
        finally:
            await self.system.start(node)
        wanted = (str(self.size * MB), f"{self._checksum}\n")
        if found != wanted:
            raise RunFailed(f"the kernel does not hold what it held: {found} is not {wanted}")
        return (answer.replied - began,)

    async def _committed(self, code: str) -> None:
        """Run a cell, and wait until what it did is in a committed checkpoint."""
        answer = await self.kernel.run(f"{code}\nimport time; print(time.time())")
        await self.feed.committed(float(answer.text.split()[-1]))

    async def _read(self, request: str, printed: list[str]) -> None:
        async for message in self.kernel.messages(request):
            if message.type == "stream":
                printed.append(message.content["text"])
            elif message.channel == "shell":
                return

    async def _end(self, reading: asyncio.Task[None]) -> None:
        """Interrupt the cell, and have all that it printed."""
        try:
            await self.kernel.interrupt()
            async with asyncio.timeout(END_SECONDS):
                await reading
        except TimeoutError:
            raise RunFailed("the cell did not end when it was interrupted") from None
        finally:
            reading.cancel()

    async def _counted(self, printed: list[str], until: float, reading: asyncio.Task[None]) -> None:
        """Wait until the cell says that it was alive at a moment, in seconds since the epoch."""
        while not reading.done():
            stamps = parse("".join(printed[-3:]).partition("\n")[2]).stamps
            if stamps and stamps[-1] >= until:
                return
            await asyncio.sleep(0.02)
        await reading
        raise RunFailed(f"the cell ended early: {''.join(printed)[-300:]}")


def _held(size: int) -> bytes:
    return numpy.random.default_rng(size).bytes(size * MB)
