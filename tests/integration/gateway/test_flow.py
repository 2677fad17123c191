"""Who says much waits, loses nothing and slows nobody; who says nothing any more is found out."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults import counting_kernel
from faults.proxy import Fault, FaultProxy
from gateway_rig import SPECS, TOKEN, Client, Rig, Shim
from seeds import dial

from gateway.dial import AgentLink
from gateway.errors import VersionRefused
from gateway.frames import FRAME_LIMIT
from gateway.link import CREDIT
from gateway.outbox import PIECE
from sessionkeeper.agent.relay import ShimRelay

LIMIT = 8 << 20
SPECS["counting"] = {
    "argv": [sys.executable, counting_kernel.__file__, "{connection_file}"],
    "display_name": "Counting",
    "language": "none",
}
# As a kernel that is no Python program: nothing can be changed in it.
SPECS["native"] = {**SPECS["counting"], "argv": ["/usr/bin/env", *SPECS["counting"]["argv"]]}
for name in ("python3", "native", "ir"):
    SPECS[f"{name}-held"] = {**SPECS[name], "output_limit": LIMIT}
FOREVER = {
    "python3-held": "i = 0\nwhile True:\n    print(str(i).rjust(9999))\n    i += 1",
    "ir-held": "i <- 0\nx <- strrep(' ', 99999)\n"
    "while (TRUE) { cat(x, i, '\\n', sep=''); flush.console(); i <- i + 1 }",
    # As fast as native kernels are that do something for what they print.
    "native-held": json.dumps({"say": 10**9, "size": 9999, "every": 0.0005}),
    "counting": json.dumps({"say": 10**9, "size": 9999}),
}
BLACKHOLE = Fault(0, "blackhole", 0, 0)


def memory(pid: int) -> int:
    """Resident, in MB."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) // 1024


