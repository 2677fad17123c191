"""A proxy for one hop that breaks its connections, as a plan made of a seed says.

What happens to bytes on a hop, whatever the hop carries:

| fault | what it is |
|---|---|
| `cut` | both ends are closed at once, with a reset, at a byte in the middle of whatever goes on |
| `half_open` | one end is closed; the other is not told, and what it sends goes nowhere |
| `blackhole` | both stay open, and nothing comes through any more, either way |
| `delay` | what is sent comes later, for a while |
| `trickle` | what is sent comes in pieces of a few bytes, for a while: frames in parts |

A connection made after another one may come to its server before it (`reorder`): its beginning is
held back for a moment.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

FAULTS = ("cut", "half_open", "blackhole", "delay", "trickle", "reorder")
Address = tuple[str, int] | Path


@dataclass(frozen=True)
class Fault:
    """At `at` seconds, `kind` happens to connection number `which` (modulo how many there are), for
    `seconds`.
    """

    at: float
    kind: str
    which: int
    seconds: float


def plan(seed: int, hop: str, seconds: float, most: int) -> list[Fault]:
    """At most so many faults in the first `seconds`, in order of time."""
    dice = random.Random(f"{seed} {hop}")
    faults = [
        Fault(
            at=dice.uniform(0, seconds),
            kind=dice.choice(FAULTS),
            which=dice.randrange(64),
            seconds=dice.uniform(0.02, 0.15),
        )
        for _ in range(dice.randint(0, most))
    ]
    return sorted(faults, key=lambda fault: fault.at)


class Pair:
    """One connection through the proxy: two sockets and what is done to them."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.writers = (near, far)
        self.swallows = False
        self.slow_until = 0.0
        self.small = False

    def reset(self, which: tuple[int, ...] = (0, 1)) -> None:
        for number in which:
            writer = self.writers[number]
            raw = writer.get_extra_info("socket")
            if raw is not None and raw.family != socket.AF_UNIX:
                with suppress(OSError):
                    # Closed with a reset, and without what is on its way.
                    linger = b"\1\0\0\0\0\0\0\0"
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    @property
    def closed(self) -> bool:
        return all(writer.transport.is_closing() for writer in self.writers)


class FaultProxy:
    """Listens at `port` (or the unix socket `path`) and passes on to `target`, which may change."""

    def __init__(self, target: Callable[[], Address]) -> None:
        self.target = target
        self.pairs: list[Pair] = []
        self.happened: list[str] = []
        self.port = 0
        self._late = 0.0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, path: Path | None = None) -> FaultProxy:
        if path is not None:
            self._server = await asyncio.start_unix_server(self._accept, path)
        else:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for pair in self.pairs:
            pair.reset()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- faults ------------------------------------------------------------------------------------

    async def play(self, faults: list[Fault]) -> None:
        """Let them happen, each at its time."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for fault in faults:
            await asyncio.sleep(max(0.0, begin + fault.at - loop.time()))
            self.do(fault)

    def do(self, fault: Fault) -> None:
        """Let it happen now. Nothing, when there is no connection."""
        alive = [pair for pair in self.pairs if not pair.closed]
        if not alive:
            return
        pair = alive[fault.which % len(alive)]
        self.happened.append(fault.kind)
        until = asyncio.get_running_loop().time() + fault.seconds
        if fault.kind == "cut":
            pair.reset()
        elif fault.kind == "half_open":
            pair.swallows = True
            pair.reset((fault.which % 2,))
        elif fault.kind == "blackhole":
            pair.swallows = True
        elif fault.kind == "reorder":
            self._late = fault.seconds
            pair.reset()
        else:
            pair.slow_until, pair.small = until, fault.kind == "trickle"

    def heal(self) -> None:
        """End what no peer can find out before its time: connections that swallow are cut."""
        self._late = 0.0
        for pair in self.pairs:
            pair.slow_until = 0.0
            if pair.swallows:
                pair.reset()

    # -- passing on -------------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        late, self._late = self._late, 0.0
        if late:
            await asyncio.sleep(late)
        target = self.target()
        try:
            if isinstance(target, Path):
                far_reader, far = await asyncio.open_unix_connection(target)
            else:
                far_reader, far = await asyncio.open_connection(*target)
        except OSError:
            writer.transport.abort()
            return
        for side in (writer, far):
            raw = side.get_extra_info("socket")
            if raw.family != socket.AF_UNIX:
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = Pair(writer, far)
        self.pairs = [*(one for one in self.pairs if not one.closed), pair]
        self._spawn(self._pass(pair, reader, far))
        self._spawn(self._pass(pair, far_reader, writer))

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass(
        self, pair: Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await reader.read(1 << 16):
                while data and not pair.swallows:
                    part = data
                    if loop.time() < pair.slow_until:
                        part = data[:7] if pair.small else data
                        await asyncio.sleep(0.0005 if pair.small else pair.slow_until - loop.time())
                    if pair.swallows:
                        break
                    writer.write(part)
                    await writer.drain()
                    data = data[len(part) :]
        except (OSError, asyncio.IncompleteReadError):
            pass
        if not pair.swallows:
            for one in pair.writers:
                one.close()
