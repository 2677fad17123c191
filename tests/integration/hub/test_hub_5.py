"""The same spawner under JupyterHub 5: a server's whole life, in one test."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from system.fixtures import FAILED
from system.hub import Hub, Server, Visitor
from system.running import System

pytestmark = [
    pytest.mark.container,
    pytest.mark.needs("hub", "hub-5", "http-proxy"),
]

# Installed beside JupyterHub 6.
JUPYTERHUB_5 = Path(sys.prefix) / "jupyterhub-5"


@pytest_asyncio.fixture
async def hub(
    request: pytest.FixtureRequest, system: System, tmp_path: Path, artifacts: Path
) -> AsyncIterator[Hub]:
    hub = Hub(system, tmp_path / "hub", JUPYTERHUB_5)
    try:
        yield await hub.start()
        await hub.forget()
    finally:
        hub.stop()
        if request.node.stash.get(FAILED, False):
            hub.keep(artifacts)


async def test_lost_node_lost_ui_server_and_a_stop_under_jupyterhub_5(hub: Hub):
    assert (await hub.call("GET", "/hub/api/"))["version"].startswith("5.")
    ann = await Server(hub, "ann", "lab").spawn()
    kernel = await ann.kernel()
    await kernel.ask("x = 41")
    said = await ann.until(lambda said: said["session"]["checkpoint"])
    async with Visitor(ann) as visitor:
        await hub.system.kill(said["session"]["node"])
        assert await kernel.ask("print(x + 1)") == "42"
    assert set(visitor.statuses) == {200}
    await kernel.close()
    os.kill(ann.ui(), signal.SIGKILL)
    assert await ann.status() == 200
    await ann.stop()
    await ann.until(lambda said: said["session"]["state"] == "hibernated")
    await ann.spawn()
    client = await ann.client(kernel.id).open()
    assert await client.ask("print(x + 1)") == "42"
    await client.close()
