"""Two `sessionkeeper up` on one store and master key: one of them has the session."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest_asyncio
from system.running import System

FLAGS = ("--runtime", "process", "--no-ui", "--nodes", "1")


@contextmanager
def _up(state: Path, store: Path) -> Iterator[System]:
    system = System(state, *FLAGS, "--store", str(store))
    system.start()
    try:
        yield system
    finally:
        system.stop()


@pytest_asyncio.fixture
async def first(tmp_path: Path) -> AsyncIterator[System]:
    with _up(tmp_path / "first", tmp_path / "store") as system:
        yield system


async def test_session_runs_where_it_was_started_last_and_the_other_gateway_is_told(
    first: System, tmp_path: Path
) -> None:
    model = await first.call("POST", "/api/kernels", {"name": "python3"}, server="gateway")
    here = await first.client(model["id"], "gateway").open()
    await here.ask("x = 1")
    saved = await first.save(here)
    (tmp_path / "second").mkdir()
    shutil.copy(tmp_path / "first/master.key", tmp_path / "second/master.key")
    with _up(tmp_path / "second", tmp_path / "store") as second:
        there = await second.client(model["id"], "gateway").open()
        assert "1" in await there.ask("x")
        told = await first.until(lambda status: status["state"] == "failed")
        assert "another gateway has this session since" in told["warnings"][0]
        assert told["node"] is None
        status, content = first.request("GET", "/readyz", server="gateway", token=None)
        assert (status, json.loads(content)["ready"]) == (503, False)
        assert json.loads(content)["reasons"] == {"session": "another gateway has it"}
        first.kill_part("gateway")  # its supervisor starts it: nobody asked for the session
        await first.until(lambda s: s["state"] == "failed" and bool(s["warnings"]))
        await there.ask("x = 2")
        assert await second.save(there) > saved + 1
        assert (await second.running())["node"] == "node-1"
        await there.close()
    await here.close()
    await asyncio.to_thread(first.stop)
    first.start()  # its user wants it here
    back = await first.client(model["id"], "gateway").open()
    assert "2" in await back.ask("x")
    await back.close()
