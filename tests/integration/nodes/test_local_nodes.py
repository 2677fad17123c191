"""A node by itself, with a client on it that is connected to this machine."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sessionkeeper.nodes.bridged import BridgedNetwork
from sessionkeeper.nodes.local import NamespaceNode, NodePlan

pytestmark = pytest.mark.needs("root", "ip", "nft")

CLIENT = """
import os, socket, sys, time
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
connection.sendall(b"here")
os.write(int(sys.argv[3]), b"ready\\n")
time.sleep(600)
"""


@pytest.fixture
async def network() -> AsyncIterator[BridgedNetwork]:
    made = BridgedNetwork(f"{os.getpid() % 0xFFFFFF:06x}")
    made.create()
    yield made
    made.remove()


async def connected(network: BridgedNetwork, place: Path) -> tuple[NamespaceNode, socket.socket]:
    """A node, and this machine's end of a connection from it."""
    with socket.create_server((str(network.address), 0)) as server:
        port = server.getsockname()[1]
        agent = [sys.executable, "-c", CLIENT, str(network.address), str(port), "{ready_fd}"]
        plan = NodePlan(
            instance=network._instance,
            name="node-1",
            index=0,
            data=place / "node-1",
            log=place / "node-1.log",
            agent=agent,
            environ=os.environ,
        )
        node = NamespaceNode(plan, network)
        child = await node.start()
        await child.said("ready", 20)
        connection, peer = server.accept()
        assert peer[0] == str(network.node_address(0))
        assert connection.recv(4) == b"here"
        return node, connection


async def test_pulled_plug_sends_no_word_of_parting(
    network: BridgedNetwork, tmp_path: Path
) -> None:
    """Else the gateway would know of a lost node earlier than of a real one."""
    node, connection = await connected(network, tmp_path)
    with connection:
        await node.pull_plug()
        with pytest.raises(BlockingIOError):
            connection.recv(1, socket.MSG_DONTWAIT)
    assert not (tmp_path / "node-1").exists()


async def test_node_that_is_stopped_closes_its_connections(
    network: BridgedNetwork, tmp_path: Path
) -> None:
    node, connection = await connected(network, tmp_path)
    with connection:
        stopping = asyncio.create_task(node.stop(10, asyncio.Event()))
        assert await asyncio.to_thread(connection.recv, 1) == b""
        await stopping
    assert not (tmp_path / "node-1").exists()


async def test_node_whose_link_is_cut_keeps_running(
    network: BridgedNetwork, tmp_path: Path
) -> None:
    """A partition: what is cut off must notice by itself."""
    node, connection = await connected(network, tmp_path)
    with connection:
        network.cut(0)
        assert node.init_pid is not None
        assert Path(f"/proc/{node.init_pid}").exists()
        await node.pull_plug()
