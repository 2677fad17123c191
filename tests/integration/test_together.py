"""Several kernels of one session: what happens to one of them does not harm the others."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from system.folder import Folder
from system.running import PATIENCE, System

pytestmark = pytest.mark.container

WRITING = """
import threading
file, stop = open("shared.txt", "a"), threading.Event()


def write():
    n = 0
    while not stop.wait(0.002):
        n += 1
        file.write(f"{n}\\n")
        file.flush()


thread = threading.Thread(target=write)
thread.start()
"""


def process_with_open(file: str) -> int:
    """The process that has a file of that name open."""
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(entry).endswith(file):
                return int(entry.parts[2])
    raise AssertionError(f"nobody has {file} open")


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def restarted(system: System, kernel_id: str) -> None:
    await system.call("POST", f"/api/kernels/{kernel_id}/restart")


async def test_a_kernel_that_is_started_anew_takes_no_restored_one_s_place(
    system: System, folder: Folder
):
    async with system.kernel(path=folder.name) as first, system.kernel(path=folder.name) as second:
        await first.ask("mine = 1")
        await system.cell(second, "mine = 2")
        await restarted(system, first.id)  # the checkpoint has the kernel, and not this life of it
        await first.ask("mine = 3")
        await system.lose()
        assert await second.ask("mine") == "2"
        assert await first.ask("mine") == "3"


async def test_deleting_a_kernel_while_it_is_dumped_leaves_the_others_alone(system: System):
    for _ in range(3):
        async with system.kernel() as kept:
            async with system.kernel() as deleted:
                await kept.ask("mine = bytearray(100_000_000)")
                await deleted.ask("mine = bytearray(100_000_000)")
                await system.until(lambda s: s["checkpointing"])
            assert await kept.ask("len(mine)") == "100000000"
            before = await system.number()
            await kept.ask("mine = 1")
            assert (await system.saved(before))["warnings"] == []


@pytest.mark.parametrize("loss", ["drain", "kill"])
async def test_kernels_that_have_one_file_open_all_come_back(
    system: System, folder: Folder, loss: str
):
    async with AsyncExitStack() as stack:
        writer, *readers = [
            await stack.enter_async_context(system.kernel(path=folder.name)) for _ in range(3)
        ]
        for number, reader in enumerate(readers):
            await reader.ask(f"mine, file = {number}, open('shared.txt', 'a+')")
        await system.cell(writer, WRITING)
        status = await system.running()
        await (system.drain if loss == "drain" else system.kill)(status["node"])
        after = await system.recovered(status["epoch"])
        assert {one["state"] for one in after["kernels"].values()} == {"restored"}
        for number, reader in enumerate(readers):
            assert await reader.ask("mine") == str(number)
        await writer.ask("stop.set(); thread.join()")
        numbers = await folder.numbers("shared.txt")
        assert numbers == list(range(1, len(numbers) + 1))


async def test_a_file_saved_after_the_checkpoint_may_be_open_in_a_kernel(
    system: System, folder: Folder
):
    await folder.write("notes.txt", "as it was")
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, "file = open('notes.txt', 'r+'); mine = 1")
        await folder.write("notes.txt", "longer than it was before")
        await system.lose()
        assert await kernel.ask("mine") == "1"
        assert await folder.read("notes.txt") == "longer than it was before"


async def test_a_kernel_that_goes_with_its_shim_comes_back_from_the_checkpoint(
    system: System, folder: Folder
):
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, "mine, file = 1, open('mark.txt', 'w')")
        before = (await system.running())["epoch"]
        os.kill(parent_of(process_with_open(f"{folder.name}/mark.txt")), 9)
        await system.recovered(before)
        assert await kernel.ask("mine") == "1"


async def test_a_kernel_that_is_killed_while_it_is_saved_comes_back(system: System, folder: Folder):
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, "import os; mine = 1")
        before = (await system.running())["epoch"]
        # Kernels run while this is read: the one that is then dumped is dead.
        await kernel.ask("written = open('large', 'wb').write(os.urandom(300_000_000))")
        await system.until(lambda status: status["checkpointing"])
        await kernel.send("os.kill(os.getpid(), 9)")
        await system.recovered(before)
        assert await kernel.ask("mine") == "1"


async def test_a_kernel_may_be_killed_twice_in_a_minute(system: System, folder: Folder):
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, "import os; mine = 1")
        for _ in range(2):
            before = (await system.running())["epoch"]
            cell = await kernel.send("os.kill(os.getpid(), 9)")
            await system.recovered(before)
            await cell.end(PATIENCE)
            assert await kernel.ask("mine") == "1"
        said = [event["text"] for event in (await system.running())["events"]]
        assert not [text for text in said if "ran again" in text and "os.kill" in text]


async def test_a_spare_that_died_is_not_handed_out(system: System, folder: Folder):
    async with system.kernel(path=folder.name) as kernel:
        await kernel.ask("file = open('mark.txt', 'w')")
        mine = cgroup_of(process_with_open(f"{folder.name}/mark.txt"))
        # The one that is kept ready for the next kernel.
        for group in Path("/proc").glob("[0-9]*/cgroup"):
            with suppress(OSError):
                named = cgroup_of(int(group.parts[2]))
                if named.parent == mine.parent and ".spare-" in named.name and named != mine:
                    os.kill(int(group.parts[2]), 9)
        async with system.kernel(path=folder.name) as other:
            assert await other.ask("1 + 1") == "2"
        assert await kernel.ask("1 + 1") == "2"


def cgroup_of(pid: int) -> Path:
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        if "sessionkeeper" in line:
            return Path(line.split(":", 2)[2])
    return Path("/")


STATES = """
def state(process):
    with open(f"/proc/{process.pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]
"""


async def test_what_was_stopped_stays_stopped_and_what_ran_goes_on(system: System, folder: Folder):
    async with system.kernel(path=folder.name) as kernel:
        await kernel.ask("import os, signal, subprocess\n" + STATES)
        count = "while true; do echo x >> counted; sleep 0.01; done"
        await kernel.ask(f"runs = subprocess.Popen(['sh', '-c', {count!r}])")
        await kernel.ask("stands = subprocess.Popen(['sleep', '600'])")
        await kernel.ask("os.kill(stands.pid, signal.SIGSTOP)\nwhile state(stands) != 'T': pass")
        await system.drain((await system.running())["node"])
        assert await kernel.ask("state(stands)") == "'T'"
        size = "os.path.getsize('counted')"
        assert await kernel.ask(f"before = {size}\nwhile {size} <= before: pass\n'goes on'") == (
            "'goes on'"
        )
        # Nothing of how it was brought back is seen by who waits for a child.
        assert await kernel.ask("runs.poll(), stands.poll()") == "(None, None)"
        await kernel.ask("stands.send_signal(signal.SIGCONT)\nwhile state(stands) == 'T': pass")
        await kernel.ask("runs.kill(); stands.kill(); runs.wait(), stands.wait()")


DEEP = """
import os
home = os.getcwd()
for _ in range(25):
    os.mkdir("d" * 220)
    os.chdir("d" * 220)
with open("leaf", "w") as leaf:
    leaf.write("at the bottom")
os.chdir(home)
"""
CLIMB = """
for _ in range(25):
    os.chdir("d" * 220)
found = open("leaf").read()
os.chdir(home)
found
"""


@pytest.fixture
def hosts() -> Iterator[Path]:
    """A file of the machine, which containers see as well."""
    with tempfile.NamedTemporaryFile("w", dir="/usr/local/share", prefix="held-") as file:
        file.write("short")
        file.flush()
        os.chmod(file.name, 0o644)
        yield Path(file.name)


async def test_one_kernel_that_cannot_be_restored_does_not_cost_the_others(
    system: System, folder: Folder, hosts: Path
):
    """CRIU restores no process with an open file that has another size. The other kernel has made
    a tree that is deeper than a path can say.
    """
    async with system.kernel(path=folder.name) as first, system.kernel(path=folder.name) as second:
        await first.ask("mine = 1")
        await first.ask(DEEP)
        await second.ask(f"held = open({str(hosts)!r})")
        await system.cell(second, "mine = 2")
        before = await system.running()
        hosts.write_text("it is longer now")
        await system.lose()
        after = await system.recovered(before["epoch"])
        assert await first.ask("mine") == "1"
        assert await first.ask(CLIMB) == "'at the bottom'"
        assert await second.ask("'mine' in globals()") == "False"
        after = await system.running()
        said = "\n".join(event["text"] for event in after["events"])
        assert f"{second.id[:8]}: started anew, its variables are lost" in said
        assert f"{first.id[:8]}: started anew" not in said
