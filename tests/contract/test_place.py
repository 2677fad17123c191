"""What every `Place` must do, whether kernels run in containers or as plain processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoint.namespace import engine
from gateway.errors import RemoteError
from sessionkeeper.agent import beside
from sessionkeeper.agent.hosted import HostedSession, kernelspec_launch
from sessionkeeper.agent.kernelspecs import Kernelspecs
from sessionkeeper.agent.offer import Offer, offer
from sessionkeeper.agent.place import Place, Slot
from sessionkeeper.agent.relay import ShimRelay
from sessionkeeper.agent.workspace import LiveWorkspace
from sessionkeeper.nodes.cgroups import hierarchies
from sessionkeeper.settings import AgentSettings

PATIENCE = 30.0
SESSION = f"contract{os.environ.get('PYTEST_XDIST_WORKER', '')}"
"""Tests that run at a time are on one machine, where sessions have names."""


@pytest.fixture(params=[pytest.param("container", marks=pytest.mark.container), "process"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Offer]:
    """A node that offers the runtime."""
    data = tmp_path / "node"
    settings = AgentSettings(
        gateway_url="http://127.0.0.1:1",
        token="none",
        node="node-1",
        data=data,
        runtime=request.param,
    )
    yield offer(settings)
    subprocess.run(["umount", str(data / "images")], capture_output=True, check=False)


@pytest.fixture
def place(node: Offer) -> Iterator[Place]:
    one = node.place(SESSION, 1)
    one.create()
    one.open()
    yield one
    one.close()


Start = Callable[[str], Any]


class Running:
    """A kernel in a slot, and what its agent does with it."""

    def __init__(self, slot: Slot, token: str, relay: ShimRelay) -> None:
        self.slot, self.token, self.relay = slot, token, relay

    async def run(self, code: str) -> None:
        """Run code in the kernel, once it is ready."""
        async with asyncio.timeout(PATIENCE):
            while not (await self.relay.call("status"))["ready"]:
                await asyncio.sleep(0.01)
            reply = await self.relay.call("execute", code=code)
        assert reply["status"] == "ok", reply


def relay_to(place: Place, slot: Slot, token: str) -> ShimRelay:
    return ShimRelay(lambda: place.connect(slot), lambda: place.alive(slot), token, lambda _: None)


@pytest.fixture
async def start(place: Place) -> AsyncIterator[Start]:
    """Starts kernels in the place: `await start("name")`."""
    running: list[Running] = []

    async def one(name: str) -> Running:
        slot, token = Slot(name, 42000 + len(running)), secrets.token_hex(8)
        spec, resources = Kernelspecs().find("python3")
        launch = kernelspec_launch(spec, resources, {}, place.seen(place.home))
        configuration = {"kernel_id": name, "token": token, "kernel": launch}
        await asyncio.to_thread(place.start, slot, 1, configuration)
        kernel = Running(slot, token, relay_to(place, slot, token))
        running.append(kernel)
        await kernel.relay.open(PATIENCE)
        return kernel

    yield one
    for kernel in running:
        await kernel.relay.close()


def workspace(place: Place) -> LiveWorkspace:
    return LiveWorkspace(place.root, place.home, place.user)


def in_tree(place: Place, name: str) -> list[Path]:
    return list(place.tree.rglob(name))


def running_with(mark: str) -> list[str]:
    """Processes that have `mark` among their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if mark.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(entry.name)
    return found


async def test_kernel_works_in_the_workspace_which_is_in_the_tree(place: Place, start: Start):
    kernel = await start("one")
    await kernel.run("import os; assert os.getcwd() == os.path.expanduser('~')")
    await kernel.run("open('said.txt', 'w').write('hello')")
    assert workspace(place).read("said.txt", 0, 100) == b"hello"
    assert [path.read_text() for path in in_tree(place, "said.txt")] == ["hello"]


async def test_shim_tells_the_epoch_it_was_started_under(start: Start):
    kernel = await start("one")
    assert (await kernel.relay.call("status"))["epoch"] == 1


async def test_kernel_runs_until_it_is_killed(place: Place, start: Start):
    kernel = await start("one")
    await kernel.run("import os, signal")
    pid = kernel.relay.kernel_pid
    assert pid is not None
    assert place.runs(kernel.slot, pid)
    with pytest.raises(RemoteError, match="has ended"):
        await kernel.relay.call("execute", code="os.kill(os.getpid(), signal.SIGKILL)")
    assert not place.runs(kernel.slot, pid)


