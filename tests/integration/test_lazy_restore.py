"""Large kernels answer before their memory has arrived; and what becomes of them if it does not."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

import pytest
from system.arriving import CGROUP, DIGEST, NODE_LIKE, node_like, saved
from system.folder import Folder
from system.running import System

from checkpoint import criu
from sessionkeeper.agent.errors import DumpFailed, KernelBusy
from sessionkeeper.bench.stand import KERNEL
from sessionkeeper.nodes import cgroups

pytestmark = [pytest.mark.container, pytest.mark.needs("lazy")]

TESTS = Path(__file__).parents[1]


@node_like
async def test_cells_run_and_checkpoints_wait_while_memory_arrives(tmp_path: Path) -> None:
    async with saved(tmp_path) as (node, one, digest):
        await one.begin()
        assert await one.run("answer = 6 * 7", "answer") == 42
        with pytest.raises(KernelBusy):
            await one.checkpoint(within=0.0)
        waiting = asyncio.create_task(one.checkpoint())
        assert await one.run("answer += 1", "answer") == 43
        assert not waiting.done()
        node.gate.open.set()
        taken = await waiting
        # What was restored is known: it is not stored again.
        assert taken.stored < 8 << 20
        assert await one.run("", DIGEST) == digest
        await one.kill()
        await one.begin()
        node.gate.open.set()
        assert await one.run("", f"(answer, {DIGEST})") == (43, digest)


@node_like
async def test_kernel_is_ended_at_once_when_its_memory_is_lost(tmp_path: Path) -> None:
    async with saved(tmp_path) as (node, one, _):
        await one.begin()
        assert node.processes()
        node.gate.lost = True
        node.gate.open.set()
        assert node.place_now is not None
        assert await asyncio.to_thread(node.place_now.arrival.wait, 20)
        assert "did not arrive" in str(node.place_now.arrival.lost)
        assert one._tenancy is not None
        assert "missing from the store" in (one._tenancy.savepoints.arrivals.damage() or "")
        assert node.processes() == []


@node_like
@pytest.mark.parametrize("heard", [True, False], ids=["", "in-a-flood"])
async def test_kernel_that_has_just_been_killed_is_not_saved(tmp_path: Path, heard: bool) -> None:
    async with saved(tmp_path) as (node, one, digest):
        await one.begin()
        node.gate.open.set()
        await one.checkpoint()
        if not heard:  # the gateway takes nothing more of it
            assert one._tenancy is not None
            one._tenancy.hosted.hold_back(KERNEL, True)
        [kernel] = [pid for pid in node.processes() if not _is_first(pid)]
        descriptor = os.pidfd_open(kernel)
        os.kill(kernel, signal.SIGKILL)
        await _readable(descriptor)
        os.close(descriptor)
        with pytest.raises(DumpFailed, match="just ended"):
            await one.checkpoint()
        await one.kill()
        await one.begin()
        node.gate.open.set()
        assert await one.run("", DIGEST) == digest


def _is_first(pid: int) -> bool:
    """Whether a process is the first one in its container: the shim."""
    status = Path(f"/proc/{pid}/status").read_text()
    [ids] = [line for line in status.splitlines() if line.startswith("NSpid:")]
    return ids.split()[-1] == "1"


@node_like
async def test_closing_a_session_does_not_wait_for_memory(tmp_path: Path) -> None:
    async with saved(tmp_path) as (node, one, _):
        await one.begin()
        async with asyncio.timeout(10):
            await one.kill()
        assert node.processes() == []


@node_like
async def test_kernel_that_cannot_be_restored_lazily_is_restored_with_all_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = criu.materialize_lazily

    def damaged(*arguments, **options):
        image = whole(*arguments, **options)
        (image.directory / "inventory.img").unlink()
        return image

    async with saved(tmp_path) as (node, one, digest):
        monkeypatch.setattr(criu, "materialize_lazily", damaged)
        monkeypatch.setattr(node.gate.open, "clear", lambda: None)
        with caplog.at_level(logging.INFO):
            await one.begin()
        assert "is restored with all of its memory" in caplog.text
        assert await one.run("", DIGEST) == digest
        await one.checkpoint()


async def test_kernel_ends_with_the_agent_that_brought_its_memory(
    tmp_path: Path,
) -> None:
    agent = await asyncio.create_subprocess_exec(
        *(*NODE_LIKE, sys.executable, "-m", "system.arriving", str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    assert agent.stdout is not None
    try:
        pids = [int(pid) for pid in (await agent.stdout.readline()).split()]
        assert pids
        descriptors = [os.pidfd_open(pid) for pid in pids]
        agent.send_signal(signal.SIGKILL)
        await agent.wait()
        for descriptor in descriptors:
            await _readable(descriptor)
            os.close(descriptor)
    finally:
        cgroups.thaw(CGROUP)
        assert cgroups.remove(CGROUP) == []


async def _readable(descriptor: int) -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ended.set)
    async with asyncio.timeout(20):
        await ended.wait()
    asyncio.get_running_loop().remove_reader(descriptor)


async def test_large_kernel_moves_lazily_with_all_of_its_data(
    system: System, folder: Folder
) -> None:
    fill = "import hashlib, random; data = random.Random(1).randbytes(160 << 20)"
    digest = "hashlib.sha256(data).hexdigest()"
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, fill)
        before = await kernel.ask(digest)
        for loss in (system.kill, system.drain):
            status = await system.running()
            await loss(status["node"])
            status = await system.recovered(status["epoch"])
            assert await kernel.ask("6 * 7") == "42"
            assert await kernel.ask(digest) == before
            log = (system.state.path / "logs" / f"{status['node']}.log").read_text()
            assert "all memory of kernel" in log
            await system.heal()
