"""Without containers: kernels are plain processes and their variables are saved between two cells.

The same as with containers as far as that goes: what is different is said to the user.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from system.counters import Counter
from system.fixtures import end, evidence
from system.folder import Folder
from system.running import PROGRAM, Status, System

ROOT = Path(__file__).parents[2]
USER = 61002
AS_USER = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--")

MEMORY = """
import os, random, threading
import numpy as np

random.seed(3)
noise = np.random.default_rng(4)
drawn = [random.random(), noise.normal()]

class Pair:
    def __init__(self, one, two):
        self.one, self.two = one, two
    def swapped(self):
        return Pair(self.two, self.one)

def total(pair):
    return pair.one + pair.two

pair = Pair(1, 2)
words = {"shared": [1, 2]}
alias = words["shared"]
os.makedirs("deep", exist_ok=True)
diary = open("deep/diary.txt", "w+")
diary.write("one\\n")
gen = (n for n in range(9))
next(gen)
os.chdir("deep")
"""
DRAW = "[random.random() for _ in range(3)], noise.normal(size=3).tolist()"


def since(status: Status, before: Status) -> str:
    """What was said after `before`."""
    known = {(e["at"], e["text"]) for e in before["events"]}
    return "\n".join(e["text"] for e in status["events"] if (e["at"], e["text"]) not in known)


FLAGS = ("--lease-seconds", "5")  # who is not root gets the process runtime without asking
BASH = ("-m", "bash_kernel")
NESTED = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import rich'], check=True)"


class UserSystem(System):
    """A system of somebody who is not root: nodes are process groups."""

    def _launch(self) -> subprocess.Popen[str]:
        place = ("--state", str(self.state.path), "--port", str(self.port))
        return subprocess.Popen(
            [*AS_USER, python(), *PROGRAM[1:], "up", *place, *self.flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environ,
            cwd="/",
        )


def python() -> str:
    """An interpreter that any user may run, nested too."""
    for candidate in (sys.executable, f"/usr/bin/python3.{sys.version_info[1]}"):
        command = [*AS_USER, candidate, "-c", NESTED]
        if subprocess.run(command, capture_output=True, env=paths(), cwd="/").returncode == 0:
            return candidate
    pytest.skip("no interpreter here can be run by another user")


def paths() -> dict[str, str]:
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    return {"PYTHONPATH": f"{ROOT}:{packages}", "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture(scope="module")
def users_home() -> Iterator[Path]:
    """A directory of the user's, with nothing closed on the way to it."""
    place = Path("/tmp") / f"sessionkeeper-test-{os.getpid()}-{USER}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    os.chown(place, USER, USER)
    yield place
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def shared(users_home: Path) -> Iterator[System]:
    """The system these tests share: of a user who is not root."""
    if os.geteuid() == 0:
        environ = {**paths(), "HOME": str(users_home)}
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
            environ[name] = str(users_home / name.lower())
        environ["IPYTHONDIR"] = str(users_home / "ipython")
        one = UserSystem(users_home / "state", *FLAGS, environ=environ)
    else:
        one = System(users_home / "state", *FLAGS)
    specification = {"argv": [python(), *BASH, "-f", "{connection_file}"], "display_name": "Bash"}
    bash = users_home / "jupyter_data_dir" / "kernels" / "bash"
    bash.mkdir(parents=True)
    (bash / "kernel.json").write_text(json.dumps({**specification, "language": "bash"}))
    if os.geteuid() == 0:
        for path in users_home.rglob("*"):
            os.chown(path, USER, USER)
    yield one.start()
    end(one)


@pytest_asyncio.fixture
async def system(shared: System, request: pytest.FixtureRequest, artifacts: Path):
    await shared.heal()
    with evidence(request, artifacts, shared):
        yield shared


