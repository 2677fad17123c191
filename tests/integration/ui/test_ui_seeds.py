"""Connections break, as a seed says, between tab and UI server and between UI server and gateway.

    tab ──proxy── UI server ──proxy── gateway

A stock tab does not say what it has got but by its answers to pings, so it may get again, after a
break, what it had a moment ago: the same messages, by their `msg_id`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from conftest import UiServer
from faults.proxy import FaultProxy, plan
from test_ui_channels import Tab
from tornado.httpclient import HTTPClientError
from ui_gateway import Gateway, v1_parts

pytestmark = pytest.mark.asyncio(loop_scope="module")
SECONDS = 0.6
FIRST = int(os.environ.get("FIRST_SEED", "0"))
Hops = tuple[UiServer, FaultProxy, FaultProxy]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hops(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hops]:
    behind = await FaultProxy(lambda: ("127.0.0.1", gateway.port)).start()
    server = UiServer(tmp_path_factory.mktemp("seeds") / "state", f"http://127.0.0.1:{behind.port}")
    await server.start()
    before = await FaultProxy(lambda: ("127.0.0.1", server.port)).start()
    yield server, before, behind
    await before.close()
    await server.stop()
    await behind.close()


class SteadyTab(Tab):
    """Connects again, with its session, as JupyterLab does."""

    async def stay(self, port: int) -> None:
        _, _, path = self.url.partition("/api/")
        self.url = f"http://127.0.0.1:{port}/api/{path}"
        while True:
            self.closed = asyncio.Event()
            try:
                await asyncio.wait_for(self.open(), 2)
                await self.closed.wait()
            except (OSError, TimeoutError, HTTPClientError, AttributeError):
                pass  # the last one: closed before `open` could look at it
            await asyncio.sleep(0.02)

    def _take(self, message: object) -> None:
        super()._take(message)
        if message is None:
            self.closed.set()
        self.changed.set()

    changed: asyncio.Event
    closed: asyncio.Event

    def once(self) -> list[str]:
        """Texts of the messages, each message once."""
        texts: dict[str, str] = {}
        for message in self.got:
            parts = v1_parts(message)[1]
            content = json.loads(parts[3])
            if "text" in content:
                texts.setdefault(json.loads(parts[0])["msg_id"], content["text"])
        return list(texts.values())


@pytest.mark.parametrize("seed", range(FIRST, FIRST + int(os.environ.get("SEEDS", "6"))))
async def test_outputs_reach_the_tab_in_order_whatever_breaks(
    gateway: Gateway, hops: Hops, seed: int
) -> None:
    server, before, behind = hops
    kernel = await gateway.start_kernel()
    tab = SteadyTab(server, kernel)
    tab.changed = asyncio.Event()
    staying = asyncio.create_task(tab.stay(before.port))
    gateway.output(kernel, "first")
    async with asyncio.timeout(20):
        while not gateway.kernels.channel(kernel).outlet.feeds:
            await asyncio.sleep(0.01)  # nothing tells
    faults = [
        asyncio.create_task(proxy.play(plan(seed, name, SECONDS, 4)))
        for name, proxy in (("tab", before), ("gateway", behind))
    ]
    wanted = [str(number) for number in range(100)]
    for text in wanted:
        gateway.output(kernel, text)
        await asyncio.sleep(SECONDS / len(wanted))
    await asyncio.gather(*faults)
    before.heal()
    behind.heal()
    try:
        async with asyncio.timeout(20):
            while [text for text in tab.once() if text != "first"] != wanted:
                tab.changed.clear()
                await tab.changed.wait()
    except TimeoutError:
        pytest.fail(f"seed {seed}, {before.happened}, {behind.happened}: {tab.once()}")
    finally:
        staying.cancel()
        if tab.socket is not None:
            tab.close()
