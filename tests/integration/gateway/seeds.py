"""Kernels that count, behind a proxy on every hop that breaks connections as a seed says.

    client ──proxy── gateway ──proxy── agent ──proxy── shim ── counting kernel

The relay between agent and shim is the agent's own; client and gateway are those of the rig.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from faults import counting_kernel
from faults.proxy import FaultProxy, plan
from gateway_rig import SPECS, TOKEN, Client, Rig, Shim, unpack_v1
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from gateway.dial import AgentLink
from gateway.errors import GatewayError
from sessionkeeper.agent.relay import ShimRelay

SPECS["counting"] = {
    "argv": [sys.executable, counting_kernel.__file__, "{connection_file}"],
    "display_name": "Counting",
    "language": "none",
}
KERNELS = 5
SECONDS = 0.5
MOST_FAULTS = 4
EPOCH = 1


def dial(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


class SteadyClient(Client):
    """A client of the resumable protocol that connects again, and sends again what it has no word
    of, as our UI server does. It goes through a proxy."""

    def __init__(self, rig: Rig, kernel_id: str, port: int) -> None:
        super().__init__(rig, kernel_id)
        self._port = port
        self._asked = asyncio.Event()
        self._staying: asyncio.Task[None] | None = None

    async def stay(self) -> None:
        """Connect, and stay connected until `leave`."""
        self._staying = asyncio.create_task(self._stay())
        await self.until(lambda: self.notices)

    async def ask(self, code: str) -> str:
        self.socket = None  # whoever carries it sends it, in its turn
        with contextlib.suppress(AssertionError):
            await super().ask(code)
        self._asked.set()
        head = unpack_v1(self.unacked[self.requests][9:])["header"]
        return str(head["msg_id"])

    async def _stay(self) -> None:
        while True:
            with contextlib.suppress(OSError, ConnectionClosed, InvalidHandshake, TimeoutError):
                await self._carry()
            await asyncio.sleep(0.01)

    async def _carry(self) -> None:
        query = f"session_id={self.session}"
        if self.cursor is not None:
            query += f"&cursor={self.cursor}&journal={self.journal}"
        socket = await connect(
            f"ws://127.0.0.1:{self._port}/api/kernels/{self.kernel_id}/channels?{query}",
            additional_headers={"Authorization": f"token {TOKEN}"},
            subprotocols=["v1.sessionkeeper"],  # type: ignore[list-item]
            max_size=None,
            compression=None,
            ping_interval=None,
            open_timeout=2,
        )
        tasks = [asyncio.create_task(self._read(socket)), asyncio.create_task(self._send(socket))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            socket.transport.abort()  # type: ignore[attr-defined]

    async def _send(self, socket: ClientConnection) -> None:
        sent = 0
        while True:
            self._asked.clear()
            for number in sorted(n for n in self.unacked if n > sent):
                if number in self.unacked:
                    await socket.send(self.unacked[number])
                sent = number
            await self._asked.wait()

    async def leave(self) -> None:
        if self._staying is not None:
            self._staying.cancel()
            await asyncio.gather(self._staying, return_exceptions=True)


class World:
    """One gateway, one agent, some kernels; a proxy on each hop."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder)
        self.kernels: list[str] = []
        self.relays: dict[str, ShimRelay] = {}
        self.front = FaultProxy(lambda: ("127.0.0.1", self.rig.port))
        self.middle = FaultProxy(lambda: ("127.0.0.1", self.rig.port))
        self.back: dict[str, FaultProxy] = {}
        self._dialling: asyncio.Task[None] | None = None

    async def start(self) -> World:
        await self.front.start()
        await self.middle.start()
        self._dialling = asyncio.create_task(self._dial())
        await self.rig.keeper.until(lambda: self.rig.keeper.connection)
        await asyncio.gather(*(self._start_kernel() for _ in range(KERNELS)))
        return self

    async def _start_kernel(self) -> None:
        record = self.rig.kernels.create("counting")
        await self.rig.keeper.start(record, next_seq=1, applied=0)
        shim: Shim = self.rig.agent.shims[record.id]
        assert shim.client is not None
        shim.client.close()
        shim.client = None
        path = shim.folder / "proxy.sock"
        proxy = FaultProxy(lambda: shim.folder / "shim.sock")
        self.back[record.id] = await proxy.start(path)
        relay = ShimRelay(
            partial(dial, path),
            lambda: shim.process.returncode is None,
            "shim-token",
            partial(self.rig.agent._from_shim, record.id),
        )
        self.relays[record.id] = relay
        await relay.open(20)
        self.kernels.append(record.id)

    async def _dial(self) -> None:
        """As the agent's own loop does."""
        agent = self.rig.agent
        while True:
            with contextlib.suppress(OSError, GatewayError):
                agent.link = await AgentLink.connect(
                    f"http://127.0.0.1:{self.middle.port}",
                    TOKEN,
                    {"node": "n1", "runtime": "process", "sessions": {}},
                    on_call=agent._call,
                    on_frame=self._to_shim,
                    on_pressure=lambda kernel_id, held: self.relays[kernel_id].hold_back(held),
                    wait=2.0,
                )
                await agent.link.wait_closed()
            await asyncio.sleep(0.01)

    def _to_shim(self, kernel_id: str, frame: bytes) -> None:
        relay = self.relays.get(kernel_id)
        if relay is not None:
            relay.send(frame)
        else:
            self.rig.agent._to_shim(kernel_id, frame)

    async def close(self) -> None:
        for relay in self.relays.values():
            await relay.close()
        if self._dialling is not None:
            self._dialling.cancel()
        for proxy in (self.front, self.middle, *self.back.values()):
            await proxy.close()
        await self.rig.close()

    async def run(self, seed: int) -> list[str]:
        """Ask, break, mend, and compare. What happened. AssertionError if anything got lost, came
        twice, or in another order.
        """
        dice = random.Random(seed)
        clients = [SteadyClient(self.rig, one, self.front.port) for one in self.kernels]
        await asyncio.gather(*(client.stay() for client in clients))
        hops = {"front": self.front, "middle": self.middle}
        hops |= {f"back {n}": self.back[one] for n, one in enumerate(self.kernels)}
        for proxy in hops.values():
            proxy.happened.clear()
        faults = [
            asyncio.create_task(proxy.play(plan(seed, name, SECONDS, MOST_FAULTS)))
            for name, proxy in hops.items()
        ]
        if dice.random() < 0.3:
            faults.append(asyncio.create_task(self._restart_gateway(dice.uniform(0, SECONDS))))
        wishes = [self._wishes(dice) for _ in clients]
        asked = await asyncio.gather(*map(self._ask, clients, wishes))
        await asyncio.gather(*faults)
        happened = [f"{name}: {' '.join(p.happened)}" for name, p in hops.items() if p.happened]
        for proxy in hops.values():
            proxy.heal()
        try:
            await asyncio.gather(*map(self._ended, clients, asked))
            for client, said, wished in zip(clients, asked, wishes, strict=True):
                check(client, said, wished)
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f"seed {seed} ({'; '.join(happened)}): {error!r}") from error
        finally:
            await asyncio.gather(*(client.leave() for client in clients))
        return happened

    async def _restart_gateway(self, after: float) -> None:
        await asyncio.sleep(after)
        await self.rig.restart_gateway()

    @staticmethod
    def _wishes(dice: random.Random) -> list[tuple[float, dict[str, Any]]]:
        """Pauses, and what to ask after them."""
        return [
            (
                dice.uniform(0, 0.15),
                {
                    "name": number,
                    "say": dice.randint(1, 40),
                    "every": dice.choice((0, 0.001, 0.004)),
                    "size": dice.choice((1, 100, 30_000)),
                },
            )
            for number in range(3)
        ]

    @staticmethod
    async def _ask(client: Client, wishes: list[tuple[float, dict[str, Any]]]) -> list[str]:
        asked = []
        for pause, command in wishes:
            await asyncio.sleep(pause)
            asked.append(await client.ask(json.dumps(command)))
        return asked

    @staticmethod
    async def _ended(client: Client, asked: list[str]) -> None:
        await client.until(lambda: all(client.is_done(one) for one in asked), 15)


def check(client: Client, asked: list[str], wishes: list[tuple[float, dict[str, Any]]]) -> None:
    """Every output once and in order, every request applied once and in order, every end once."""
    cursors = [cursor for cursor, _ in client.got]
    assert cursors == sorted(set(cursors)), "a cursor came twice or out of order"
    counts = []
    for msg_id, (_, command) in zip(asked, wishes, strict=True):
        numbers = [int(line) for line in client.text(msg_id).split("\n")[:-1]]
        assert numbers == list(range(command["say"])), f"{command}: {numbers}"
        kinds = client.kinds(msg_id)
        assert kinds.count("execute_reply") == 1, kinds
        states = [m["content"].get("execution_state") for m in client.of(msg_id)]
        assert states.count("busy") == 1, states
        assert states.count("idle") == 1, states
        reply = client.reply(msg_id)
        assert reply["user_expressions"]["name"] == command["name"]
        counts.append(reply["execution_count"])
    assert counts == list(range(counts[0], counts[0] + len(counts))), f"applied as {counts}"


@contextlib.asynccontextmanager
async def world() -> Any:
    with tempfile.TemporaryDirectory(prefix="gw") as folder:
        one = World(Path(folder))
        try:
            yield await one.start()
        finally:
            await one.close()
