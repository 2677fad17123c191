"""One gateway, many sessions: each is its user's alone, and all share the nodes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
from system.client import KernelClient
from system.running import System

pytestmark = pytest.mark.container


@dataclass
class Session:
    """One more session of a system, as its user has it."""

    system: System
    name: str
    token: str

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        status, content = self.system.request(
            method, path, body, server="gateway", token=self.token
        )
        return status, json.loads(content) if content else None

    async def kernel(self) -> KernelClient:
        status, model = await asyncio.to_thread(self.ask, "POST", "/api/kernels", {})
        assert status == 201, model
        return await self.client(model["id"])

    async def client(self, kernel_id: str) -> KernelClient:
        where = self.system.url("gateway").replace("http", "ws", 1)
        return await KernelClient(kernel_id, where, self.token).open()


@asynccontextmanager
async def sessions(system: System, *names: str, **wish: Any) -> AsyncIterator[list[Session]]:
    """Sessions of these names; they are gone afterwards."""
    made = []
    path = "/api/sessionkeeper/sessions"
    try:
        for name in names:
            said = await system.call("POST", path, {"name": name, **wish}, server="gateway")
            made.append(Session(system, name, said["token"]))
        yield made
    finally:
        for one in made:
            with suppress(AssertionError):
                await system.call("DELETE", f"{path}/{one.name}", server="gateway")


async def test_a_token_opens_the_kernels_and_files_of_its_session_and_nothing_else(system: System):
    async with sessions(system, "a", "b") as (a, b):
        of_a = await a.kernel()
        assert b.ask("GET", "/api/kernels") == (200, [])
        assert b.ask("GET", f"/api/kernels/{of_a.id}")[0] == 404
        await of_a.ask("open('secret', 'w').write('a')")
        assert a.ask("GET", "/api/sessionkeeper/files/secret?op=stat")[0] == 200
        assert b.ask("GET", "/api/sessionkeeper/files/secret?op=stat")[0] == 404
        assert b.ask("GET", "/api/sessionkeeper/status")[1]["session"] == "b"
        for path in ("sessions", "nodes", "sessions/b"):
            assert b.ask("GET", f"/api/sessionkeeper/{path}")[0] == 403
        await of_a.close()


async def test_sessions_on_one_node_all_move_when_it_is_drained_and_when_it_is_killed(
    system: System,
):
    async with sessions(system, "a", "b", "c") as made:
        kernels = [await one.kernel() for one in made]
        for number, kernel in enumerate(kernels):
            await kernel.ask(f"mine = {number}")
        await system.drain("node-1")
        assert [await kernel.ask("mine") for kernel in kernels] == ["0", "1", "2"]
        await system.start_node("node-1")
        await system.kill("node-2")
        assert [await kernel.ask("mine") for kernel in kernels] == ["0", "1", "2"]
        for kernel in kernels:
            await kernel.close()