async def test_next_cell_finds_its_variables_and_is_told_of_the_others(
    system: System, folder: Folder
):
    async with system.kernel(path=folder.name) as kernel:
        await kernel.ask(MEMORY)
        wanted = await kernel.ask(f"state = random.getstate(), noise.bit_generator.state\n{DRAW}")
        await system.cell(kernel, "random.setstate(state[0]); noise.bit_generator.state = state[1]")
        before = await system.running()
        assert any("gen (generator)" in w for w in before["warnings"])
        await system.lose()
        assert await kernel.ask("total(pair.swapped()), type(pair) is Pair") == "(3, True)"
        assert await kernel.ask("alias.append(3); words") == "{'shared': [1, 2, 3]}"
        assert await kernel.ask(DRAW) == wanted
        assert await kernel.ask("diary.tell(), os.path.basename(os.getcwd())") == "(4, 'deep')"
        await kernel.ask("diary.write('two\\n'); diary.flush()")
        assert await kernel.ask("open('diary.txt').read()") == "'one\\ntwo\\n'"
        said = since(await system.running(), before)
        assert "variables lost: gen (generator)" in said
        assert "degraded: diary (" in said
        assert "NameError" in (await kernel.run("gen")).shown
        assert kernel.connected
        assert [k["id"] for k in await system.call("GET", "/api/kernels")] == [kernel.id]


async def test_cell_killed_in_its_middle_runs_again_with_files_as_they_were(
    system: System, folder: Folder
):
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, "mark = 'kept'")
        before = await system.running()
        counter = await Counter.start(kernel, folder)
        lost = await system.lose()
        after = await system.recovered(before["epoch"])
        await counter.goes_on()
        await counter.check()
        assert await kernel.ask("mark") == "'kept'"
        number = before["checkpoint"]["number"]
        said = since(await system.running(), before)
        assert f"{lost} was lost; recovered on {after['node']} from checkpoint {number}" in said
        assert "ran again `" in said
        assert kernel.connected


async def test_first_cell_of_a_kernel_killed_in_its_middle_runs_again(
    system: System, folder: Folder
):
    async with system.kernel(path=folder.name) as kernel:
        before = await system.running()
        counter = await Counter.start(kernel, folder)
        await system.lose()
        await system.recovered(before["epoch"])
        await counter.goes_on()
        await counter.check()


async def test_drain_between_cells_moves_every_kernel(system: System, folder: Folder):
    second = await Folder(system, f"{folder.name}-2").create()
    async with system.kernel(path=folder.name) as one, system.kernel(path=second.name) as two:
        await one.ask("a = [1]; b = a")
        await two.ask("c = 2")
        before = await system.running()
        assert "moved default" in await system.drain(before["node"])
        after = await system.running()
        assert after["node"] != before["node"]
        assert await one.ask("b.append(3); a") == "[1, 3]"
        assert await two.ask("c") == "2"
        assert "went back" not in since(after, before)


async def test_a_kernel_that_can_no_longer_be_saved_comes_back_as_it_was_then_and_the_user_knows(
    system: System, folder: Folder
):
    second = await Folder(system, f"{folder.name}-2").create()
    async with system.kernel(path=folder.name) as one, system.kernel(path=second.name) as two:
        await system.cell(one, "a = 1")
        await system.cell(one, "a = 2; get_ipython().user_ns_hidden = None")
        await system.cell(two, "b = 3")
        before = await system.running()
        assert any("what it computed since" in warning for warning in before["warnings"])
        await system.lose()
        assert await one.ask("a") == "1"
        assert await two.ask("b") == "3"
        assert "its variables are those of" in since(await system.running(), before)


async def test_short_cell_ends_before_the_node_goes_and_is_not_run_again(
    system: System, folder: Folder
):
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, "import os, time\nn = 0")
        counter = await Counter.start(kernel, folder)
        before = await system.running()
        moving = asyncio.create_task(system.drain(before["node"], deadline="30s"))
        await system.until(lambda s: s["state"] == "moving")
        await counter.goes_on()
        await counter.check()  # it ends
        assert "moved default" in await moving
        assert await kernel.ask("i") == str(len(counter.cell.numbers))
        said = since(await system.running(), before)
        assert "moved from" in said
        assert "ran again" not in said


