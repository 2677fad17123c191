"""The table of what happens when (docs/architecture.md, *Other losses* and *A kill*), row by row: a
cell that counts and requests that wait behind it, each exactly once and in order at the client."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable

import pytest
from system.counters import Counter
from system.folder import Folder
from system.running import System

pytestmark = pytest.mark.container
Event = Callable[[System], Awaitable[None]]


async def notice(system: System) -> None:
    await system.drain((await system.running())["node"])


async def node_vanishes(system: System) -> None:
    before = await system.running()
    await system.kill(before["node"])
    await system.recovered(before["epoch"])


async def agent_crashes(system: System) -> None:
    system.kill_agent((await system.running())["node"])


async def gateway_restarts(system: System) -> None:
    system.kill_part("gateway")
    await system.running()


async def network_partition(system: System) -> None:
    """The link is up again when the other node has the session: what is left here is not heard."""
    before = await system.running()
    index = int(before["node"].removeprefix("node-")) - 1
    link = f"skve-{system.state.id}-{index}"
    subprocess.run(["ip", "link", "set", link, "down"], check=True)
    await system.recovered(before["epoch"])
    subprocess.run(["ip", "link", "set", link, "up"], check=True)


async def agent_and_gateway_crash(system: System) -> None:
    system.kill_agent((await system.running())["node"])
    system.kill_part("gateway")
    await system.running()


EVENTS: list[Event] = [
    notice,
    node_vanishes,
    agent_crashes,
    gateway_restarts,
    network_partition,
    agent_and_gateway_crash,
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
async def test_numbered_output_and_requests_come_once_and_in_order(
    system: System, folder: Folder, event: Event
) -> None:
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, "ran = []")
        counter = await Counter.start(kernel, folder)
        behind = [await kernel.send(f"ran.append({n}); print(*ran)") for n in range(3)]
        await event(system)
        late = await kernel.send("print('late', ran)")
        await counter.goes_on()
        await counter.check()
        for n, cell in enumerate(behind):
            assert (await cell.end()).text.split() == [str(i) for i in range(n + 1)]
            assert cell.types.count("execute_reply") == 1
        assert (await late.end()).text == "late [0, 1, 2]\n"
        assert kernel.connected
