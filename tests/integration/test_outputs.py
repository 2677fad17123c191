"""What a cell shows is in its notebook, whether somebody looked on or not."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from system.paper import Paper, numbers, text
from system.running import System

pytestmark = pytest.mark.container

RICH = """
from IPython.display import clear_output, display
print("cleared")
clear_output(wait=True)
print("a", end=""); print("b")
shown = display("first", display_id="d")
"""


@pytest_asyncio.fixture
async def paper(system: System, request: pytest.FixtureRequest) -> AsyncIterator[Paper]:
    paper = Paper(system, f"{request.node.name[:30].strip('_')}.ipynb")
    yield paper
    if paper.session_id:
        await paper.close()


async def test_cells_that_end_without_a_browser_are_in_the_file(paper: Paper):
    await paper.create(["", "", "1/0", "never"])
    codes = [paper.waits() + RICH, "shown.update('second'); 41 + 1", "1/0", "never"]
    tab = await paper.tab()
    for number, code in enumerate(codes):
        cell = await tab.send(code, cell=f"c{number}")
        if number == 0:
            await cell.until(lambda one: "execute_input" in one.types)
    await tab.close()
    await paper.go()

    cells = await paper.until(lambda cells: cells[2]["outputs"] and "second" in text(cells[0]))
    first, second, third, fourth = cells
    assert first["outputs"] == [
        {"output_type": "stream", "name": "stdout", "text": ["ab\n"]},
        {"output_type": "display_data", "metadata": {}, "data": {"text/plain": ["'second'"]}},
    ]
    assert text(second) == "42"
    assert text(third) == "ZeroDivisionError: division by zero"
    assert [cell["execution_count"] for cell in cells] == [1, 2, 3, None]
    assert fourth["outputs"] == []  # aborted: it has not run


async def test_page_opened_while_a_cell_runs_is_told_all_of_it_once(paper: Paper):
    await paper.create([""])
    tab = await paper.tab()
    code = (
        f"for n in range(5): print(n, flush=True)\n{paper.waits()}\nfor n in range(5, 9): print(n)"
    )
    cell = await tab.send(code, cell="c0")
    await numbers(cell, 5)
    await tab.close()

    assert text((await paper.opened())[0]) == "0\n1\n2\n3\n4\n"
    again = paper.system.client(paper.kernel_id)
    seen = again.follow(cell)
    second = await again.open(busy=True)
    await numbers(seen, 5)
    third = paper.system.client(paper.kernel_id)
    seen_too = third.follow(cell)
    await third.open(busy=True)
    await paper.go()
    for one in (seen, seen_too):
        assert await numbers(one, 9) == list(range(9))
        assert "execute_input" in one.types
    await second.close()
    await third.close()
    (stored,) = await paper.until(lambda cells: cells[0]["execution_count"])
    assert text(stored) == "".join(f"{n}\n" for n in range(9))


async def test_outputs_survive_the_loss_of_gateway_and_ui_server(paper: Paper):
    await paper.create(["", ""])
    tab = await paper.tab()
    cell = await tab.send(f"print('begins', flush=True)\n{paper.waits()}print('ends')", cell="c0")
    await cell.until(lambda one: one.text)
    await tab.send("6 * 7", cell="c1")
    # Before there is an answer to a later one, nobody has promised to keep it.
    await (await tab.request("kernel_info_request", {}, channel="control")).until(
        lambda one: one.reply is not None
    )
    await tab.close()
    paper.system.kill_part("gateway")
    paper.system.kill_part("ui")
    await paper.system.running()
    await paper.system.until(lambda status: status["state"] == "running", server="ui")
    await paper.go()
    cells = await paper.until(lambda cells: cells[1]["outputs"])
    assert [text(cell) for cell in cells] == ["begins\nends\n", "42"]


async def test_what_a_tab_saves_keeps_what_it_did_not_know_and_loses_what_was_cleared(paper: Paper):
    await paper.create(["", ""])
    opened = await paper.model(content=1, hash=1)
    tab = await paper.tab()
    cell = await tab.send(paper.waits() + "print('one')", cell="c0")
    await cell.until(lambda one: "execute_input" in one.types)
    await tab.close()
    await paper.go()
    await paper.until(lambda cells: cells[0]["outputs"])
    # No tab is asked whether its file or the server's counts.
    now = await paper.model(content=0, hash=1)
    assert (now["hash"], now["last_modified"]) == (opened["hash"], opened["last_modified"])

    older = opened["content"]
    older["cells"][1]["source"] = "edited"
    await paper.save(older)
    first, second = await paper.file()
    assert text(first) == "one\n"
    assert first["execution_count"] == 1
    assert second["source"] == ["edited"]

    page = (await paper.model())["content"]
    page["cells"][0] |= {"outputs": [], "execution_count": None}
    await paper.save(page)
    assert (await paper.file())[0]["outputs"] == []
    assert (await paper.opened())[0]["outputs"] == []


async def test_cell_that_no_file_has_yet_is_there_with_its_output(paper: Paper):
    await paper.create(["1", "2"])
    tab = await paper.tab()
    await (await tab.send("1", cell="c0")).end()
    await (await tab.send("print('new')", cell="unsaved")).end()
    await tab.close()
    cells = await paper.until(lambda cells: len(cells) == 3)
    assert [cell["id"] for cell in cells] == ["c0", "unsaved", "c1"]
    assert cells[1]["source"] == ["print('new')"]
    assert text(cells[1]) == "new\n"


async def test_question_of_a_cell_is_asked_again_in_a_new_page(paper: Paper):
    await paper.create([""])
    tab = await paper.tab()
    cell = await tab.send("print(input('name? '))", cell="c0", allow_stdin=True)
    await cell.until(lambda one: "input_request" in one.types)
    await tab.close()
    again = paper.system.client(paper.kernel_id)
    seen = again.follow(cell)
    await again.open(busy=True)
    await seen.until(lambda one: "input_request" in one.types)
    await again.answer("Ada")
    await seen.until(lambda one: one.text == "Ada\n")
    await again.close()
    (stored,) = await paper.until(lambda cells: cells[0]["outputs"])
    assert text(stored) == "Ada\n"
