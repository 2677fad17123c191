"""JupyterLab in a browser tab that stays open, and notebooks in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.async_api import BrowserContext, Locator, Page, WebSocket, expect

from system.client import PATIENCE
from system.running import System

CHROMIUM = "/usr/bin/chromium"
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]

expect.set_options(timeout=PATIENCE * 1000)
_ENDED = re.compile(r"\[\d+\]:?")

# Every state and text that the status bar item shows, in order: a move may take less than the time
# between two looks at it.
RECORD = """
item => {
  window.shownStates = [];
  const note = () => {
    const now = {...item.dataset, text: item.textContent};
    const last = window.shownStates.at(-1);
    if (JSON.stringify(last) !== JSON.stringify(now)) window.shownStates.push(now);
  };
  note();
  new MutationObserver(note).observe(
    item, {attributes: true, childList: true, characterData: true, subtree: true});
}
"""


class Lab:
    """One tab."""

    def __init__(self, system: System, page: Page) -> None:
        self.system = system
        self.page = page
        self._closed: list[str] = []
        self._said: list[str] = []
        self.item: Locator = page.get_by_test_id("sessionkeeper-status")
        page.on("websocket", self._watch)
        page.on("console", lambda said: self._said.append(f"{said.type}: {said.text}"))
        page.on("requestfailed", lambda one: self._said.append(f"{one.failure}: {one.url}"))

    @classmethod
    async def open(cls, system: System, context: BrowserContext, *, reset: bool = True) -> Lab:
        page = await context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        lab = cls(system, page)
        token = system.state.token("ui")
        await page.goto(f"{system.url()}/lab?token={token}" + ("&reset" if reset else ""))
        await lab.ready()
        return lab

    async def ready(self) -> None:
        await self.page.wait_for_selector("#jupyterlab-splash", state="detached")
        await self.item.wait_for()
        await self.item.evaluate(RECORD)

    async def states(self) -> list[dict[str, str]]:
        """What the status bar item showed since the tab was opened, in order."""
        found: list[dict[str, str]] = await self.page.evaluate("window.shownStates")
        return found

    async def shows(self, **attributes: str) -> None:
        """Wait until the status bar item has these `data-` attributes."""
        for name, value in attributes.items():
            await expect(self.item).to_have_attribute(f"data-{name}", value)

    def closed(self, kernel: str) -> list[str]:
        """URLs of the kernel's WebSockets that were closed since the tab was opened."""
        return [url for url in self._closed if kernel in url]

    async def until(self, condition: str, argument: Any = None) -> None:
        """Wait until a JavaScript function returns true."""
        await self.page.wait_for_function(condition, arg=argument, polling=50)

    async def refresh(self) -> None:
        await self.page.locator('[data-command="filebrowser:refresh"]').first.click()

    def entry(self, name: str) -> Locator:
        """An entry of the file browser."""
        return self.page.locator(".jp-DirListing-item", has_text=name)

    async def notebook(self, name: str, cells: list[str]) -> Notebook:
        """Make a notebook with these cells, and open it as people do."""
        path = f"{name}.ipynb"
        model = {"type": "notebook", "format": "json", "content": content(cells)}
        await self.system.call("PUT", f"/api/contents/{path}", model)
        await self.refresh()
        await self.entry(path).dblclick()
        await self.page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        return Notebook(self, path)

    async def second(self, context: BrowserContext, path: str) -> Notebook:
        """The notebook in one more page."""
        page = await context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        lab = Lab(self.system, page)
        await page.goto(f"{self.system.url()}/lab/workspaces/second/tree/{path}?reset")
        await lab.ready()
        return Notebook(lab, path)

    async def keep(self, place: Path, name: str) -> None:
        """Keep what is to be seen, and what the page said and could not load."""
        place.mkdir(parents=True, exist_ok=True)
        await self.page.screenshot(path=place / f"{name}.png")
        (place / f"{name}.html").write_text(await self.page.content())
        (place / f"{name}.log").write_text("\n".join(self._said))
        (place / f"{name}.json").write_text(json.dumps(await self.states(), indent=1))

    def _watch(self, socket: WebSocket) -> None:
        if "/channels" in socket.url:
            socket.on("close", lambda one: self._closed.append(one.url))


class Notebook:
    """A notebook that is open in front."""

    def __init__(self, lab: Lab, path: str) -> None:
        self.lab = lab
        self.path = path
        self.cells = lab.page.locator(".jp-NotebookPanel:visible .jp-CodeCell")

    async def run(self, number: int) -> None:
        """Run a cell; returns at once."""
        await self.cells.nth(number).locator(".cm-content").click()
        await self.lab.page.keyboard.press("Control+Enter")

    async def running(self, number: int) -> None:
        """Wait until a cell is shown as running."""
        await expect(self.cells.nth(number).locator(".jp-InputPrompt")).to_have_text("[*]:")

    async def answer(self, number: int, text: str) -> None:
        """Type what a cell asks for."""
        await self.cells.nth(number).locator("input.jp-Stdin-input").fill(text)
        await self.lab.page.keyboard.press("Enter")

    async def save(self) -> None:
        """Save it as people do."""
        await self.cells.nth(0).locator(".jp-InputPrompt").click()
        async with self.lab.page.expect_response(
            lambda answer: answer.request.method == "PUT" and self.path in answer.url
        ):
            await self.lab.page.keyboard.press("Control+s")

    async def end(self, number: int) -> str:
        """Wait for the end of a cell; what it shows."""
        prompt = self.cells.nth(number).locator(".jp-InputPrompt")
        await expect(prompt).to_have_text(_ENDED)
        return await self.shown(number)

    async def shown(self, number: int) -> str:
        """What the output area of a cell shows now."""
        pieces = self.cells.nth(number).locator(".jp-OutputArea-output")
        return "".join(await pieces.all_text_contents())

    async def numbers(self, number: int) -> list[int]:
        """The whole lines that a counter has shown."""
        text = await self.shown(number)
        return [int(line) for line in text.rpartition("\n")[0].split()]

    async def counts_to(self, number: int, condition: Callable[[list[int]], bool]) -> list[int]:
        """Wait until the numbers that a cell shows fulfil a condition."""
        output = self.cells.nth(number).locator(".jp-OutputArea")
        while not condition(numbers := await self.numbers(number)):
            before = await output.text_content()
            await self.lab.until(
                "([node, before]) => node.textContent !== before",
                [await output.element_handle(), before],
            )
        return numbers

    async def show(self) -> None:
        """Bring it to the front."""
        await self.lab.page.locator(".lm-TabBar-tab", has_text=self.path).click()

    async def save_session(self) -> None:
        """Have a checkpoint that holds all cells that ran."""
        client = await self.lab.system.client(await self.kernel()).open()
        try:
            await self.lab.system.save(client)
        finally:
            await client.close()

    async def kernel(self) -> str:
        """Id of its kernel."""
        there = await self.lab.system.call("GET", "/api/sessions")
        (found,) = [one["kernel"]["id"] for one in there if one["path"] == self.path]
        return str(found)

    async def close(self) -> None:
        """Shut its kernel down."""
        there = await self.lab.system.call("GET", "/api/sessions")
        for one in there:
            if one["path"] == self.path:
                await self.lab.system.call("DELETE", f"/api/sessions/{one['id']}")


def content(cells: list[str]) -> dict[str, Any]:
    """A notebook, for the contents API."""
    code = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    return {
        "cells": [{**code, "source": text.strip(), "id": f"c{n}"} for n, text in enumerate(cells)],
        "metadata": {
            "kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
