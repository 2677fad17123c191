"""After any break a client has all that a kernel said, once; what it asks for gets through."""

from __future__ import annotations

import asyncio
import random

import psutil
import pytest
from system.client import PATIENCE
from system.page import Page
from system.running import System
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from sessionkeeper.nodes import processes

pytestmark = pytest.mark.container

MB = 1_000_000
PRINTS = """
from IPython.display import clear_output
for n in range(2000):
    print("x" * 9999, flush=True)
    if n % 50 == 0: clear_output()
"""


async def test_page_gets_each_message_once_however_often_its_socket_breaks(system: System):
    dice = random.Random(4)
    async with system.kernel() as kernel:
        page = Page(system, kernel.id)
        await page.connect()
        await page.run("import time\nfor n in range(400): print(n, flush=True); time.sleep(0.005)")
        breaks = 0
        replied = False
        while not replied:
            try:
                for _ in range(dice.randrange(5, 80)):
                    message = await page.read()
                    replied = message is not None and message["type"] == "execute_reply"
                    if replied:
                        break
            except ConnectionClosed:
                pass
            page.drop()
            breaks += 1
            if breaks == 2:
                system.kill_part("ui")
            if breaks == 4:
                system.kill_part("gateway")
            await page.connect()
        text = "".join(m["content"]["text"] for m in page.messages if m["type"] == "stream")
        assert [int(line) for line in text.split()] == list(range(400))
        assert breaks > 4


async def test_kernel_that_is_asked_for_before_a_node_is_back_starts_when_it_is(system: System):
    async with system.kernel() as kernel:
        await kernel.ask("1")
    for node in ("node-1", "node-2"):
        await system.kill(node)
    system.kill_part("gateway")
    await system.until(lambda status: status["node"] is None)
    assert "python3" in (await system.call("GET", "/api/kernelspecs"))["kernelspecs"]
    started = asyncio.create_task(system.call("POST", "/api/kernels", {"name": "python3"}))
    await system.start_node("node-1")
    client = await system.client((await started)["id"]).open()
    assert await client.ask("6 * 7") == "42"
    await client.close()
    await system.call("DELETE", f"/api/kernels/{client.id}")


async def test_tab_that_does_not_read_costs_the_ui_server_little_and_loses_nothing(system: System):
    async with system.kernel() as kernel:
        (pid,) = [p for p, name in processes.parts(system.state.id).items() if name == "ui"]
        await kernel.ask("1")
        process = psutil.Process(pid)
        before = process.memory_info().rss
        stuck = await connect(
            f"{system.url().replace('http', 'ws', 1)}/api/kernels/{kernel.id}/channels",
            additional_headers={"Authorization": f"token {system.state.token('ui')}"},
            subprotocols=["v1.kernel.websocket.jupyter.org"],
            max_size=None,
            max_queue=1,
            proxy=None,
        )
        other = await system.client(kernel.id, "gateway").open()
        await other.run(PRINTS)
        await other.close()
        assert process.memory_info().rss - before < 10 * MB
        # All of it is there once it reads.
        got = 0
        async with asyncio.timeout(PATIENCE):
            while got < 2000:
                got += (await stuck.recv()).count(b"x" * 9999)  # type: ignore[arg-type]
        await stuck.close()


ECHO = """
def opened(comm, message):
    @comm.on_msg
    def answer(message): comm.send({"echo": message["content"]["data"]})
get_ipython().kernel.comm_manager.register_target("echo", opened)
"""


async def test_comms_interrupts_and_debugger_get_through_after_gateway_and_node_are_killed(
    system: System,
):
    async with system.kernel() as kernel:
        await kernel.run(ECHO)
        opening = {"comm_id": "c", "target_name": "echo", "data": {}}
        await kernel.request("comm_open", opening)
        await system.save(kernel)

        async def works(number: int) -> None:
            content = {"comm_id": "c", "data": {"n": number}}
            said = await kernel.request("comm_msg", content)
            await said.until(lambda one: one.comms)
            assert said.comms == [{"echo": {"n": number}}]
            endless = await kernel.send("while True: pass")
            await endless.until(lambda one: "execute_input" in one.types)
            await system.call("POST", f"/api/kernels/{kernel.id}/interrupt")
            assert (await endless.end()).outputs[0]["ename"] == "KeyboardInterrupt"
            ask = {"seq": number, "type": "request", "command": "debugInfo", "arguments": {}}
            info = await kernel.request("debug_request", ask, channel="control")
            await info.until(lambda one: one.reply is not None)
            assert info.reply is not None
            assert info.reply["body"]["isStarted"] is False

        await works(1)
        system.kill_part("gateway")
        await works(2)
        await system.save(kernel)  # else the endless cell runs again
        epoch = (await system.running())["epoch"]
        await system.lose()
        await system.recovered(epoch)
        await works(3)
