"""JupyterLab in Chromium: what a user sees of a session, and does with its files."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from conftest import TOKEN, UiServer
from playwright.async_api import Locator, Page, async_playwright, expect
from system.client import PATIENCE
from ui_gateway import Gateway, status, until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.browser]

ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
SECOND = 1000.0
expect.set_options(timeout=PATIENCE * SECOND)  # it may have to load all of JupyterLab


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def page(
    ui: UiServer, gateway: Gateway, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGS)
        page = await browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(30 * SECOND)
        said: list[str] = []
        page.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
        await page.goto(f"{ui.url}/lab?token={TOKEN}&reset")
        await page.wait_for_selector("[data-testid=sessionkeeper-status]")
        await page.wait_for_selector("#jupyterlab-splash", state="detached")
        yield page
        kept = tmp_path_factory.mktemp("page")
        await page.screenshot(path=kept / "page.png")
        (kept / "page.html").write_text(await page.content())
        await browser.close()
    # Servers that are away on purpose are the only errors there may be.
    assert not [text for text in said if "sessionkeeper" in text and "WebSocket" not in text]


@pytest.fixture
def item(page: Page) -> Locator:
    return page.get_by_test_id("sessionkeeper-status")


async def test_status_bar_says_where_the_session_runs_and_how_old_its_checkpoint_is(item, gateway):
    now = time.time()
    gateway.say(**status(node="node-1", epoch=3, checkpoint={"number": 7, "at": now - 3}))
    await expect(item).to_have_attribute("data-checkpoint", "7")
    for name, value in {"data-state": "running", "data-node": "node-1", "data-epoch": "3"}.items():
        await expect(item).to_have_attribute(name, value)
    await expect(item).to_contain_text("node-1 · saved 5 s ago")  # it ticks


async def test_status_bar_tells_a_move_while_and_after_it_happens(item, gateway):
    gateway.say(**status(node="node-1", state="moving", message="moving from node-1 to node-2"))
    await expect(item).to_contain_text("moving from node-1 to node-2")
    now = time.time()
    moved = {"node": "node-2", "message": "moved from node-1 to node-2 in 0.9 s"}
    gateway.say(**status(**moved, epoch=4, checkpoint={"number": 8, "at": now}))
    await expect(item).to_contain_text("node-2 · moved from node-1 in 0.9 s · saved ")
    await expect(item).to_have_attribute("data-node", "node-2")


async def test_only_what_happened_is_read_aloud(page, item):
    live = item.get_by_role("status")
    await expect(live).to_have_attribute("aria-live", "polite")
    await expect(live).not_to_contain_text("saved")


async def test_details_name_everything_and_keep_up(page, item, gateway):
    now = time.time()
    checkpoint = {"number": 12, "at": now, "stored_bytes": 2_600_000, "total_bytes": 240_000_000}
    kernels = {"abcdef0123": {"state": "idle", "note": "not saved: conn"}}
    events = [{"at": now, "level": "info", "text": "moved to node-2"}]
    gateway.say(**status(epoch=4, checkpoint=checkpoint, kernels=kernels, events=events))
    await item.click()
    details = page.get_by_test_id("sessionkeeper-details")
    for text in ("container", "criu", "number 12", "240 MB (2.6 MB new)", "not saved: conn"):
        await expect(details).to_contain_text(text)
    gateway.say(epoch=5)
    await expect(details.locator("dd").nth(1)).to_have_text("5")
    await item.click()
    await expect(details).to_have_count(0)


async def test_rollback_is_notified_once(page, item, gateway):
    text = "recovered on node-2 from checkpoint 12 (4 s lost, re-ran cell 7)"
    events = [{"at": time.time(), "level": "warning", "text": text}]
    gateway.say(**status(node="node-2", message=text, events=events))
    toast = page.locator(".Toastify__toast")
    await expect(toast).to_have_count(1)
    await expect(toast).to_contain_text("re-ran cell 7")
    await expect(item).to_have_attribute("data-tone", "warn")
    gateway.say(checkpointing=True)
    await expect(toast).to_have_count(1)
    await page.reload()
    await expect(page.get_by_test_id("sessionkeeper-status")).to_contain_text("recovered")
    await expect(toast).to_have_count(0)
    await page.wait_for_selector("#jupyterlab-splash", state="detached")
    gateway.say(**status())


async def test_gateway_that_is_away_is_said(item, gateway):
    await gateway.stop()
    try:
        await expect(item).to_have_attribute("data-state", "gateway-away")
        await expect(item).to_contain_text("gateway does not answer")
    finally:
        await gateway.start()  # the others need it
    await expect(item).to_have_attribute("data-state", "running")


def entry(page: Page, name: str) -> Locator:
    return page.locator(".jp-DirListing-item", has_text=name)


async def refresh(page: Page) -> None:
    await page.locator('[data-command="filebrowser:refresh"]').first.click()


async def test_file_browser_shows_what_the_kernel_wrote_and_opens_it(page, gateway):
    (gateway.root / "result.txt").write_text("forty-two")
    await refresh(page)
    await entry(page, "result.txt").dblclick()
    await expect(page.locator(".cm-content:visible")).to_contain_text("forty-two")


async def test_edited_file_is_saved_to_the_workspace(page, gateway):
    editor = page.locator(".cm-content:visible")
    await editor.click()
    await page.keyboard.press("Control+End")
    await page.keyboard.type(" and more")
    await page.keyboard.press("Control+s")
    await until(lambda: (gateway.root / "result.txt").read_text() == "forty-two and more")


async def test_file_browser_creates_renames_and_deletes(page, gateway):
    editor = page.locator("input.jp-DirListing-editor")
    await page.locator('[data-command="filebrowser:create-new-directory"]').first.click()
    await editor.fill("data")
    await editor.press("Enter")
    await until((gateway.root / "data").is_dir)
    await entry(page, "data").click()
    await page.keyboard.press("F2")
    await editor.fill("results")
    await editor.press("Enter")
    await until((gateway.root / "results").is_dir)
    await entry(page, "results").click()
    await page.keyboard.press("Delete")
    await page.locator(".jp-Dialog .jp-mod-accept").click()
    await until(lambda: not (gateway.root / "results").exists())


async def test_file_browser_uploads_large_files(page, gateway, tmp_path: Path):
    content = bytes(range(256)) * 12_000
    (tmp_path / "large.bin").write_bytes(content)
    async with page.expect_file_chooser() as chooser:
        await page.locator('[data-command="filebrowser:upload"], .jp-id-upload').first.click()
    await (await chooser.value).set_files(tmp_path / "large.bin")
    await until(
        lambda: (
            (gateway.root / "large.bin").exists()
            and (gateway.root / "large.bin").read_bytes() == content
        )
    )
    await expect(entry(page, "large.bin")).to_be_visible()


async def test_notebook_runs_and_goes_on_after_the_gateway_came_back(page, item, gateway):
    cell = {"cell_type": "code", "source": "", "metadata": {}, "outputs": [], "id": "a"}
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = {"cells": [{**cell, "execution_count": None}], "metadata": spec}
    text = json.dumps({**notebook, "nbformat": 4, "nbformat_minor": 5})
    (gateway.root / "run.ipynb").write_text(text)
    await refresh(page)
    await entry(page, "run.ipynb").dblclick()
    await expect(page.get_by_text("Python 3 | Idle")).to_be_visible()
    outputs = page.locator(".jp-Notebook:visible .jp-OutputArea-output")
    await page.locator(".jp-Notebook:visible .cm-content").first.click()
    await page.keyboard.type("first words")
    await page.keyboard.press("Shift+Enter")
    await expect(outputs).to_have_text(["first words"])

    await gateway.stop()
    await expect(item).to_have_attribute("data-state", "gateway-away")
    await page.keyboard.type("asked while it was away")
    await page.keyboard.press("Shift+Enter")
    await gateway.start()
    await expect(outputs).to_have_text(["first words", "asked while it was away"])
    await expect(page.locator(".jp-Dialog")).to_have_count(0)


async def test_server_that_lets_nothing_through_is_noticed_and_what_was_asked_runs(
    page, item, ui, gateway
):
    outputs = page.locator(".jp-Notebook:visible .jp-OutputArea-output")
    asked = await outputs.count()
    await page.locator(".jp-Notebook:visible .cm-content").last.click()
    ui.process.send_signal(signal.SIGSTOP)
    try:
        await page.keyboard.type("said into a dead socket")
        await page.keyboard.press("Shift+Enter")
        await expect(item).to_have_attribute("data-state", "server-away", timeout=10 * SECOND)
    finally:
        ui.process.send_signal(signal.SIGCONT)
    await expect(item).to_have_attribute("data-state", "running")
    await expect(outputs).to_have_count(asked + 1)
    await expect(outputs.last).to_have_text("said into a dead socket")


async def test_jupyterlab_does_not_notice_that_its_server_was_away(page, item, ui, gateway):
    outputs = page.locator(".jp-Notebook:visible .jp-OutputArea-output")
    asked = await outputs.count()
    await ui.stop()
    await expect(item).to_have_attribute("data-state", "server-away")
    await page.locator(".jp-Notebook:visible .cm-content").last.click()
    await page.keyboard.type("asked of nobody")
    await page.keyboard.press("Shift+Enter")
    await page.wait_for_event("requestfailed", lambda one: "/api/kernels/" in one.url)
    await page.keyboard.press("Control+s")
    # Else it waits up to half a minute, and after some tries for ever.
    await expect(page.get_by_text("Python 3 | Connecting")).to_have_count(0)
    await ui.start()
    await expect(outputs).to_have_count(asked + 1)
    await expect(outputs.last).to_have_text("asked of nobody")
    await until(lambda: "asked of nobody" in (gateway.root / "run.ipynb").read_text())
    await expect(page.locator(".jp-Dialog")).to_have_count(0)


REPEATED = [
    ("GET", None, 2),
    ("PUT", {"type": "notebook"}, 2),
    ("PUT", {"type": "file", "chunk": 2}, 1),  # it would be appended twice
    ("POST", {"type": "notebook"}, 1),
    ("PATCH", {"path": "other"}, 1),
    ("DELETE", None, 1),
]


@pytest.mark.parametrize(("method", "model", "asked"), REPEATED)
async def test_only_what_does_no_harm_is_asked_of_a_server_twice(page, ui, method, model, asked):
    script = """async ([url, method, model]) => {
        const { patientFetch } = await import(url);
        let asked = 0;
        const fetch = async () => {
            asked += 1;
            if (asked === 1) throw new TypeError('Failed to fetch');
            return new Response();
        };
        const body = model ? JSON.stringify(model) : null;
        await patientFetch(fetch)(new Request('/x', { method, body })).catch(() => undefined);
        return asked;
    }"""
    url = f"{ui.url}/lab/extensions/sessionkeeper/static/patience.js"
    assert await page.evaluate(script, [url, method, model]) == asked


async def test_kernel_that_was_ended_elsewhere_is_shown_as_ended(page, ui):
    (kernel,) = await ui.api("GET", "kernels")
    await ui.api("DELETE", f"kernels/{kernel['id']}", expect=204)
    await page.get_by_text("No Kernel").first.wait_for()


DESCRIPTIONS = [
    ({"state": "idle", "node": None}, "○ no compute in use"),
    ({"state": "starting", "node": "node-1"}, "◐ starting on node-1…"),
    ({"state": "waiting", "node": None}, "◌ waiting for a node | not saved yet"),
    (
        {"state": "waiting", "message": "waiting for a node: 2 before this one"},
        "◌ waiting for a node: 2 before this one | not saved yet",
    ),
    ({"message": "runs on node-1"}, "● node-1 | not saved yet"),
    ({"checkpoint": {"number": 1, "at": 99}}, "● node-1 | saved 1 s ago"),
    ({"checkpoint": {"number": 1, "at": 100 - 7200}}, "● node-1 | saved 2 h ago"),
    ({"checkpoint": {"number": 1, "at": 105}}, "● node-1 | saved 0 s ago"),
    ({"warnings": ["store down"]}, "▲ node-1 · 1 warning | not saved yet"),
    (
        {"message": "recovered on node-1 from checkpoint 12 (4 s lost, re-ran cell 7)"},
        "▲ node-1 · recovered from checkpoint 12 (4 s lost, re-ran cell 7) | not saved yet",
    ),
    (
        {
            "message": "moved from node-10 to node-1 in 1 s",
            "events": [{"at": 1, "level": "info", "text": "moved from node-10 to node-1 in 1 s"}],
        },
        "● node-1 | not saved yet",  # no news any more
    ),
    (
        {"message": "moved from node-1 to node-10 in 1 s", "node": "node-10"},
        "● node-10 · moved from node-1 in 1 s | not saved yet",
    ),
    (
        {"state": "failed", "message": "no checkpoint is intact"},
        "✕ no checkpoint is intact | not saved yet",
    ),
    ({"state": "gateway-away"}, "◌ gateway does not answer, trying again…"),
]


@pytest.mark.parametrize(("changes", "shown"), DESCRIPTIONS)
async def test_every_state_is_told_in_a_few_words(page, ui, changes, shown):
    script = """async ([url, status]) => {
        const { describe } = await import(url);
        const { glyph, text, age } = describe(status, 100, 95);
        return `${glyph} ${text}` + (age ? ` | ${age}` : '');
    }"""
    url = f"{ui.url}/lab/extensions/sessionkeeper/static/words.js"
    told = await page.evaluate(script, [url, status(**changes)])
    assert told == shown
