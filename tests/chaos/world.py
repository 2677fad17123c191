"""Clients of one system that run numbered cells while things go wrong, and what came of it."""

from __future__ import annotations

import asyncio
import random
import re
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, field

from system.client import Cell as Asked
from system.client import KernelClient
from system.running import Status, System

from chaos.history import Cell, Commit, Heard, History, KernelHistory
from chaos.nemesis import Nemesis, plan
from checkpoint.keys import MasterKey
from checkpoint.manifest import Manifest
from checkpoint.repository import Repository
from checkpoint.stores.directory import LocalDirectory

KERNELS = 2
SECONDS = 2.0
"""How long clients go on asking; faults begin within this time."""

AT_ONCE = 3
"""Cells of a kernel that wait, at most, while nothing is answered."""

BEGIN = """
import time
done = []
def cell(number, parts, pause):
    done.append(number)
    with open({file!r}, "a") as file:
        print(number, file=file)
    for part in range(parts):
        print(number, len(done), part, flush=True)
        time.sleep(pause)
"""


@dataclass
class Client:
    """One kernel's client: it asks for cells, a few at a time."""

    name: str
    kernel: KernelClient
    chance: random.Random
    asked: list[tuple[Asked, int]] = field(default_factory=list)

    @property
    def file(self) -> str:
        return f"{self.name}.txt"

    async def begin(self) -> None:
        await self.kernel.ask(BEGIN.format(file=self.file))

    async def ask(self, seconds: float) -> None:
        """Ask for cells until the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    parts, pause = self.chance.choice([(1, 0.0), (2, 0.02), (5, 0.1)])
                    code = f"cell({len(self.asked)}, {parts}, {pause})"
                    self.asked.append((await self.kernel.send(code), parts))
                    if len(self.asked) >= AT_ONCE:
                        await self.asked[-AT_ONCE][0].end(seconds)

    async def history(self) -> KernelHistory:
        """What there is when all cells have ended."""
        for cell, _ in self.asked:
            await cell.end()
        memory = _own(await self.kernel.ask("print(*done)"))
        file = _own(await self.kernel.ask(f"print(open({self.file!r}).read())"))
        return KernelHistory(
            self.name,
            tuple(_seen(n, cell, parts) for n, (cell, parts) in enumerate(self.asked)),
            tuple(map(int, memory.split())),
            tuple(map(int, file.split())),
        )


HISTORY = re.compile(r"The history saving thread hit .*?database\.\n?", re.DOTALL)
"""What IPython says in the middle of any cell, when two kernels want its history at once."""


def _own(shown: str) -> str:
    return HISTORY.sub("", shown)


def _seen(number: int, cell: Asked, parts: int) -> Cell:
    status = (cell.reply or {}).get("status")
    outcome = "unknown" if status is None else "ok" if status == "ok" else "error"
    return Cell(number, parts, outcome, tuple(_own(cell.shown).splitlines()))


class World:
    """A system that lasts for many seeds."""

    def __init__(self, system: System) -> None:
        self.system = system
        self._nemesis = Nemesis(system)
        self._heard: list[Heard] = []

    async def run(self, seed: int) -> History:
        """Let happen what the seed says; the history of it."""
        chance = random.Random(seed)
        self._heard.clear()
        listening = asyncio.create_task(self._listen())
        try:
            async with AsyncExitStack() as stack:
                clients = []
                for number in range(KERNELS):
                    kernel = await stack.enter_async_context(self.system.kernel())
                    clients.append(Client(f"seed-{seed}-{number}", kernel, chance))
                await asyncio.gather(*(one.begin() for one in clients))
                asking = [asyncio.create_task(one.ask(SECONDS)) for one in clients]
                await self._nemesis.carry_out(plan(seed, SECONDS))
                await asyncio.gather(*asking)
                await self._nemesis.heal()
                found = await asyncio.gather(*(one.history() for one in clients))
            return History(tuple(found), tuple(self.commits()), tuple(self._heard))
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _listen(self) -> None:
        async with aclosing(self.system.statuses()) as statuses:
            async for status in statuses:
                self._hear(status)

    def _hear(self, status: Status) -> None:
        if status["state"] == "running":
            self._heard.append(Heard(status["epoch"], status["node"]))

    def commits(self) -> list[Commit]:
        """The chain as the store has it."""
        state = self.system.state
        master = MasterKey.from_file(state.master_key)
        repository = Repository.existing(LocalDirectory(state.path / "store"), "default", master)
        found = repository.load_all(repository.numbers())
        return [
            Commit(number, one.epoch, one.meta["gateway"]["id"])
            for number, one in found
            if isinstance(one, Manifest)  # else it was cleared away meanwhile
        ]
