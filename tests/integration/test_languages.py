"""Any language: what a node takes with it comes back the same in Python, bash and R."""

from __future__ import annotations

import pytest
from system.counters import Counter
from system.folder import Folder
from system.running import System

pytestmark = pytest.mark.container

REMEMBER = {
    "python3": "n = 41\nf = open('log.txt', 'w')\nprint('one', file=f, flush=True)",
    "bash": "n=41; exec 4> log.txt; echo one >&4",
    "ir": "n <- 41; f <- file('log.txt', 'wt'); writeLines('one', f); flush(f)",
}
RECALL = {
    "python3": "print(n + 1); print('two', file=f, flush=True)",
    "bash": "echo $((n + 1)); echo two >&4",
    "ir": "cat(n + 1, fill = TRUE); writeLines('two', f); flush(f)",
}

languages = pytest.mark.parametrize(
    "language",
    [
        "python3",
        pytest.param("bash", marks=pytest.mark.needs("bash")),
        pytest.param("ir", marks=pytest.mark.needs("r")),
    ],
)


@languages
async def test_running_cell_goes_on_after_a_drain(system: System, folder: Folder, language: str):
    async with system.kernel(language, path=folder.name) as kernel:
        counter = await Counter.start(kernel, folder, language)
        await system.drain((await system.running())["node"])
        await counter.goes_on()
        await counter.check()
        assert kernel.connected


@languages
async def test_variables_and_open_file_are_there_after_a_kill(
    system: System, folder: Folder, language: str
):
    async with system.kernel(language, path=folder.name) as kernel:
        await system.cell(kernel, REMEMBER[language])
        await system.lose()
        assert (await kernel.run(RECALL[language])).text.strip() == "42"
        assert (await folder.read("log.txt")).split() == ["one", "two"]
        assert kernel.connected


@languages
async def test_cell_killed_in_its_middle_is_run_again_and_shown_once(
    system: System, folder: Folder, language: str
):
    async with system.kernel(language, path=folder.name) as kernel:
        await system.cell(kernel, REMEMBER[language])
        before = await system.running()
        counter = await Counter.start(kernel, folder, language)
        await system.lose()
        await system.recovered(before["epoch"])
        await counter.goes_on()
        await counter.check()
        assert (await kernel.run(RECALL[language])).text.strip() == "42"
