"""JupyterLab in Chromium, one tab that is never reloaded, while nodes are drained and killed."""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import async_playwright, expect
from system.counters import CODE, SOME
from system.fixtures import FAILED
from system.lab import ARGS, CHROMIUM, Lab, Notebook
from system.running import System

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.container,
    pytest.mark.browser,
]

# Every notebook is in the workspace's root: each counter has its own files.
COUNT = CODE["python3"].replace("enough", "{0}-enough").replace("numbers.txt", "{0}.txt")

STATE = """
import random, sqlite3, threading, time
dice = random.Random(3)  # its own: JupyterLab has ipykernel use the common one
def squares():
    n = 0
    while True:
        n += 1
        yield n * n
square = squares()
next(square), next(square)
beats = 0
def beat():
    global beats
    while True:
        beats += 1
        time.sleep(0.01)
threading.Thread(target=beat, daemon=True).start()
diary = open("diary.txt", "w+")
diary.write("one")
diary.flush()
db = sqlite3.connect("guests.db")
db.execute("CREATE TABLE guests (name TEXT)")
db.execute("INSERT INTO guests VALUES ('Ada')")
words = ["kept"]
"""
RECALL = """
before = beats
while beats == before: pass
diary.write(" two"); diary.flush()
db.execute("INSERT INTO guests VALUES ('Grace')"); db.commit()
print(words, next(square), open("diary.txt").read(), beats > before)
print(db.execute("SELECT name FROM guests").fetchall(), dice.random())
"""
RECALLED = """['kept'] 9 one two True
[('Ada',), ('Grace',)] 0.23796462709189137
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(shared_systems: list[System], tmp_path_factory) -> AsyncIterator[Lab]:
    if not shared_systems:
        shared_systems.append(System(tmp_path_factory.mktemp("system") / "state").start())
    system = shared_systems[0]
    await system.heal()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        context = await browser.new_context(viewport={"width": 1280, "height": 800})
        yield await Lab.open(system, context)
        await browser.close()


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def evidence(
    request: pytest.FixtureRequest, lab: Lab, artifacts: Path
) -> AsyncIterator[Path]:
    await lab.system.heal()
    yield artifacts
    await lab.keep(artifacts, "end")
    if request.node.stash.get(FAILED, False):
        lab.system.keep(artifacts)


async def start_counter(notebook: Notebook) -> None:
    await notebook.run(0)
    await notebook.counts_to(0, lambda numbers: len(numbers) >= SOME)


async def goes_on(notebook: Notebook) -> None:
    there = len(await notebook.numbers(0))
    await notebook.counts_to(0, lambda numbers: len(numbers) >= there + SOME)


async def stop_counter(notebook: Notebook, name: str) -> tuple[list[int], list[int]]:
    """Tell it that it is enough; the numbers in its file, and those in the notebook."""
    system = notebook.lab.system
    model = {"type": "file", "format": "text", "content": ""}
    await system.call("PUT", f"/api/contents/{name}-enough", model)
    await notebook.end(0)
    file = await system.call("GET", f"/api/contents/{name}.txt?type=file&format=text")
    return [int(line) for line in file["content"].split()], await notebook.numbers(0)


async def check_counter(notebook: Notebook, name: str) -> None:
    """Stop it: no number may be missing or there twice, neither in the notebook nor in the file."""
    file, shown = await stop_counter(notebook, name)
    assert shown == list(range(len(shown)))
    assert file == shown


def other(node: str) -> str:
    return {"node-1": "node-2", "node-2": "node-1"}[node]


async def test_counter_goes_on_in_the_notebook_while_its_node_is_drained(lab: Lab, evidence: Path):
    notebook = await lab.notebook("drained", [COUNT.format("drained")])
    kernel = await notebook.kernel()
    await start_counter(notebook)
    await lab.shows(state="running")
    source = await lab.item.get_attribute("data-node")
    await lab.keep(evidence, "before")
    await lab.system.drain(source, "5s")
    await lab.shows(state="running", node=other(source))
    await goes_on(notebook)
    await lab.keep(evidence, "after")
    await check_counter(notebook, "drained")

    texts = [one["text"] for one in await lab.states()]
    assert any(f"moving from {source} to {other(source)}" in text for text in texts), texts
    await expect(lab.item).to_contain_text(
        re.compile(rf"{other(source)} · moved from {source} in \d+\.\d s")
    )
    assert await notebook.kernel() == kernel
    assert lab.closed(kernel) == []
    await notebook.close()


async def test_next_cell_finds_everything_after_the_plug_was_pulled(lab: Lab, evidence: Path):
    notebook = await lab.notebook("memory", [STATE, RECALL])
    kernel = await notebook.kernel()
    await notebook.run(0)
    await notebook.end(0)
    await notebook.save_session()
    lost = await lab.system.lose()
    await notebook.run(1)
    await lab.shows(state="running", node=other(lost))
    assert await notebook.end(1) == RECALLED
    states = await lab.states()
    assert "recovering" in [one["state"] for one in states]
    assert any(f"{lost} was lost; recovered" in one["text"] for one in states), states
    assert not any("ran again `import random" in one["text"] for one in states), states
    assert await notebook.kernel() == kernel
    assert lab.closed(kernel) == []
    await notebook.close()


async def test_cell_killed_in_its_middle_is_shown_once_and_told(lab: Lab, evidence: Path):
    notebook = await lab.notebook("killed", [COUNT.format("killed")])
    kernel = await notebook.kernel()
    await notebook.save_session()
    await start_counter(notebook)
    lost = await lab.system.lose()
    await lab.shows(state="running", node=other(lost))
    await goes_on(notebook)
    await lab.keep(evidence, "after")
    await check_counter(notebook, "killed")
    toast = lab.page.locator(".Toastify__toast", has_text="ran again")
    await expect(toast.first).to_be_visible()
    await lab.item.click()
    details = lab.page.get_by_test_id("sessionkeeper-details")
    await expect(details).to_contain_text("ran again `import os, time`")
    await expect(details).to_contain_text(f"{lost} was lost; recovered on {other(lost)}")
    await lab.keep(evidence, "details")
    await lab.item.click()
    assert lab.closed(kernel) == []
    await notebook.close()


async def test_file_browser_and_kernel_have_one_workspace(lab: Lab, evidence: Path, tmp_path: Path):
    cells = ["open('made.txt', 'w').write('by the kernel')", "print(open('given.txt').read())"]
    notebook = await lab.notebook("files", cells)
    await notebook.run(0)
    await notebook.end(0)
    await lab.refresh()
    await expect(lab.entry("made.txt")).to_be_visible()

    (tmp_path / "given.txt").write_text("from the reader's machine")
    async with lab.page.expect_file_chooser() as chooser:
        await lab.page.locator('[data-command="filebrowser:upload"], .jp-id-upload').first.click()
    await (await chooser.value).set_files(tmp_path / "given.txt")
    await expect(lab.entry("given.txt")).to_be_visible()
    await lab.system.lose()
    await notebook.show()
    await notebook.run(1)
    assert await notebook.end(1) == "from the reader's machine\n"
    await lab.refresh()
    await expect(lab.entry("made.txt")).to_be_visible()
    await notebook.close()


async def test_status_bar_says_that_it_waits_for_a_node_and_that_it_goes_on(
    lab: Lab, evidence: Path
):
    notebook = await lab.notebook("waits", ["n = 41", "n + 1"])
    kernel = await notebook.kernel()
    await notebook.run(0)
    await notebook.end(0)
    await notebook.save_session()
    for node in ("node-1", "node-2"):
        await lab.system.kill(node)
    await lab.shows(state="waiting")
    await expect(lab.item).to_contain_text("waiting for a node")
    await lab.refresh()
    await expect(lab.entry("waits.ipynb")).to_be_visible()
    await lab.keep(evidence, "while")
    await notebook.run(1)
    await lab.system.start_node("node-1")
    assert await notebook.end(1) == "42"
    await lab.shows(state="running", node="node-1")
    assert lab.closed(kernel) == []
    await notebook.close()


async def away(lab: Lab) -> None:
    """Wait until the status bar says that something is not there."""
    item = await lab.item.element_handle()
    await lab.until("item => item.dataset.state.endsWith('-away')", item)


async def test_tab_and_its_cell_survive_a_restart_of_the_gateway(lab: Lab, evidence: Path):
    notebook = await lab.notebook("gateway", [COUNT.format("gateway")])
    kernel = await notebook.kernel()
    await start_counter(notebook)
    lab.system.kill_part("gateway")
    await away(lab)
    await lab.keep(evidence, "while")
    await lab.shows(state="running")
    await goes_on(notebook)
    await check_counter(notebook, "gateway")
    assert await notebook.kernel() == kernel
    assert lab.closed(kernel) == []
    await notebook.close()


async def test_tab_and_its_cell_survive_a_restart_of_the_ui_server(lab: Lab, evidence: Path):
    notebook = await lab.notebook("server", [COUNT.format("server")])
    kernel = await notebook.kernel()
    await start_counter(notebook)
    lab.system.kill_part("ui")
    await away(lab)
    await lab.keep(evidence, "while")
    await lab.shows(state="running")
    await goes_on(notebook)
    await check_counter(notebook, "server")
    assert await notebook.kernel() == kernel
    await expect(lab.page.locator(".jp-Dialog")).to_have_count(0)
    await notebook.close()


async def test_cell_that_was_sent_to_a_ui_server_just_before_it_died_runs_once(lab: Lab):
    notebook = await lab.notebook("late", ["n = 41", "n += 1; print(n)"])
    await notebook.run(0)
    await notebook.end(0)
    lab.system.kill_part("ui", signal.SIGSTOP)  # its sockets go on taking what comes
    await notebook.run(1)
    await notebook.running(1)
    lab.system.kill_part("ui")
    assert await notebook.end(1) == "42\n"
    await notebook.run(1)
    await expect(notebook.cells.nth(1).locator(".jp-OutputArea-output")).to_have_text("43\n")
    await notebook.close()
