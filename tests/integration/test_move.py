"""A node gets notice and is drained: what runs on it goes on elsewhere, as if nothing had been."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from system.counters import Counter
from system.folder import Folder
from system.running import PATIENCE, System

pytestmark = pytest.mark.container


def other(node: str) -> str:
    return {"node-1": "node-2", "node-2": "node-1"}[node]


async def test_running_cell_goes_on_on_the_other_node(system: System, folder: Folder):
    async with system.kernel(path=folder.name) as kernel:
        counter = await Counter.start(kernel, folder)
        source = (await system.running())["node"]
        said = await system.drain(source)
        assert "moved default" in said
        assert (await system.running())["node"] == other(source)
        await counter.goes_on()
        await counter.check()
        assert kernel.connected
        assert [k["id"] for k in await system.call("GET", "/api/kernels")] == [kernel.id]


async def test_status_says_where_from_and_where_to(system: System, folder: Folder):
    async with system.kernel(path=folder.name) as kernel:
        await kernel.ask("1")
        source = (await system.running())["node"]
        moving = asyncio.create_task(
            system.until(lambda s: s["state"] == "moving" and "moving" in s["message"])
        )
        await system.drain(source)
        assert (await moving)["message"] == f"moving from {source} to {other(source)}"
        after = await system.running()
        assert after["message"].startswith(f"moved from {source} to {other(source)} in ")


async def test_one_cell_survives_five_moves_back_and_forth(system: System, folder: Folder):
    async with system.kernel(path=folder.name) as kernel:
        counter = await Counter.start(kernel, folder)
        for _ in range(5):
            source = (await system.running())["node"]
            await system.drain(source)
            assert (await system.running())["node"] == other(source)
            await counter.goes_on()
            assert "takes sessions again" in await system.start_node(source)
        await counter.check()
        assert kernel.connected


async def test_two_kernels_move_together(system: System, folder: Folder):
    second = await Folder(system, f"{folder.name}-second").create()
    async with system.kernel(path=folder.name) as one, system.kernel(path=second.name) as two:
        counters = [await Counter.start(one, folder), await Counter.start(two, second)]
        await system.drain((await system.running())["node"])
        for counter in counters:
            await counter.goes_on()
            await counter.check()


async def test_cell_sent_while_the_session_moves_is_run_once(system: System, folder: Folder):
    async with system.kernel(path=folder.name) as kernel:
        await kernel.ask("n = 0")
        moving = asyncio.create_task(system.until(lambda s: s["state"] == "moving"))
        draining = asyncio.create_task(system.drain((await system.running())["node"]))
        await moving
        assert await kernel.ask("n += 1\nn") == "1"
        await draining
        assert await kernel.ask("n") == "1"


async def test_kernels_that_are_just_starting_move_and_answer(system: System, folder: Folder):
    async with AsyncExitStack() as kernels:
        started = []
        for _ in range(2):
            # Dumped before they have read what they start with, or half connected to their shim.
            for _ in range(2):
                started.append(await kernels.enter_async_context(system.kernel(path=folder.name)))
            source = (await system.running())["node"]
            await system.drain(source)
            await system.start_node(source)
        for kernel in started:
            assert await kernel.ask("6 * 7") == "42"


CONNECTIONS = """
import socket
server = socket.create_server(("127.0.0.1", 0))
served = socket.create_connection(server.getsockname())
accepted, _ = server.accept()
waiting = socket.create_connection(server.getsockname())
"""
NEW_CONNECTION = """
new = socket.create_connection(server.getsockname())
other, _ = server.accept()
other.sendall(b"hello")
new.recv(5)
"""


async def test_connections_are_closed_and_what_listens_goes_on_listening(
    system: System, folder: Folder
):
    async with system.kernel(path=folder.name) as kernel:
        await kernel.ask(CONNECTIONS)
        await system.drain((await system.running())["node"])
        assert "moved from" in (await system.running())["message"]
        for closed in ("served", "waiting"):
            ended = f"try:\n    print({closed}.recv(1))\nexcept OSError:\n    print(b'')"
            assert await kernel.ask(ended) == "b''"
        assert await kernel.ask(NEW_CONNECTION) == "b'hello'"


async def test_session_stays_and_says_why_when_there_is_nowhere_to_go(
    system: System, folder: Folder
):
    async with system.kernel(path=folder.name) as kernel:
        counter = await Counter.start(kernel, folder)
        here = (await system.running())["node"]
        await system.kill(other(here))
        await system.lost(other(here))
        code, said, _ = await system.attempt("node", "drain", here, "--deadline", "1s")
        assert code != 0
        assert "the deadline has passed and default " in said
        warned = await system.until(lambda s: bool(s["warnings"]))
        assert any(f"{here} is leaving and no other node fits" in w for w in warned["warnings"])
        await counter.goes_on()
        # A node that joins is taken at once.
        await system.start_node(other(here))
        await system.until(lambda s: s["state"] == "running" and s["node"] == other(here))
        await counter.goes_on()
        await counter.check()


async def test_client_that_connects_after_the_move_sees_the_cell_too(
    system: System, folder: Folder
):
    async with system.kernel(path=folder.name) as kernel:
        counter = await Counter.start(kernel, folder)
        await system.drain((await system.running())["node"])
        late = await system.client(kernel.id).open(busy=True)
        try:
            seen = late.follow(counter.cell)
            await seen.until(lambda cell: len(cell.numbers) > 5)
            await counter.check()
            await seen.until(lambda cell: cell.numbers[-1:] == counter.cell.numbers[-1:])
            assert seen.numbers == counter.cell.numbers[-len(seen.numbers) :]
        finally:
            await late.close()


async def test_interrupt_during_a_move_reaches_the_running_cell(system: System, folder: Folder):
    async with system.kernel(path=folder.name) as kernel:
        await kernel.ask("import time")
        cell = await kernel.send("print('runs')\nwhile True: time.sleep(0.05)")
        await cell.until(lambda cell: cell.text == "runs\n")
        source = (await system.running())["node"]
        moving = asyncio.create_task(system.until(lambda s: s["state"] == "moving"))
        draining = asyncio.create_task(system.drain(source))
        await moving
        await system.call("POST", f"/api/kernels/{kernel.id}/interrupt")
        await cell.end(PATIENCE)
        assert "KeyboardInterrupt" in cell.shown
        await draining


async def test_interrupt_while_a_node_is_lost_ends_the_cell_for_good(
    system: System, folder: Folder
):
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, "import time")
        cell = await kernel.send("print('runs')\nwhile True: time.sleep(0.05)")
        await cell.until(lambda cell: cell.text == "runs\n")
        before = (await system.running())["epoch"]
        recovering = asyncio.create_task(system.until(lambda s: s["state"] == "recovering"))
        await system.lose()
        await recovering
        await system.call("POST", f"/api/kernels/{kernel.id}/interrupt")
        await cell.end(PATIENCE)
        assert "nterrupt" in cell.shown
        await system.recovered(before)
        assert await kernel.ask("1 + 1") == "2"
