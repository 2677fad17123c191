"""A pool whose CPUs differ: what moves between them, as what, and what is said of it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from system.running import Status, System

from sessionkeeper.cpu import this_level

pytestmark = [
    pytest.mark.container,
    pytest.mark.skipif(this_level() is None, reason="levels are those of x86-64"),
]
ONE = ("--nodes", "1", "--runtime", "container")
POORER = ("--cpu-most", "x86-64-v2")
MEMORY = """
import random, threading
import numpy as np

random.seed(3)
noise = np.random.default_rng(4)
array = np.arange(100_000.0)
view = array[::2]
base = 40

def total(x):
    return x + base

diary = open("diary.txt", "w+")
diary.write("one\\n")
gen = (n for n in range(9))
next(gen)
"""
ALLOWED = """
import os, time
from sessionkeeper_replay import replayable

@replayable
def squares(upto):
    for n in range(upto):
        yield n * n

numbers, kept = squares(9), [1]
first = [next(numbers), next(numbers)]
os.makedirs("deep", exist_ok=True)
open("deep/file.txt", "w").write("here")
os.chdir("deep")
"""
LONG = """
print("runs", flush=True)
while not os.path.exists("../go"):
    time.sleep(0.01)
kept.append(2)
"""
LOOK = "total(2), view.sum(), np.shares_memory(array, view), 'gen' in globals()"
LOOKS = "(42, np.float64(2499950000.0), True, False)"
DRAW = "[random.random() for _ in range(3)], noise.normal(size=3).tolist()"
WAITS = """
import threading
import numpy as np

event = threading.Event()
worker = threading.Thread(target=event.wait)
worker.start()
"""
LEVEL = "np.show_runtime(); __import__('os').environ['OPENBLAS_CORETYPE']"


@pytest.fixture
def kernelspecs(tmp_path: Path) -> dict[str, str]:
    """Where a bash kernel is found, beside the installed ones."""
    bash = tmp_path / "jupyter" / "kernels" / "bash"
    bash.mkdir(parents=True)
    argv = [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "bash", "language": "bash"}
    (bash / "kernel.json").write_text(json.dumps(spec))
    return {"JUPYTER_PATH": str(tmp_path / "jupyter")}


async def moved_to(system: System, node: str) -> Status:
    return await system.until(lambda s: s["state"] == "running" and s["node"] == node)


def said(status: Status) -> str:
    return "\n".join(event["text"] for event in status["events"])


async def test_on_a_poorer_cpu_python_goes_on_with_its_variables_and_the_rest_is_said(
    fresh: Callable[..., System], kernelspecs: dict[str, str]
) -> None:
    system = fresh(*ONE, environ=kernelspecs)
    async with system.kernel() as python, system.kernel("bash") as bash:
        await python.ask(MEMORY)
        await bash.ask("x=5")
        await python.ask("import copy; before = random.getstate(), copy.deepcopy(noise)")
        expected = await python.ask(DRAW)
        await python.ask("random.setstate(before[0]); noise = before[1]")
        await system.command("node", "start", "node-2", *POORER)
        await system.save(python)
        await system.kill("node-1")
        await moved_to(system, "node-2")
        assert await python.ask(LOOK) == LOOKS
        assert await python.ask(DRAW) == expected
        await python.ask("diary.write('two\\n'); diary.flush()")
        assert await python.ask("open('diary.txt').read()") == r"'one\ntwo\n'"
        assert "X86_V3" not in (await python.ask(LEVEL)).partition("found")[2].partition("]")[0]
        assert await bash.ask("echo got $x") == "got"
        status = await system.until(lambda s: "was lost; recovered" in said(s))
        for words in (
            "as x86-64-v2) that lacks features of",
            "variables lost: gen (generator)",
            "diary (file opened again",
            "variables of bash are not saved; started anew",
        ):
            assert words in said(status)
        # What was started on the poorer node is held to its level: its image goes anywhere.
        await python.ask(WAITS)
        await system.start_node("node-1")
        await system.save(python)
        await system.drain("node-2")
        assert await python.ask("worker.is_alive(), event.set()") == "(True, None)"


async def test_a_planned_move_to_a_node_without_images_waits_for_the_cell(
    fresh: Callable[..., System],
) -> None:
    system = fresh(*ONE)
    async with system.kernel() as python:
        await python.ask(ALLOWED)
        await system.command("node", "start", "node-2", "--runtime", "process")
        await system.save(python)
        running = await python.send(LONG)
        await running.until(lambda cell: "runs" in cell.text)
        drain = asyncio.create_task(system.attempt("node", "drain", "node-1", "--deadline", "30s"))
        await system.until(lambda s: s["state"] == "moving")
        file = {"type": "file", "format": "text", "content": "go"}
        await system.call("PUT", "/api/contents/go", file)
        await running.end()
        code, words, _ = await drain
        assert (code, "not all of it: node-2 cannot restore process images" in words) == (1, True)
        await moved_to(system, "node-2")
        assert await python.ask("kept, open('file.txt').read()") == "([1, 2], 'here')"
        told = said(await system.running())
        assert "ran again" not in told
        assert "the files of the workspace were taken, and the variables of Python kernels" in told
        assert "numbers (it is run again when it is used next, and its first 2 items are" in told
        assert "lost" not in told
        assert (await python.ask("list(numbers)")).endswith("[4, 9, 16, 25, 36, 49, 64]")


async def test_kernels_held_to_a_baseline_move_to_whatever_reaches_it(
    fresh: Callable[..., System],
) -> None:
    system = fresh(*ONE, "--cpu-baseline", "x86-64-v2")
    async with system.kernel() as python:
        await python.ask(WAITS)
        shown = await python.ask(LEVEL)
        assert shown.endswith("'Nehalem'")
        assert "X86_V3" not in shown.partition("found")[2].partition("]")[0]
        await system.command("node", "start", "node-2", *POORER)
        listed = json.loads(await system.command("node", "list", "--json"))["nodes"]
        assert {n["name"]: (n["cpu_level"], n["cpu_baseline"]) for n in listed} == {
            "node-1": (this_level(), "x86-64-v2"),
            "node-2": ("x86-64-v2", "x86-64-v2"),
        }
        await system.save(python)
        await system.drain("node-1")
        assert await python.ask("worker.is_alive(), event.set()") == "(True, None)"
