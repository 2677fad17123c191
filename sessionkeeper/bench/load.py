"""A gateway under load: the real process, hundreds of links as kernels, and as many clients."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from gateway.hop import next_turn
from sessionkeeper.bench import stacks
from sessionkeeper.bench.client import Server
from sessionkeeper.bench.errors import RunFailed
from sessionkeeper.up.terminal import Terminal

__all__ = ["Count", "Reader", "Rig", "counted", "resident_mb", "rig"]

SECONDS = 60.0
_PING = 2.2
"""As our UI server does, to notice a gateway that is gone."""

_TICK = os.sysconf("SC_CLK_TCK")


class Count(NamedTuple):
    """What readers have had: messages that are missing, or came again, and milliseconds of each
    from being said until it was here.
    """

    lost: int
    twice: int
    delays: list[float]


class Reader:
    """A client as our UI server is one: says where it is and goes on there, over lost connections.

    `number` is that of the last message, `lost` and `twice` count what came after a gap and what
    came again, `delays` are milliseconds from being said until it was here.
    """

    def __init__(self, server: Server, kernel_id: str) -> None:
        self.kernel_id = kernel_id
        self.number = self.lost = self.twice = 0
        self.delays: list[float] = []
        self.heard = 0.0
        self.news = asyncio.Event()
        self._server = server
        self._journal, self._cursor = "", 0
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def until(self, number: int, seconds: float = SECONDS) -> None:
        """Wait for the message of that number. Raises RunFailed."""
        try:
            async with asyncio.timeout(seconds):
                while self.number < number:
                    self.news.clear()
                    await self.news.wait()
        except TimeoutError:
            raise RunFailed(f"message {number} did not come, the last was {self.number}") from None

    async def _run(self) -> None:
        while True:
            path = f"/api/kernels/{self.kernel_id}/channels?session_id={self.kernel_id}"
            path += f"&cursor={self._cursor}&journal={self._journal}"
            with suppress(OSError, ConnectionClosed, InvalidHandshake, TimeoutError):
                async with connect(
                    self._server.websocket_url(path),
                    additional_headers=self._server.headers,
                    max_size=None,
                    compression=None,
                    ping_interval=None,
                    proxy=None,
                ) as socket:
                    pings = asyncio.create_task(_ping(socket))
                    try:
                        await self._read(socket)
                    finally:
                        pings.cancel()
            await asyncio.sleep(0.02)

    async def _read(self, socket: ClientConnection) -> None:
        async for frame in socket:
            assert isinstance(frame, bytes)
            if frame[0] == 1:
                self._cursor = int.from_bytes(frame[1:9], "big")
                self._take(frame)
            else:
                said = json.loads(frame[1:])
                if said["event"] == "welcome":
                    self._journal, self._cursor = said["journal"], said["cursor"]

    def _take(self, frame: bytes) -> None:
        at = frame.rfind(b'"text": "')
        if at < 0:
            return
        number, said, _ = frame[at + 9 : at + 60].split(b" ", 2)
        self.heard = time.monotonic()
        self.delays.append(self.heard * 1e3 - int(said) / 1e6)
        found = int(number)
        if found <= self.number:
            self.twice += 1
        else:
            self.lost += found - self.number - 1
            self.number = found
        self.news.set()


async def _ping(socket: ClientConnection) -> None:
    loop = asyncio.get_running_loop()
    with suppress(ConnectionClosed):
        while True:
            await socket.ping()
            await asyncio.sleep(next_turn(loop.time(), _PING) - loop.time())


class Rig:
    """A gateway, `sessionkeeper gateway`, and a node of links. Made by `rig`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = stacks.free_port()
        self._tokens = {name: directory / name for name in ("clients", "agents")}
        for file in self._tokens.values():
            file.write_text(secrets.token_hex(16))
        self.server = Server(f"http://127.0.0.1:{self._port}", self._tokens["clients"].read_text())
        self._gateway: asyncio.subprocess.Process | None = None
        self._shims: asyncio.subprocess.Process | None = None
        self.readers: list[Reader] = []

    @property
    def pid(self) -> int:
        """The gateway's process."""
        assert self._gateway is not None
        return self._gateway.pid

    async def start_gateway(self) -> None:
        """Begin, or begin again where it ended."""
        words = ["-m", "sessionkeeper", "gateway", "--port", str(self._port)]
        words += ["--state", str(self._directory / "state")]
        words += ["--store", str(self._directory / "store")]
        words += ["--master-key", str(self._directory / "master.key")]
        words += ["--token-file", str(self._tokens["clients"])]
        words += ["--agent-token-file", str(self._tokens["agents"]), "--lease-seconds", "10s"]
        self._gateway = await stacks.spawn(words, {}, self._directory / "gateway.log")

    async def begin(self) -> None:
        """Both processes, ready."""
        log = self._directory / "gateway.log"
        await self.start_gateway()
        assert self._gateway is not None
        await stacks.until(self._gateway, log, lambda: stacks.answers(self.server))
        self._shims = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sessionkeeper.bench.shims"),
            *(self.server.url, str(self._tokens["agents"])),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        await stacks.until(self._shims, log, self._node_is_there)

    def _node_is_there(self) -> bool:
        return bool(self.server.call("GET", "/api/kernelspecs")["kernelspecs"])

    async def end(self) -> None:
        for reader in self.readers:
            await reader.close()
        for process in (self._shims, self._gateway):
            if process is not None:
                await stacks.stop(process)

    async def grow(self, kernels: int) -> None:
        """Have so many kernels, with a client each."""
        while len(self.readers) < kernels:
            model = await self.server.ask("POST", "/api/kernels", {"name": "python3"})
            self.readers.append(Reader(self.server, model["id"]))
        await self.say(0)

    async def shrink(self, kernels: int) -> None:
        """As `grow`, the other way."""
        while len(self.readers) > kernels:
            reader = self.readers.pop()
            await reader.close()
            await self.server.ask("DELETE", f"/api/kernels/{reader.kernel_id}")

    async def say(self, rate: float, size: int = 200) -> dict[str, int]:
        """Let all kernels together say so many messages per second from now on; what each has said
        until now."""
        assert self._shims is not None
        assert self._shims.stdin is not None
        assert self._shims.stdout is not None
        self._shims.stdin.write(json.dumps({"rate": rate, "size": size}).encode() + b"\n")
        said: dict[str, int] = json.loads(await self._shims.stdout.readline())
        return said

    async def all_here(self, said: dict[str, int]) -> None:
        """Wait until every client has what its kernel said. Raises RunFailed."""
        for reader in self.readers:
            await reader.until(said[reader.kernel_id])

    async def kill_gateway(self) -> None:
        assert self._gateway is not None
        self._gateway.send_signal(signal.SIGKILL)
        await self._gateway.wait()

    def cpu_seconds(self) -> float:
        """What the gateway has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK


@asynccontextmanager
async def rig(terminal: Terminal) -> AsyncIterator[Rig]:
    """A gateway with a node and no kernel yet. Raises StackFailed."""
    with tempfile.TemporaryDirectory(prefix="sessionkeeper-bench-") as name:
        one = Rig(Path(name))
        try:
            with terminal.step("starting a gateway, and a node of links"):
                await one.begin()
            yield one
        finally:
            await one.end()


def resident_mb(pid: int) -> float:
    """Resident memory of a process, 10**6 bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def counted(readers: list[Reader]) -> Count:
    """What all of them have had since the last time."""
    found = Count(
        sum(r.lost for r in readers),
        sum(r.twice for r in readers),
        [delay for r in readers for delay in r.delays],
    )
    for reader in readers:
        reader.lost = reader.twice = 0
        reader.delays.clear()
    return found
