"""What cells show, by a kernel's messages; and how it is put into notebooks."""

from __future__ import annotations

import json
import random
from typing import Any

from jupyter_server.services.kernels.connection.base import (
    deserialize_msg_from_ws_v1,
    serialize_msg_to_ws_v1,
)

from sessionkeeper.ui.placing import judge, place
from sessionkeeper.ui.runs import RUN_BYTES, Runs, is_answer, messages, tag_request


def packed(
    kind: str, parent: dict[str, Any], content: dict[str, Any], channel: str = "iopub"
) -> bytes:
    header = {"msg_id": f"{random.random()}", "msg_type": kind}
    parts = [json.dumps(part).encode() for part in (header, parent, {}, content)]
    return serialize_msg_to_ws_v1(parts, channel)


class Kernel:
    """Says things to `runs`."""

    def __init__(self) -> None:
        self.runs = Runs()
        self.count = 0

    def say(self, cell: str, kind: str, channel: str = "iopub", ask: str = "", **content: Any):
        parent = {
            "msg_id": ask or f"ask-{cell}",
            "msg_type": "execute_request",
            "sessionkeeper_cell": cell,
            "sessionkeeper_notebook": True,
        }
        self.runs.take(self.runs.cursor + 1, packed(kind, parent, content, channel))

    def begin(self, cell: str, ask: str = "") -> None:
        self.count += 1
        self.say(cell, "status", execution_state="busy", ask=ask)
        self.say(cell, "execute_input", code=f"code of {cell}", execution_count=self.count, ask=ask)

    def end(self, cell: str, ask: str = "") -> None:
        self.say(cell, "status", execution_state="idle", ask=ask)

    def print(self, cell: str, text: str) -> None:
        self.say(cell, "stream", name="stdout", text=text)

    def run(self, cell: str):
        (found,) = [run for run in self.runs if run.cell == cell]
        return found


def request(metadata: dict[str, Any]) -> bytes:
    header = {"msg_id": "m", "msg_type": "execute_request", "session": "s"}
    parts = [json.dumps(part).encode() for part in (header, {}, metadata, {"code": "1"})]
    return serialize_msg_to_ws_v1(parts, "shell")


def notebook(*ids: str) -> dict[str, Any]:
    cells = [
        {"id": i, "cell_type": "code", "source": "", "outputs": [], "execution_count": None}
        for i in ids
    ]
    return {"nbformat": 4, "nbformat_minor": 5, "cells": [{**c, "metadata": {}} for c in cells]}


def words(cell: dict[str, Any]) -> str:
    return "".join(output.get("text", "") for output in cell["outputs"])


def test_request_of_a_cell_carries_its_id_where_the_kernel_repeats_it():
    tagged = tag_request(request({"cellId": "c", "deletedCells": []}))
    channel, parts = deserialize_msg_from_ws_v1(tagged)
    header = json.loads(parts[0])
    assert channel == "shell"
    assert (header["sessionkeeper_cell"], header["sessionkeeper_notebook"]) == ("c", True)
    assert header["msg_id"] == "m"
    assert (
        parts[1:] == deserialize_msg_from_ws_v1(request({"cellId": "c", "deletedCells": []}))[1][1:]
    )


def test_request_without_a_cell_is_passed_on_as_it_is():
    assert tag_request(request({})) == request({})
    assert tag_request(request({"cellId": 5})) == request({"cellId": 5})


def test_only_an_answer_is_one():
    assert is_answer(packed("input_reply", {}, {"value": "x"}, "stdin"))
    assert not is_answer(packed("execute_request", {}, {"code": "input_reply"}, "shell"))


def test_output_is_cleared_with_the_next_one_if_it_waits():
    kernel = Kernel()
    kernel.begin("a")
    kernel.print("a", "one")
    kernel.say("a", "clear_output", wait=True)
    assert words({"outputs": kernel.run("a").shown()}) == "one"
    kernel.print("a", "two")
    assert words({"outputs": kernel.run("a").shown()}) == "two"
    kernel.say("a", "clear_output", wait=False)
    assert kernel.run("a").shown() == []


def test_display_changes_in_the_cell_that_shows_it():
    kernel = Kernel()
    shown = {"data": {"text/plain": "1"}, "metadata": {}, "transient": {"display_id": "d"}}
    kernel.begin("a")
    kernel.say("a", "display_data", **shown)
    kernel.end("a")
    kernel.run("a").in_file = True
    kernel.begin("b")
    kernel.say("b", "update_display_data", **{**shown, "data": {"text/plain": "2"}})
    assert kernel.run("a").shown()[0]["data"] == {"text/plain": "2"}
    assert not kernel.run("a").in_file