def cpu(pid: int) -> tuple[str, str]:
    """What the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[11], fields[12]


async def stands_still(pid: int) -> None:
    """Wait until a process does nothing any more."""
    before, calm = cpu(pid), 0
    async with asyncio.timeout(60):
        while calm < 10:
            await asyncio.sleep(0.05)  # nothing tells
            now = cpu(pid)
            calm, before = (calm + 1 if now == before else 0), now


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        pytest.param("python3-held", 200, id="ipykernel-waits"),
        pytest.param("native-held", 100, id="other-is-stopped"),
        pytest.param("ir-held", 300, id="R-is-stopped", marks=pytest.mark.needs("r")),
    ],
)
async def test_kernel_that_nobody_listens_to_stands_still_and_loses_nothing(
    rig: Rig, name: str, holds: int
) -> None:
    kernel_id = await rig.start_kernel(name)
    client = await Client(rig, kernel_id).open()
    shim: Shim = rig.agent.shims[kernel_id]
    assert shim.client is not None
    msg_id = await client.ask(FOREVER[name])
    await client.until(lambda: client.text(msg_id))
    pid = (await shim.client.call("status"))["pid"]
    shim.client.pause()
    await stands_still(pid)
    assert memory(shim.process.pid) < 120
    assert memory(pid) < holds
    shim.client.resume()
    await client.until(lambda: len(client.text(msg_id)) > 2 * LIMIT)
    if name != "native-held":  # which knows no interrupt
        await shim.client.call("interrupt")
        await client.until(lambda: client.is_done(msg_id), 60)
    lines = client.text(msg_id).split("\n")[:-1]
    numbers = [int(line) for line in lines if line.strip().isdigit()]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 60
    await client.close()


async def test_python_program_that_prints_as_fast_as_it_can_loses_nothing(rig: Rig) -> None:
    kernel_id = await rig.start_kernel("counting")
    client = await Client(rig, kernel_id).open()
    msg_id = await client.run(json.dumps({"say": 30_000, "size": 50}))
    assert client.text(msg_id).split() == [str(n) for n in range(30_000)]
    await client.close()


async def test_end_of_output_that_a_kernel_dropped_is_said(rig: Rig) -> None:
    kernel_id = await rig.start_kernel("native")
    client = await Client(rig, kernel_id).open()
    msg_id = await client.run(json.dumps({"say": 1, "lose_idle": True}))
    assert "Some output is missing" in client.text(msg_id)
    await client.close()


async def test_output_that_a_kernel_may_have_dropped_before_its_end_is_said(rig: Rig) -> None:
    kernel_id = await rig.start_kernel("native")
    client = await Client(rig, kernel_id).open()
    await client.run(json.dumps({"say": 1}))
    shim = rig.agent.shims[kernel_id].client
    assert shim is not None
    tasks = Path(f"/proc/{(await shim.call('status'))['pid']}/task")
    # Its sending thread shares a processor with somebody who never sleeps.
    busy, *_, free = sorted(os.sched_getaffinity(0)) * 2
    for task in tasks.iterdir():
        sends = (task / "comm").read_text().startswith("ZMQbg/IO")
        os.sched_setaffinity(int(task.name), {busy if sends else free})
        if sends:
            os.sched_setscheduler(int(task.name), os.SCHED_IDLE, os.sched_param(0))
    hog = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(hog.pid, {busy})
        msg_id = await client.run(json.dumps({"say": 30_000, "size": 50}))
    finally:
        hog.kill()
        hog.wait()
    numbers = {int(word) for word in client.text(msg_id).split() if word.isdecimal()}
    assert len(numbers) < 30_000
    assert "Some output may be missing" in client.text(msg_id)
    await client.close()


async def test_kernel_that_prints_without_end_slows_only_itself(rig: Rig) -> None:
    loud, quiet = [await rig.start_kernel("counting") for _ in range(2)]
    listener = await Client(rig, loud).open()
    client = await Client(rig, quiet).open()
    flood = await listener.ask(FOREVER["counting"])
    await listener.until(lambda: len(listener.of(flood)) > 1000)
    took = []
    for _ in range(20):
        begin = time.perf_counter()
        await client.run(json.dumps({"say": 1}))
        took.append(time.perf_counter() - begin)
    assert sorted(took)[10] < 1.0, took  # in one process, with what floods it
    await client.close()
    await listener.close()


@pytest.mark.parametrize("version", [[1, 0], [1, 1]])
async def test_agent_one_minor_version_older_works(rig: Rig, version: list[int]) -> None:
    """A longer message than a piece, both ways."""
    link = rig.agent.link
    assert link is not None
    await link.close()
    rig.agent.link = await AgentLink.connect(
        rig.url,
        TOKEN,
        {"node": "n1", "version": version},
        on_call=rig.agent._call,
        on_frame=rig.agent._to_shim,
    )
    rig.agent.link._out.several = False
    if version == [1, 0]:
        rig.agent.link._out.pieces = False
    kernel_id = await rig.start_kernel("counting")
    client = await Client(rig, kernel_id).open()
    size = 5 * PIECE + CREDIT
    ask = json.dumps({"say": 3, "size": size, "name": "x" * size})
    msg_id = await client.run(ask)
    assert [int(line) for line in client.text(msg_id).split()] == [0, 1, 2]
    assert len(client.reply(msg_id)["user_expressions"]["name"]) == size
    await client.close()


async def test_shim_of_another_major_version_is_refused_with_words(rig: Rig) -> None:
    """Both say it: the agent hears it, and who waits for the kernel is told."""
    kernel_id = await rig.start_kernel("counting")
    client = await Client(rig, kernel_id).open()
    await client.run(json.dumps({"say": 1}))
    shim = rig.agent.shims[kernel_id]
    assert shim.client is not None
    heard: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    shim.client._on_event = lambda event: heard.done() or heard.set_result(event["message"])
    hello = b'{"version": [2, 0], "epoch": 1, "received": [1, 0], "next": 1}'
    shim.client.send_frame(b"\x01" + hello)
    assert "link protocol 2" in await asyncio.wait_for(heard, 10)
    channel = rig.kernels.channel(kernel_id)
    channel.attach_node(lambda frame: None, 1)  # to one that has not answered yet
    waits = await client.ask(json.dumps({"say": 1}))
    await client.until(lambda: not client.unacked)
    with pytest.raises(VersionRefused, match="speaks link protocol 2"):
        channel.receive(b"\x01" + hello)
    await client.until(lambda: client.is_done(waits))
    assert "Install the same major version" in client.reply(waits)["evalue"]
    await client.close()


async def test_blackhole_between_agent_and_gateway_is_found_by_both_within_5_s(rig: Rig) -> None:
    assert rig.agent.link is not None
    await rig.agent.link.close()
    await rig.keeper.until(lambda: rig.keeper.connection is None)
    proxy = await FaultProxy(lambda: ("127.0.0.1", rig.port)).start()
    link = await AgentLink.connect(f"http://127.0.0.1:{proxy.port}", TOKEN, {"node": "n1"})
    await rig.keeper.until(lambda: rig.keeper.connection is not None)
    begin = time.perf_counter()
    proxy.do(BLACKHOLE)
    await link.wait_closed()
    agent = time.perf_counter() - begin
    await rig.keeper.until(lambda: rig.keeper.connection is None)
    gateway = time.perf_counter() - begin
    await proxy.close()
    assert max(agent, gateway) < 5.5  # on a busy machine


async def test_blackhole_between_agent_and_shim_is_found_within_5_s(rig: Rig) -> None:
    kernel_id = await rig.start_kernel("counting")
    shim = rig.agent.shims[kernel_id]
    assert shim.client is not None
    shim.client.close()
    path = shim.folder / "proxy.sock"
    proxy = await FaultProxy(lambda: shim.folder / "shim.sock").start(path)
    relay = ShimRelay(lambda: dial(path), lambda: True, "shim-token", lambda frame: None)
    await relay.open(10)
    assert (await relay.call("status"))["alive"]
    begin = time.perf_counter()
    proxy.do(BLACKHOLE)
    pairs = len(proxy.pairs)
    async with asyncio.timeout(20):
        while len(proxy.pairs) == pairs and proxy.pairs[-1].swallows:
            await asyncio.sleep(0.02)  # nothing tells that the relay has connected again
    assert time.perf_counter() - begin < 5.5
    assert (await relay.call("status"))["alive"]
    await relay.close()
    await proxy.close()


def test_limits_of_a_message_are_the_same_on_all_hops() -> None:
    from gateway.app import MAX_MESSAGE
    from gateway.frames import MESSAGE_LIMIT
    from sessionkeeper.ui import upstream

    assert MESSAGE_LIMIT == MAX_MESSAGE == upstream.MAX_MESSAGE == 1 << 30 < FRAME_LIMIT
