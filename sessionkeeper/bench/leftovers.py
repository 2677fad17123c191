"""`leftovers`: what is left of compute after sessions that were killed while they started.

Each session's gateway is killed at a random point of that: before it asked for compute, in the
middle of asking, before it heard of it, while the agent was on its way. Nobody wants the session
afterwards. The next gateway, which knows nothing of all that, must find everything and end it.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

from sessionkeeper.bench.errors import RunFailed
from sessionkeeper.compute.backend import Compute, ComputeBackend, ComputeFailed
from sessionkeeper.compute.local import LocalBackend
from sessionkeeper.compute.plan import Rules, Wish
from sessionkeeper.compute.provisioner import Provisioner
from sessionkeeper.keeper.nodes import Nodes
from sessionkeeper.leases import Leases
from sessionkeeper.registration import Registration

__all__ = ["leftovers", "local_leftovers"]

SESSIONS = 50
PAUSE = 0.1
LONGEST_LIFE = 0.2
"""Seconds. A start takes less, where nothing is in the way."""

PATIENCE = 120.0
STANDS = "import signal; signal.pause()"


async def leftovers(
    make: Callable[[], ComputeBackend], *, sessions: int = SESSIONS, seed: int = 0
) -> int:
    """Return how many objects are left, at the end of a sweep, of so many sessions that were killed
    at a random point of their start. ``make`` makes what a gateway starts compute with; each life
    of a gateway has one of its own.

    Raises :class:`RunFailed` when nothing was ever begun: then nothing was tried.
    """
    chance = random.Random(seed)  # noqa: S311 - it is to be the same again
    looks, begun = make(), 0
    for number in range(sessions):
        wanted = Registration(f"s{number}", tiers=tuple(looks.tiers))
        await _life(make(), [Wish(wanted, needs=True)], chance.uniform(0, LONGEST_LIFE))
        if number % 10 == 9:
            begun = max(begun, await _there(looks))
    await looks.close()
    if not begun:
        raise RunFailed("no session was begun, so none could leave anything")
    return await _swept(make)


async def _life(backend: ComputeBackend, wishes: list[Wish], seconds: float) -> None:
    """A gateway's, which ends in the middle of whatever it does: nothing of it is awaited."""
    task = asyncio.create_task(_provisioner(backend, wishes).run())
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _swept(make: Callable[[], ComputeBackend]) -> int:
    """What is left when a gateway whose sessions want nothing has had its time."""
    task = asyncio.create_task(_provisioner(make(), []).run())
    looks = make()
    try:
        async with asyncio.timeout(PATIENCE):
            while await _there(looks):  # noqa: ASYNC110 - others do it, whoever they are
                await asyncio.sleep(PAUSE)
    except TimeoutError:
        pass
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        left = await _there(looks)
        await looks.close()
    return left


async def _there(backend: ComputeBackend) -> int:
    """How much there is; asked again while nobody can say."""
    while True:
        try:
            async with aclosing(backend.watch()) as said:
                return len(await anext(said))
        except ComputeFailed:
            await asyncio.sleep(PAUSE)


def _provisioner(backend: ComputeBackend, wishes: list[Wish]) -> Provisioner:
    rules = Rules(dict.fromkeys(backend.tiers, 60.0), grace=0.2, last_resort=5.0)
    nodes = Nodes(Leases(2.0), lambda node: None)
    return Provisioner(backend, nodes, lambda: wishes, lambda *_: None, "secret", "bench", rules)


async def local_leftovers(*, sessions: int = SESSIONS, seed: int = 0) -> int:
    """Return the same for processes of this machine, which stand for agents: those that are left,
    and directories.
    """
    with tempfile.TemporaryDirectory() as place:
        state = Path(place)

        def argv(wanted: Compute, data: Path) -> list[str]:
            return [sys.executable, "-I", "-S", "-c", STANDS]

        def make() -> ComputeBackend:
            return LocalBackend(state, argv, grace=1.0)

        try:
            left = await leftovers(make, sessions=sessions, seed=seed)
        except ComputeFailed as error:
            raise RunFailed(f"compute could not be started: {error}") from error
        return left + len(await asyncio.to_thread(os.listdir, state))
