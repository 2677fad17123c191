"""A node that is cut off ends its own kernels, by its own clock, whichever way it was cut off."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from system.client import PATIENCE
from system.running import System

from sessionkeeper.nodes import processes

pytestmark = pytest.mark.needs("root", "ip", "nft")
TABLE = "sessionkeeper-test"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Two nodes with addresses of their own, and kernels that start in a moment."""
    state = tmp_path_factory.mktemp("fencing") / "state"
    flags = ("--runtime", "process", "--no-ui", "--nodes", "2", "--lease-seconds", "1500ms")
    made = System(state, *flags).start()
    yield made
    made.stop()
    assert made.leftovers() == {}


def on_node(system: System, node: str, word: bytes) -> list[int]:
    """Processes of a node whose command line has a word."""
    found = []
    for pid, name in processes.parts(system.state.id).items():
        if name == node and word in Path(f"/proc/{pid}/cmdline").read_bytes():
            found.append(pid)
    return found


@contextmanager
def dropped(enter: list[str], rule: str) -> Iterator[None]:
    nft = [*enter, "nft", "-f", "-"]
    table = f"table ip {TABLE} {{\nchain cut {{\n{rule}\n}}\n}}\n"
    subprocess.run(nft, input=table, text=True, check=True)
    try:
        yield
    finally:
        subprocess.run(nft, input=f"delete table ip {TABLE}\n", text=True, check=True)


@contextmanager
def nothing_comes_from_it(system: System, node: str) -> Iterator[None]:
    """What the gateway says arrives; what the node says does not."""
    address = system.state.running()["nodes"][node]["address"]
    with dropped([], f"type filter hook input priority -10; ip saddr {address} drop;"):
        yield


@contextmanager
def nothing_gets_to_it(system: System, node: str) -> Iterator[None]:
    """The gateway hears it for a while; it hears nothing."""
    init = system.state.running()["nodes"][node]["init"]
    enter = ["nsenter", f"--net=/proc/{init}/ns/net", "--"]
    with dropped(enter, 'type filter hook input priority -10; iifname "eth0" drop;'):
        yield


@pytest.mark.parametrize(
    "fault",
    [nothing_comes_from_it, nothing_gets_to_it],
    ids=lambda fault: fault.__name__,
)
async def test_cut_off_node_ends_its_kernels_and_is_not_heard_when_it_is_back(
    two: System, fault: Callable[[System, str], Iterator[None]]
) -> None:
    model = await two.call("POST", "/api/kernels", {"name": "python3"}, server="gateway")
    client = await two.client(model["id"], "gateway").open()
    await client.ask("x = [1]")
    await two.save(client)
    before = await two.running()
    node = before["node"]
    kernels = [os.pidfd_open(pid) for pid in on_node(two, node, b"ipykernel")]
    assert kernels
    with fault(two, node):  # type: ignore[attr-defined]
        after = await two.recovered(before["epoch"])
        assert after["node"] != node
        assert await client.ask("x.append(2); x") == "[1, 2]"
    for handle in kernels:
        assert await asyncio.to_thread(select.select, [handle], [], [], PATIENCE) != ([], [], [])
        os.close(handle)
    async with asyncio.timeout(PATIENCE):
        while await two._state_of(node) != "ready":
            await asyncio.sleep(0.05)  # nothing announces that
    assert await client.ask("x") == "[1, 2]"
    now = await two.running()
    assert (now["node"], now["epoch"]) == (after["node"], after["epoch"])
    await client.close()
    await two.call("DELETE", f"/api/kernels/{client.id}", server="gateway")
