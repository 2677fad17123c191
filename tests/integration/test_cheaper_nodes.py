"""What nodes cost: sessions go where it is less, between two cells, and say why."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from system.client import PATIENCE, KernelClient
from system.running import System

WHY = "/api/sessionkeeper/sessions/default"


async def kernel_of(system: System) -> KernelClient:
    model = await system.call("POST", "/api/kernels", {}, server="gateway")
    return await system.client(model["id"], "gateway").open()


async def test_an_idle_session_moves_to_a_cheaper_node_and_one_that_runs_a_cell_stays(
    fresh, tmp_path: Path
):
    system = fresh(
        *("--no-ui", "--nodes", "1", "--runtime", "process"),
        *("--price", "0.4", "--rebalance-after", "1s"),
    )
    kernel = await kernel_of(system)
    await kernel.ask("mine = 41")
    # Until it is told to end by a file that we write.
    busy = asyncio.create_task(
        kernel.ask("import os, time\nwhile not os.path.exists('end'): time.sleep(0.01)\nmine += 1")
    )
    await system.command("node", "start", "node-2", "--tier", "spot", "--price", "0.01")
    said = await would_go_to(system, "node-2")  # but it is in the middle of a cell
    assert [one["node"] for one in said["nodes"]] == ["node-2", "node-1"]
    assert (await system.running())["node"] == "node-1"
    await system.call("PUT", "/api/sessionkeeper/files/end", {}, server="gateway")
    await busy
    moved = await system.until(lambda s: s["state"] == "running" and s["node"] == "node-2")
    assert await kernel.ask("print(mine)") == "42"
    assert any("which costs less" in event["text"] for event in moved["events"])
    told = await system.command("session", "why", "default")
    assert "default is running on node-2" in told
    assert "node-2: is there (" in told
    assert "node-1: node-2 is preferred (" in told
    nodes = await system.call("GET", "/api/sessionkeeper/nodes", server="gateway")
    assert [node["price"] for node in nodes["nodes"]] == [0.4, 0.01]
    await kernel.close()
    # What it cost is in its checkpoint: a gateway that lost its disk knows it.
    await kernel_saved(system)
    before = {row["node"]: row for row in await rows(system)}
    assert before.keys() == {"node-1", "node-2"}
    for node, price in (("node-1", 0.4), ("node-2", 0.01)):
        assert before[node]["seconds"] > 0
        assert before[node]["paid"] == pytest.approx(before[node]["seconds"] / 3600 * price)
        assert before[node]["on_demand"] >= before[node]["paid"]
    await asyncio.to_thread(system.stop)
    shutil.rmtree(system.state.gateway)
    await asyncio.to_thread(system.start)
    after = {row["node"]: row for row in await rows(system)}
    assert after["node-1"]["seconds"] == pytest.approx(before["node-1"]["seconds"])
    assert after["node-2"]["seconds"] >= before["node-2"]["seconds"]
    told = await system.command("report", "--by", "node", "--plot", str(tmp_path / "cost.svg"))
    assert "HOURS" in told
    assert (tmp_path / "cost.svg").read_text().startswith("<svg")


async def would_go_to(system: System, node: str) -> dict[str, Any]:
    """Wait until placement prefers that node; what it says of all. Under load a node may not be
    heard for a moment, and is not fit then."""
    async with asyncio.timeout(PATIENCE):
        while True:
            said = (await system.call("GET", WHY, server="gateway"))["why"]
            if said["node"] == node:
                return dict(said)
            await asyncio.sleep(0.05)  # nothing announces it


async def rows(system: System) -> list[dict[str, Any]]:
    return json.loads(await system.command("report", "--format", "json"))["rows"]


async def kernel_saved(system: System) -> None:
    await system.call("PUT", "/api/sessionkeeper/checkpoints/tags/paid", {}, server="gateway")
