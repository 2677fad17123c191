"""A kernel that runs out of memory comes back; what it ran is told why, and is not run again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from system.client import KernelClient
from system.running import System

SESSIONS = "/api/sessionkeeper/sessions"
LIMIT = 300 << 20
HUGE = "big = bytearray(3 << 30)"


@asynccontextmanager
async def small(system: System, name: str) -> AsyncIterator[tuple[KernelClient, str]]:
    """A kernel of a session that may use 300 MiB, and the session's token."""
    wish = {"name": name, "limit": LIMIT}
    token = (await system.call("POST", SESSIONS, wish, server="gateway"))["token"]
    status, model = await asyncio.to_thread(
        system.request, "POST", "/api/kernels", {}, server="gateway", token=token
    )
    assert status == 201, model
    where = system.url("gateway").replace("http", "ws", 1)
    kernel = await KernelClient(json.loads(model)["id"], where, token).open()
    try:
        yield kernel, token
    finally:
        await kernel.close()
        await system.call("DELETE", f"{SESSIONS}/{name}", server="gateway")


async def said(system: System, name: str) -> list[str]:
    told = await system.call("GET", f"{SESSIONS}/{name}", server="gateway")
    return [event["text"] for event in told["status"]["events"]]


async def saved(system: System, name: str, after: int) -> int:
    """Wait for a checkpoint above that number."""
    async with asyncio.timeout(60):
        while True:
            told = await system.call("GET", f"{SESSIONS}/{name}", server="gateway")
            newest = (told["status"]["checkpoint"] or {"number": 0})["number"]
            if newest > after:
                return newest
            await asyncio.sleep(0.05)


@pytest.mark.container
async def test_a_kernel_that_runs_out_of_memory_comes_back_and_what_it_ran_is_not_run_again(
    system: System,
):
    async with small(system, "greedy") as (kernel, token):
        # No checkpoint has the kernel yet: it begins anew.
        cell = await kernel.run(HUGE)
        assert "ran out of memory: the session may use 300 MiB" in cell.reply["evalue"]
        await kernel.ask("import os, time; mine = 41")
        before = await saved(system, "greedy", 0)

        cell = await kernel.run(f"open('ran', 'a').write('x')\n{HUGE}")
        assert cell.reply["status"] == "error"
        assert "`open('ran', 'a').write('x')" in cell.reply["evalue"]
        assert "ran out of memory" in json.dumps(cell.outputs)
        assert await kernel.ask("mine + 1") == "42"
        assert await kernel.ask("os.path.exists('ran')") == "False"  # neither then nor now

        # A checkpoint in the middle of such a cell does not make it go on.
        cell = await kernel.send(
            f"print('begins')\nwhile not os.path.exists('go'): time.sleep(0.01)\n{HUGE}\nmine = 0"
        )
        await cell.until(lambda c: "begins" in c.text)
        for path in ("checkpoints/tags/middle", "files/go"):
            await asyncio.to_thread(
                system.request, "PUT", f"/api/sessionkeeper/{path}", {},
                server="gateway", token=token,
            )  # fmt: skip
        await cell.end()
        assert "ran out of memory" in cell.reply["evalue"]
        await kernel.run("")  # what is asked while a cell ends with an error may be aborted
        assert await kernel.ask("mine + 1") == "42"
        assert await saved(system, "greedy", before) > before
        told = [text for text in await said(system, "greedy") if "ran out of memory:" in text]
        assert len(told) == 3  # once each
