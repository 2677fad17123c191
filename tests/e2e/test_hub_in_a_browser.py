"""A person comes in through JupyterHub's login page; one tab, while node and UI server are lost."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import pytest
from playwright.async_api import async_playwright
from system.hub import Hub, Server
from system.lab import ARGS, CHROMIUM, Lab
from system.running import System

pytestmark = [
    pytest.mark.container,
    pytest.mark.browser,
    pytest.mark.needs("hub", "http-proxy"),
]

log = logging.getLogger(__name__)


async def test_tab_goes_on_through_the_hub_without_its_node_and_its_ui_server(
    system: System, tmp_path: Path, artifacts: Path
):
    hub = Hub(system, tmp_path / "hub")
    try:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
            page = await browser.new_page(viewport={"width": 1280, "height": 800})
            page.on("requestfailed", lambda r: log.warning("%s: %s", r.url, r.failure))
            await hub.start()
            bob = Server(hub, "bob")
            lab = Lab(bob, page)
            try:
                await page.goto(f"{hub.url}/hub/")
                await page.fill("#username_input", "bob")
                await page.click("#login_submit")
                await page.wait_for_url("**/user/bob/lab**")
                await lab.ready()
                await bob.have_token()
                await computes_whatever_is_lost(lab, bob)
            finally:
                await lab.keep(artifacts, "end")
        await hub.forget()
    except BaseException:
        hub.keep(artifacts)
        raise
    finally:
        hub.stop()


async def computes_whatever_is_lost(lab: Lab, bob: Server) -> None:
    await lab.page.evaluate("window.sameTab = true")
    notebook = await lab.notebook("work", ["x = 41", "print(x + 1)", "print(x + 2)"])
    kernel = await notebook.kernel()
    await notebook.run(0)
    await notebook.end(0)
    said = await bob.until(lambda said: said["session"]["checkpoint"])

    await bob.hub.system.kill(said["session"]["node"])
    await notebook.run(1)
    assert await notebook.end(1) == "42\n"

    os.kill(bob.ui(), signal.SIGKILL)
    await notebook.run(2)
    assert await notebook.end(2) == "43\n"

    assert await notebook.kernel() == kernel
    assert await lab.page.evaluate("window.sameTab")
    assert await lab.page.locator(".jp-Dialog").count() == 0