def test_what_a_display_became_while_its_file_was_written_is_still_to_be_written():
    kernel = Kernel()
    shown = {"data": {"text/plain": "1"}, "metadata": {}, "transient": {"display_id": "d"}}
    kernel.begin("a")
    kernel.say("a", "display_data", **shown)
    kernel.end("a")
    run = kernel.run("a")
    placed = run.last
    kernel.say("b", "update_display_data", **{**shown, "data": {"text/plain": "2"}})
    run.filed(placed)
    assert not run.in_file
    run.filed(run.last)
    assert run.in_file


def test_run_that_was_aborted_before_it_began_leaves_what_there_was():
    kernel = Kernel()
    kernel.say("a", "status", execution_state="busy")
    kernel.end("a")
    assert list(kernel.runs) == []


def test_run_after_a_rollback_is_shown_once():
    kernel = Kernel()
    kernel.begin("a")
    kernel.print("a", "0\n1\n")
    kernel.say("a", "clear_output", wait=False)
    kernel.begin("a")
    kernel.print("a", "0\n1\n2\n")
    kernel.end("a")
    assert words({"outputs": kernel.run("a").shown()}) == "0\n1\n2\n"


def test_what_an_output_widget_shows_is_not_the_cells():
    kernel = Kernel()
    kernel.begin("a")
    kernel.say("a", "comm_open", comm_id="w", data={"state": {"msg_id": ""}})
    kernel.say("a", "comm_msg", comm_id="w", data={"state": {"msg_id": "ask-a"}})
    kernel.print("a", "inside")
    kernel.say("a", "comm_msg", comm_id="w", data={"state": {"msg_id": ""}})
    kernel.print("a", "outside")
    assert words({"outputs": kernel.run("a").shown()}) == "outside"


def test_memory_is_bounded_and_it_is_said_what_is_left_out():
    kernel = Kernel()
    kernel.begin("a")
    line = "x" * 999 + "\n"
    for number in range(50):
        kernel.print("a", f"{number}\n" + line * 1000)
    shown = words({"outputs": kernel.run("a").shown()})
    assert len(shown) <= RUN_BYTES + 2_000_000
    assert shown.startswith("0\n")
    assert "49\n" in shown[-2_000_000:]
    assert "MB of output are left out here]" in shown


def test_new_page_hears_what_an_old_one_knows():
    kernel = Kernel()
    kernel.begin("a")
    kernel.print("a", "one\n")
    kernel.print("a", "two\n")
    kernel.say("a", "input_request", channel="stdin", prompt="?")
    page = Runs()
    said = list(messages(kernel.run("a")))
    for cursor, message in enumerate(said, 1):
        page.take(cursor, message)
    (run,) = page
    assert run.shown() == kernel.run("a").shown()
    assert (run.count, run.ended, run.asks) == (1, False, said[-1])


def test_mark_stays_before_what_no_file_has():
    kernel = Kernel()
    kernel.begin("a")
    kernel.end("a")
    kernel.begin("b")
    assert kernel.runs.mark == 0
    kernel.run("a").in_file = True
    assert kernel.runs.mark == 3
    kernel.run("b").in_file = True
    assert kernel.runs.mark == kernel.runs.cursor


def test_cells_are_found_by_source_in_notebooks_without_ids():
    kernel = Kernel()
    kernel.begin("a")
    kernel.print("a", "out")
    kernel.end("a")
    old = notebook("x", "y")
    for cell, source in zip(old["cells"], ("code of a", "other"), strict=True):
        del cell["id"]
        cell["source"] = source
    place(old, kernel.runs, may_add=True)
    assert [words(cell) for cell in old["cells"]] == ["out", ""]


def test_what_may_be_known_already_changes_no_cell_that_shows_anything():
    kernel = Kernel()
    kernel.runs.tentative_until = 100
    for cell in ("a", "b"):
        kernel.begin(cell)
        kernel.print(cell, "again")
        kernel.end(cell)
    there = notebook("a", "b")
    there["cells"][0] |= {"execution_count": 9}
    place(there, kernel.runs, may_add=True)
    assert [words(cell) for cell in there["cells"]] == ["", "again"]


def test_cell_that_a_saved_notebook_does_not_have_was_deleted():
    kernel = Kernel()
    kernel.begin("a")
    settled = judge(notebook("b"), kernel.runs, lambda run: False)
    assert [run.cell for run in settled] == ["a"]


def test_tab_that_had_all_of_a_run_has_the_last_word():
    kernel = Kernel()
    kernel.begin("a")
    kernel.print("a", "out")
    kernel.end("a")
    stale, cleared = notebook("a"), notebook("a")
    judge(stale, kernel.runs, lambda run: False)
    assert words(stale["cells"][0]) == "out"
    judge(cleared, kernel.runs, lambda run: True)
    assert words(cleared["cells"][0]) == ""
