"""Sessions in images, in a whole system: they move and come back with the image, wherever it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from system.client import KernelClient
from system.running import System

from sessionkeeper.bench import own_image as python
from sessionkeeper.images.store import ImageStore
from sessionkeeper.images.writing import File, layer, put

pytestmark = pytest.mark.container
SESSIONS = "/api/sessionkeeper/sessions"
BOOK = File(f"{python.HOME[1:]}/book.ipynb", b"{}", user=python.USER)


class Session:
    def __init__(self, system: System, name: str, token: str) -> None:
        self.system, self.name, self.token = system, name, token

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        status, content = await asyncio.to_thread(
            self.system.request, method, path, body, server="gateway", token=self.token
        )
        assert status < 400, (status, content)
        return json.loads(content) if content else None

    async def kernel(self) -> KernelClient:
        model = await self.ask("POST", "/api/kernels", {})
        where = self.system.url("gateway").replace("http", "ws", 1)
        return await KernelClient(model["id"], where, self.token).open()

    async def told(self) -> dict[str, Any]:
        status: dict[str, Any] = await self.ask("GET", "/api/sessionkeeper/status")
        return status

    async def until(self, *states: str) -> dict[str, Any]:
        async with asyncio.timeout(60):
            while (status := await self.told())["state"] not in states:
                await asyncio.sleep(0.05)
        return status


@asynccontextmanager
async def session(system: System, image: str) -> AsyncIterator[Session]:
    wish = {"name": "in-image", "image": image}
    said = await system.call("POST", SESSIONS, wish, server="gateway")
    try:
        yield Session(system, "in-image", said["token"])
    finally:
        with suppress(AssertionError):
            await system.call("DELETE", f"{SESSIONS}/in-image", server="gateway")


def keep(system: System, name: str) -> str:
    store = ImageStore(system.state.gateway / "images")
    return str(put(store, name, [(python.base_layer(), ""), (layer([BOOK]), "")], python.CONFIG))


async def test_session_in_an_image_moves_and_comes_back_with_it(system: System):
    image = await asyncio.to_thread(keep, system, "binder-book:1")
    async with session(system, "binder-book:1") as one:
        # It has the files of its image, and says which kernels that has, before any kernel runs.
        await one.until("running")
        listed = await one.ask("GET", "/api/sessionkeeper/files/?op=list")
        assert "book.ipynb" in [entry["name"] for entry in listed["entries"]]
        assert list((await one.ask("GET", "/api/kernelspecs"))["kernelspecs"]) == ["python3"]
        assert (await system.call("GET", f"{SESSIONS}/in-image", server="gateway"))["session"][
            "image"
        ] == image
        kernel = await one.kernel()
        assert await kernel.ask("import sys, os; x = 5; (sys.prefix, os.getuid())") == (
            f"('{python.ENV}', {python.USER})"
        )
        await kernel.ask("print(file=open('book.ipynb', 'a'))")
        counting = await kernel.run("import time\nfor i in range(80): print(i); time.sleep(0.05)")
        await counting.until(lambda cell: "3\n" in cell.text)
        here = (await one.told())["node"]
        why = (await system.call("GET", f"{SESSIONS}/in-image", server="gateway"))["why"]
        assert f"{here} is preferred, which has the image" in why["reasons"].values()
        await system.drain(here)
        assert (await counting.end()).numbers == list(range(80))
        moved = (await one.told())["node"]
        assert moved != here
        await system.start_node(here)
        await system.kill(moved)
        assert await kernel.ask("x + 1") == "6"
        assert (await one.told())["node"] == here
        await system.call("POST", f"{SESSIONS}/in-image/hibernate", server="gateway")
        listed = await one.ask("GET", "/api/sessionkeeper/files/?op=list")
        assert {entry["name"]: entry["size"] for entry in listed["entries"]}["book.ipynb"] == 3
        assert await kernel.ask("x + 2") == "7"
        await kernel.close()


async def test_image_that_nobody_has_is_refused_by_name(system: System):
    status, content = await asyncio.to_thread(
        system.request, "POST", SESSIONS, {"image": "never-built:1"}, server="gateway"
    )
    assert (status, json.loads(content)["code"]) == (404, "image_unknown")
    assert "never-built:1" in json.loads(content)["message"]