async def test_nothing_moves_while_frozen_and_goes_on_when_thawed(place: Place, start: Start):
    kernel = await start("one")
    # Also in a process of its own session, which the kernel started.
    beat = "i=0; while true; do i=$((i+1)); echo $i > beat.new; mv beat.new beat.txt; done"
    await kernel.run(
        f"import subprocess; p = subprocess.Popen(['sh', '-c', {beat!r}], start_new_session=True)"
    )

    def look() -> bytes:
        with contextlib.suppress(Exception):
            return workspace(place).read("beat.txt", 0, 100)
        return b""

    async def changed_from(before: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            while look() in (b"", before):
                await asyncio.sleep(0.005)

    await changed_from(b"")
    await asyncio.to_thread(place.freeze, [kernel.slot])
    frozen = look()
    await asyncio.sleep(0.1)
    assert look() == frozen
    await asyncio.to_thread(place.thaw, [kernel.slot])
    await changed_from(frozen)
    await kernel.run("p.kill()")


async def test_stop_ends_what_the_kernel_started_however_it_hid(place: Place, start: Start):
    kernel, other = await start("one"), await start("two")
    mark = f"9{secrets.randbelow(10**8):08d}"
    hide = f"(env -i setsid sleep {mark} &) ; setsid sleep {mark} &"
    await kernel.run(f"import subprocess; subprocess.run(['sh', '-c', {hide!r}], check=True)")
    async with asyncio.timeout(PATIENCE):
        while len(running_with(mark)) < 2:
            await asyncio.sleep(0.01)
    await kernel.relay.close()
    await asyncio.to_thread(place.stop, kernel.slot)
    assert running_with(mark) == []
    assert not place.alive(kernel.slot)
    assert place.alive(other.slot)
    await other.run("1")


async def test_what_a_kernel_has_in_use_is_known_by_its_place_in_the_tree(
    place: Place, start: Start
):
    kernel = await start("one")
    await kernel.run(
        "import mmap, os\n"
        "os.makedirs('venv/lib')\n"
        "for name in ('opened', 'mapped', 'closed'):\n"
        "    open(f'venv/lib/{name}', 'wb').write(b'x' * 4096)\n"
        "opened = open('venv/lib/opened', 'rb')\n"
        "with open('venv/lib/mapped', 'rb') as file:\n"
        "    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "os.mkdir('inside'); os.chdir('inside')"
    )
    home = os.fsencode(place.home).strip(b"/")
    found = {path for path in place.in_use([kernel.slot]) if path.startswith(home)}
    wanted = {home + name for name in (b"/venv/lib/opened", b"/venv/lib/mapped", b"/inside")}
    assert wanted <= found
    assert home + b"/venv/lib/closed" not in found


async def test_frozen_kernel_can_be_stopped(place: Place, start: Start):
    kernel = await start("one")
    await kernel.run("1")
    await asyncio.to_thread(place.freeze, [kernel.slot])
    await kernel.relay.close()
    await asyncio.to_thread(place.stop, kernel.slot)
    assert not place.alive(kernel.slot)


async def test_slot_that_was_never_started_is_not_alive_and_cannot_be_reached(place: Place):
    slot = Slot("nobody", 42999)
    assert not place.alive(slot)
    with pytest.raises(OSError):
        place.connect(slot)
    place.stop(slot)


async def test_kernel_and_node_leave_files_for_each_other(place: Place, start: Start):
    kernel = await start("one")
    exchange = await asyncio.to_thread(place.exchange, kernel.slot)
    (exchange.given / "given.txt").write_text("from the node")
    await kernel.run(f"assert open('{exchange.seen_given}/given.txt').read() == 'from the node'")
    await kernel.run("n = 5; from sessionkeeper_replay import replayable")
    dump = engine.dump_code(exchange.seen / "variables", inside=exchange.inside)
    await kernel.run(dump)
    report = beside.read_report(exchange.directory, "variables", engine.DUMP_REPORT)
    assert report.variables["n"].state == "exact"
    # What lies where the kernel can write is never followed to somewhere else.
    await kernel.run(
        f"import os, shutil; os.chdir('{exchange.seen}'); shutil.rmtree('variables');"
        "os.symlink('/etc', 'variables'); os.symlink('/etc/passwd', 'report.json');"
        "os.mkfifo('pipe'); open('list', 'w').write('[]'); os.chdir('/')"
    )
    for path in (("variables", "passwd"), ("report.json",), ("pipe",), ("list",), ("none",)):
        with pytest.raises(engine.NamespaceError):
            beside.read_report(exchange.directory, *path)


async def test_another_process_goes_on_with_what_is_kept(node: Offer, place: Place, start: Start):
    kept, other = await start("one"), await start("two")
    await kept.run("n = 5")
    await kept.relay.close()
    await other.relay.close()
    second = node.place(SESSION, 1)
    await asyncio.to_thread(second.resume, [kept.slot])
    assert second.alive(kept.slot)
    assert not second.alive(other.slot)
    again = Running(kept.slot, kept.token, relay_to(second, kept.slot, kept.token))
    await again.relay.open(PATIENCE)
    await again.run("assert n == 5")
    await again.relay.close()
    await asyncio.to_thread(second.close)
    assert not place.alive(kept.slot)


LIMIT = 300 << 20


async def test_a_kernel_gets_no_more_memory_than_its_session_may_use(node: Offer):
    """In a container it is killed, as a plain process it is told: it goes on."""
    place = node.place(SESSION, 1, LIMIT)
    place.create()
    place.open()
    killed = asyncio.Event()
    slot, token = Slot("kernel", 20000), secrets.token_hex(16)
    spec, resources = Kernelspecs().find("python3")
    launch = kernelspec_launch(spec, resources, {}, place.seen(place.home))
    configuration = {"kernel_id": "kernel", "token": token, "kernel": launch}
    await asyncio.to_thread(place.start, slot, 1, configuration)
    relay = ShimRelay(
        lambda: place.connect(slot),
        lambda: place.alive(slot),
        token,
        lambda _: None,
        on_killed=killed.set,
    )
    try:
        await relay.open(PATIENCE)
        kernel = Running(slot, token, relay)
        await kernel.run("mine = bytearray(1 << 20)")
        assert not place.ran_out(slot)
        asked = asyncio.create_task(relay.call("execute", code="big = bytearray(3 << 30)"))
        if place.engine == "criu":
            async with asyncio.timeout(PATIENCE):
                await killed.wait()
            assert place.ran_out(slot)
            with contextlib.suppress(Exception):
                await asked  # it is told that the kernel has ended
        else:
            assert (await asked)["ename"] == "MemoryError"
            await kernel.run("assert len(mine) == 1 << 20")
    finally:
        await relay.close()
        await asyncio.to_thread(place.close)


async def test_close_leaves_nothing_behind(place: Place, start: Start):
    kernel = await start("one")
    mark = f"9{secrets.randbelow(10**8):08d}"
    await kernel.run(
        f"import os, subprocess; subprocess.Popen(['sleep', '{mark}'], start_new_session=True)\n"
        "os.makedirs('closed/deep'); os.chmod('closed', 0)"
    )
    await kernel.relay.close()
    await asyncio.to_thread(place.close)
    assert running_with(mark) == []
    assert not place.alive(kernel.slot)
    assert not place.tree.exists()


async def test_session_that_is_closed_while_its_spare_is_started_leaves_nothing(place: Place):
    hosted = HostedSession(SESSION, 1, place, lambda kernel, frame: None)
    started, start = asyncio.Event(), place.start
    loop = asyncio.get_running_loop()

    def slowly(slot: Slot, epoch: int, launch: dict[str, Any]) -> None:
        loop.call_soon_threadsafe(started.set)
        start(slot, epoch, launch)

    place.start = slowly  # type: ignore[method-assign]
    hosted.keep_warm()
    await started.wait()
    await hosted.close()
    assert not place.tree.exists()
    assert not [slot for slot in hosted_slots() if slot.startswith(f"{SESSION}+spare")]


def hosted_slots() -> list[str]:
    """The names of the containers' control groups."""
    groups = [root / "sessionkeeper" / "node-1" for root in hierarchies()]
    return [one.name for group in groups for one in group.glob("*/*") if one.is_dir()]
