"""A node is gone without notice: what ran on it is back from its newest checkpoint, and the user
is told what that meant."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from system.counters import Counter
from system.folder import Folder
from system.running import Status, System

pytestmark = pytest.mark.container

MEMORY = """
import random, sqlite3, threading, time
import numpy as np

random.seed(3)
noise = np.random.default_rng(4)
drawn = [random.random(), noise.normal()]


def squares():
    n = 0
    while True:
        n += 1
        yield n * n


square = squares()
first = [next(square), next(square)]

beats = 0


def beat():
    global beats
    while True:
        beats += 1
        time.sleep(0.01)


heart = threading.Thread(target=beat, daemon=True)
heart.start()

diary = open("diary.txt", "w+")
diary.write("one\\n")
diary.flush()

db = sqlite3.connect("guests.db")
db.execute("CREATE TABLE guests (name TEXT)")
db.execute("INSERT INTO guests VALUES ('Ada')")
db.commit()
db.execute("INSERT INTO guests VALUES ('Grace')")

words = {"shared": [1, 2]}
alias = words["shared"]
"""


def since(status: Status, before: Status) -> str:
    """What was said after `before`."""
    known = {(e["at"], e["text"]) for e in before["events"]}
    return "\n".join(e["text"] for e in status["events"] if (e["at"], e["text"]) not in known)


async def test_next_cell_finds_everything_as_it_was(system: System, folder: Folder):
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, MEMORY)
        before = int(await system.cell(kernel, "beats"))
        status = await system.running()
        await system.lose()
        assert await kernel.ask("next(square), next(square)") == "(9, 16)"
        assert await kernel.ask("alias.append(3); words") == "{'shared': [1, 2, 3]}"
        assert await kernel.ask("diary.tell(), diary.name, diary.closed") == (
            "(4, 'diary.txt', False)"
        )
        await kernel.ask("diary.write('two\\n'); diary.flush()")
        assert await folder.read("diary.txt") == "one\ntwo\n"
        now = int(await kernel.ask("beats"))
        assert now >= before
        assert await kernel.ask(f"while beats < {now + 5}: pass\nheart.is_alive()") == "True"
        assert kernel.connected
        assert [k["id"] for k in await system.call("GET", "/api/kernels")] == [kernel.id]
        # It is the memory that came back: nothing was run again to get there.
        assert "ran again" not in since(await system.running(), status)


async def test_random_numbers_go_on_as_if_undisturbed(system: System, folder: Folder):
    draw = "[random.random() for _ in range(3)], noise.normal(size=3).tolist()"
    async with system.kernel(path=folder.name) as undisturbed:
        await undisturbed.ask(MEMORY)
        wanted = await undisturbed.ask(draw)
    second = await Folder(system, f"{folder.name}-2").create()
    async with system.kernel(path=second.name) as kernel:
        await system.cell(kernel, MEMORY)
        await system.lose()
        assert await kernel.ask(draw) == wanted


async def test_open_database_is_in_its_transaction_and_can_be_written(
    system: System, folder: Folder
):
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, MEMORY)
        await system.lose()
        assert await kernel.ask("db.in_transaction") == "True"
        assert await kernel.ask("db.execute('SELECT count(*) FROM guests').fetchone()") == "(2,)"
        await kernel.ask("db.rollback()")
        await kernel.ask("db.execute(\"INSERT INTO guests VALUES ('Alan')\"); db.commit()")
        others = "sqlite3.connect('guests.db').execute('SELECT name FROM guests').fetchall()"
        assert await kernel.ask(others) == "[('Ada',), ('Alan',)]"


async def test_cell_killed_in_its_middle_is_run_again_and_shown_once(
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


async def test_cell_killed_after_a_checkpoint_in_its_middle_goes_on_from_there(
    system: System, folder: Folder
):
    async with system.kernel(path=folder.name) as kernel:
        counter = await Counter.start(kernel, folder)
        await system.drain((await system.running())["node"])
        await system.heal()
        before = await system.running()
        await counter.goes_on()
        await system.lose()
        await system.recovered(before["epoch"])
        await counter.goes_on()
        await counter.check()
        assert "went on in `" in since(await system.running(), before)


async def test_interrupted_cell_does_not_go_on_when_its_kernel_is_back_in_its_middle(
    system: System, folder: Folder
):
    async with system.kernel(path=folder.name) as kernel:
        cell = await kernel.send(
            "import time\nn = 0\nwhile True:\n    n += 1\n    print(n)\n    time.sleep(0.01)"
        )
        await cell.until(lambda cell: bool(cell.numbers))
        await system.drain((await system.running())["node"])
        await system.heal()
        before = await system.running()
        moved = len(cell.numbers)
        await cell.until(lambda cell: len(cell.numbers) > moved)
        await system.call("POST", f"/api/kernels/{kernel.id}/interrupt", {})
        await cell.end()
        assert "KeyboardInterrupt" in cell.shown
        await system.lose()
        await system.recovered(before["epoch"])
        assert await kernel.ask("6 * 7") == "42"
        assert cell.types.count("execute_reply") == 1


async def test_first_cell_of_a_kernel_killed_in_its_middle_is_run_again(
    system: System, folder: Folder
):
    """No checkpoint has the kernel: it begins anew, with all that was ever asked of it."""
    async with system.kernel(path=folder.name) as kernel:
        before = await system.running()
        counter = await Counter.start(kernel, folder)
        await system.lose()
        await system.recovered(before["epoch"])
        await counter.goes_on()
        await counter.check()
        assert kernel.connected


async def test_cell_that_just_ended_has_its_effect_once(system: System, folder: Folder):
    """Killed with or without a checkpoint of it: nobody can tell from outside."""
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, "n = 0")
        for turn in range(1, 4):
            cell = await kernel.run("n += 1\nprint(n, file=open('n.txt', 'a'))\nn")
            await system.lose()
            assert await kernel.ask("n") == str(turn)
            assert cell.shown == str(turn)
            assert await folder.numbers("n.txt") == list(range(1, turn + 1))
            await system.heal()


async def test_cells_in_the_queue_are_run_in_their_order(system: System, folder: Folder):
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, "order = []")
        before = await system.running()
        counter = await Counter.start(kernel, folder)
        queued = [await kernel.send(f"order.append({n}); print(order)") for n in range(3)]
        await system.lose()
        await system.recovered(before["epoch"])
        await counter.check()
        shown = [(await cell.end()).text.strip() for cell in queued]
        assert shown == ["[0]", "[0, 1]", "[0, 1, 2]"]


async def test_two_kernels_are_back_from_the_same_moment(system: System, folder: Folder):
    second = await Folder(system, f"{folder.name}-2").create()
    async with system.kernel(path=folder.name) as one, system.kernel(path=second.name) as two:
        await system.cell(one, "a = 1")
        await system.cell(two, "b = 2")
        before = await system.running()
        counter = await Counter.start(one, folder)
        await system.lose()
        assert await two.ask("b") == "2"
        await system.recovered(before["epoch"])
        await counter.goes_on()
        await counter.check()
        assert await one.ask("a") == "1"


async def test_stop_instead_of_replay_reports_the_cell_and_runs_nothing(
    fresh: Callable[..., System],
):
    system = fresh("--on-rollback", "stop")
    folder = await Folder(system, "stop").create()
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, "n = 7")
        before = await system.running()
        counter = await Counter.start(kernel, folder)
        await system.lose()
        cell = await counter.cell.end()
        assert cell.reply["status"] in {"error", "aborted"}
        assert "on_rollback=stop" in cell.shown
        assert await kernel.ask("n") == "7"
        assert "numbers.txt" not in await folder.names()
        assert "not run again (on_rollback=stop): `" in since(await system.running(), before)


async def test_second_node_lost_while_the_session_recovers(system: System, folder: Folder):
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, "n = 1")
        first = await system.lose()
        await system.until(lambda s: s["state"] == "recovering")
        await system.kill({"node-1": "node-2", "node-2": "node-1"}[first])
        cell = await kernel.send("n + 1")
        await system.until(lambda s: s["state"] in {"waiting", "failed"})
        await system.start_node(first)
        await cell.end()
        assert cell.shown == "2"


async def test_gateway_killed_in_mid_cell_loses_nothing(system: System, folder: Folder):
    async with system.kernel(path=folder.name) as kernel:
        counter = await Counter.start(kernel, folder)
        epoch = (await system.running())["epoch"]
        system.kill_part("gateway")
        await counter.goes_on()
        assert (await system.running())["epoch"] == epoch
        await counter.check()
        assert kernel.connected


async def test_gateway_and_node_killed_together(system: System, folder: Folder):
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, "n = 5")
        counter = await Counter.start(kernel, folder)
        lost = (await system.running())["node"]
        system.kill_part("gateway")
        await system.kill(lost)
        await system.until(lambda s: s["state"] == "running" and s["node"] != lost)
        await counter.goes_on()
        await counter.check()
        assert await kernel.ask("n") == "5"


async def test_agent_that_crashes_leaves_kernels_running(fresh: Callable[..., System]):
    # Whether the next agent is there within two seconds depends on the machine.
    system = fresh("--lease-seconds", "20s")
    folder = await Folder(system, "crashes").create()
    async with system.kernel(path=folder.name) as kernel:
        counter = await Counter.start(kernel, folder)
        before = await system.running()
        system.kill_agent(before["node"])
        await counter.goes_on()
        await counter.check()
        assert (await system.running())["epoch"] == before["epoch"]


async def test_ui_server_killed_in_mid_cell_leaves_kernel_and_cell_alone(
    system: System, folder: Folder
):
    async with system.kernel(path=folder.name) as kernel:
        await kernel.ask("n = 6")
        counter = await Counter.start(kernel, folder)
        notebook = {
            "path": f"{folder.name}/n.ipynb",
            "type": "notebook",
            "kernel": {"id": kernel.id},
        }
        made = await system.call("POST", "/api/sessions", notebook)
        system.kill_part("ui")
        await system.until(lambda s: s["state"] == "running", server="ui")
        assert [k["id"] for k in await system.call("GET", "/api/kernels")] == [kernel.id]
        there = await system.call("GET", "/api/sessions")
        assert [(s["id"], s["path"]) for s in there] == [(made["id"], made["path"])]
        again = await system.client(kernel.id).open(busy=True)
        try:
            await folder.write("enough", "")
            assert await again.ask("n") == "6"
            numbers = await folder.numbers("numbers.txt")
            assert numbers == list(range(int(await again.ask("i"))))
            assert len(numbers) > len(counter.cell.numbers)
        finally:
            await again.close()


async def test_kernel_that_the_user_ended_stays_ended(system: System, folder: Folder):
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, "n = 1")
        before = await system.running()
        await kernel.send("exit()")
        await kernel.dies()
        async with system.kernel(path=folder.name) as other:
            await system.cell(other, "1")
            await system.lose()
            await system.recovered(before["epoch"])
            assert await other.ask("2") == "2"
            states = {
                k["id"]: k["execution_state"] for k in await system.call("GET", "/api/kernels")
            }
            assert states.get(kernel.id, "dead") == "dead"