async def test_long_cell_is_rolled_back_at_the_deadline_and_the_user_is_told(
    system: System, folder: Folder
):
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, "n = 3")
        counter = await Counter.start(kernel, folder)
        before = await system.running()
        # Whether it is elsewhere by the deadline depends on the machine.
        await system.attempt("node", "drain", before["node"], "--deadline", "5s")
        await system.recovered(before["epoch"])
        await counter.goes_on()
        await counter.check()
        assert await kernel.ask("n") == "3"
        said = since(await system.running(), before)
        assert "the python3 kernel runs a cell" in said
        assert "leaving without a last checkpoint" in said
        assert "ran again `" in said


async def test_no_checkpoint_when_nothing_changed_or_a_cell_runs(system: System, folder: Folder):
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, "n = 1")
        number = await system.number()
        counter = await Counter.start(kernel, folder)
        assert await system.number() == number
        await folder.write("enough", "")
        await counter.cell.end()
        await system.saved(number)


async def test_agent_that_crashes_leaves_kernels_running(system: System, folder: Folder):
    async with system.kernel(path=folder.name) as kernel:
        counter = await Counter.start(kernel, folder)
        before = await system.running()
        system.kill_agent(before["node"])
        await counter.goes_on()
        await counter.check()
        assert (await system.running())["epoch"] == before["epoch"]
        await system.cell(kernel, "n = 8")
        await system.lose()
        assert await kernel.ask("n") == "8"


async def test_kernel_of_another_language_starts_anew_and_the_user_is_told(
    system: System, folder: Folder
):
    async with system.kernel("bash", path=folder.name) as kernel:
        await system.cell(kernel, "n=4; echo four > four.txt")
        before = await system.running()
        assert any("bash kernels cannot be saved" in w for w in before["warnings"])
        counter = await Counter.start(kernel, folder, "bash")
        await system.lose()
        cell = await counter.cell.end()
        assert "started anew" in cell.shown
        assert await kernel.ask("echo ${n:-gone}; cat four.txt") == "gone\nfour"
        assert "its variables are lost" in since(await system.running(), before)


async def test_user_restarts_the_kernel_and_old_variables_do_not_come_back(
    system: System, folder: Folder
):
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, "n = 1")
        before = await system.running()
        await system.call("POST", f"/api/kernels/{kernel.id}/restart")
        await system.lose()
        await system.recovered(before["epoch"])
        assert "NameError" in (await kernel.run("n")).shown


# The last on that system: after a pause of ten seconds no checkpoint is due for fifty.
async def test_an_object_whose_saving_hangs_stops_neither_other_kernels_nor_a_drain(
    system: System, folder: Folder
):
    second = await Folder(system, f"{folder.name}-2").create()
    async with system.kernel(path=folder.name) as one, system.kernel(path=second.name) as two:
        await two.ask("q = 1")
        await one.ask(
            "import threading\nclass Hangs:\n    def __reduce__(self):\n"
            "        threading.Event().wait()\nh, z = Hangs(), 6"
        )
        assert await two.ask("q = 2; q") == "2"
        before = await system.running()
        await system.drain(before["node"])
        after = await system.running()
        assert "variables lost: h (Hangs)" in since(after, before)
        assert await one.ask("z") == "6"
        assert await two.ask("q") == "2"


@pytest.mark.needs("root", "ip", "nft")
async def test_nodes_with_namespaces_of_their_own_do_the_same(fresh: Callable[..., System]):
    system = fresh("--runtime", "process")
    async with system.kernel() as kernel:
        await system.cell(kernel, "a = [1]; b = a; f = open('a.txt', 'w')")
        before = await system.running()
        assert (before["runtime"], before["engine"]) == ("process", "namespace")
        await system.lose()
        assert await kernel.ask("b.append(2); f.write('two'); f.flush(); a") == "[1, 2]"
        await system.heal()
        await system.drain((await system.running())["node"])
        assert await kernel.ask("f.tell(), open('a.txt').read(), b is a") == "(3, 'two', True)"
        assert kernel.connected
