"""JupyterLab in Chromium: pages are reloaded and opened while cells run; their outputs stay."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, async_playwright, expect
from system.fixtures import FAILED
from system.lab import ARGS, CHROMIUM, Lab, Notebook
from system.running import System

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.container,
    pytest.mark.browser,
]

COUNT = """
import os, time
n = 0
while not os.path.exists("{0}-enough"):
    print(n, flush=True)
    n += 1
    time.sleep(0.05)
"""
BAR = """
import os, time
from ipywidgets import FloatProgress
from IPython.display import display
bar = FloatProgress(value=0.5, max=1.0)
display(bar)
while not os.path.exists("{0}-enough"):
    bar.value = 0.25 + (bar.value + 0.01) % 0.5
    time.sleep(0.05)
bar.value = 1.0
"""
SLIDER = """
from ipywidgets import interact
@interact(n=(0, 9))
def show(n=3):
    print("it is", n)
"""
ASKS = "print('hello', input('name? '))"
SHOWS = """
from IPython.display import display
shown = display("first", display_id=True)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def context(shared_systems: list[System], tmp_path_factory) -> AsyncIterator[BrowserContext]:
    if not shared_systems:
        shared_systems.append(System(tmp_path_factory.mktemp("system") / "state").start())
    await shared_systems[0].heal()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield await browser.new_context(viewport={"width": 1280, "height": 800})
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def lab(
    request: pytest.FixtureRequest,
    context: BrowserContext,
    shared_systems: list[System],
    artifacts: Path,
) -> AsyncIterator[Lab]:
    """A page of the test's own."""
    system = shared_systems[0]
    await system.heal()
    lab = await Lab.open(system, context)
    yield lab
    if request.node.stash.get(FAILED, False):
        if not lab.page.is_closed():
            await lab.keep(artifacts, "failed")
        for number, page in enumerate(context.pages):
            await page.screenshot(path=artifacts / f"page-{number}.png")
        system.keep(artifacts)
    for page in context.pages:
        await page.close()


async def enough(lab: Lab, name: str) -> None:
    model = {"type": "file", "format": "text", "content": ""}
    await lab.system.call("PUT", f"/api/contents/{name}-enough", model)


async def goes_on(notebook: Notebook) -> None:
    there = len(await notebook.numbers(0))
    await notebook.counts_to(0, lambda numbers: len(numbers) >= there + 5)


async def test_cell_that_runs_goes_on_in_a_page_that_is_reloaded_and_in_a_second_one(
    lab: Lab, context: BrowserContext, artifacts: Path
):
    notebook = await lab.notebook("reloaded", [COUNT.format("reloaded"), "6 * 7"])
    await notebook.save()  # JupyterLab adds to a new notebook which language it is in
    await notebook.run(0)
    await notebook.counts_to(0, lambda numbers: len(numbers) >= 5)
    await notebook.run(1)
    await lab.page.reload()
    await lab.ready()
    await notebook.running(0)
    await goes_on(notebook)
    second = await lab.second(context, notebook.path)
    await second.running(0)
    await goes_on(second)
    await second.lab.keep(artifacts, "second")
    await enough(lab, "reloaded")
    for one in (notebook, second):
        assert await one.end(1) == "42"
        await one.end(0)
        numbers = await one.numbers(0)
        assert numbers == list(range(len(numbers)))
        # There is nothing to save, and nothing to ask about.
        await expect(one.lab.page.locator(".lm-TabBar-tab.jp-mod-dirty")).to_have_count(0)
    await lab.keep(artifacts, "end")
    await notebook.save()
    await expect(lab.page.locator(".jp-Dialog")).to_have_count(0)
    await notebook.close()


async def test_notebook_that_was_closed_shows_what_ran_meanwhile_and_asks_again(
    lab: Lab, context: BrowserContext, artifacts: Path
):
    """A question is asked again; a display that a later cell changes does."""
    cells = [COUNT.format("closed"), SHOWS, "shown.update('second')", ASKS]
    notebook = await lab.notebook("closed", cells)
    await notebook.save()
    for number in range(4):
        await notebook.run(number)
    await notebook.counts_to(0, lambda numbers: len(numbers) >= 5)
    await lab.page.close()
    await enough(lab, "closed")

    again = await lab.second(context, notebook.path)
    await again.end(0)
    numbers = await again.numbers(0)
    assert numbers == list(range(len(numbers)))
    assert await again.end(2) == ""
    assert await again.shown(1) == "'second'"
    await again.answer(3, "Ada")
    assert "hello Ada\n" in await again.end(3)
    await again.lab.keep(artifacts, "end")
    await notebook.close()


async def test_widgets_work_in_a_page_that_is_reloaded(
    lab: Lab, context: BrowserContext, artifacts: Path
):
    cells = [BAR.format("widgets"), SLIDER]
    notebook = await lab.notebook("widgets", cells)
    await notebook.save()
    await notebook.run(1)
    await notebook.end(1)
    await notebook.run(0)
    bar = notebook.cells.nth(0).locator(".progress-bar")
    await expect(bar).to_be_visible()
    await lab.page.reload()
    await lab.ready()
    await notebook.running(0)
    await lab.keep(artifacts, "reloaded")
    await enough(lab, "widgets")
    await notebook.end(0)
    await expect(bar).to_have_attribute("style", re.compile(r"width: 100%"))
    slider = notebook.cells.nth(1)
    await expect(slider.locator(".noUi-handle")).to_be_visible()
    await slider.locator(".noUi-handle").focus()
    await lab.page.keyboard.press("ArrowRight")
    await expect(slider).to_contain_text("it is 4")
    await lab.keep(artifacts, "end")
    await notebook.close()
