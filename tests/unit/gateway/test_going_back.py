"""A kernel that its user sends back to an earlier checkpoint: nothing since then is asked again."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from test_shown_once import Scene

from gateway.channel import KernelChannel
from gateway.journal import Journal
from gateway.kernels import Kernels


def reopen(scene: Scene) -> None:
    """The gateway's process is started again."""
    scene.channel.close(deleted=False)
    scene.shown.clear()
    scene.channel = KernelChannel("k", Journal(scene.folder), scene.told)
    scene.open()


def long_ago(scene: Scene) -> None:
    """Three requests after which nothing could be asked again."""
    for name in "abc":
        scene.ask(name)
        scene.prints(name, f"{name} ")
        scene.ends(name)
    scene.channel.release(scene.shim.applied, scene.shim.next_seq - 1)


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("segment", [1, 1 << 20])
async def test_what_was_asked_since_is_answered_and_never_asked_again(
    tmp_path: Path, restarted: bool, segment: int
) -> None:
    scene = Scene(tmp_path)
    scene.channel.journal.inputs._log.segment_size = segment
    checkpoint = copy.deepcopy(scene.shim)
    long_ago(scene)
    scene.ask("running")
    scene.prints("running", "half")
    scene.channel.go_back("gone back to checkpoint 1")
    assert scene.count("running", "execute_reply") == 1
    if restarted:
        reopen(scene)
    scene.restore(checkpoint)
    assert scene.asked == []
    assert "gone back" in str([content for _, kind, content in scene.shown if kind == "error"])
    assert scene.below("a") == "a "
    for rollback in scene.told.rollbacks:
        assert (rollback.rerun, rollback.continued, rollback.missing) == ((), (), 0)
    scene.ask("d")
    assert scene.asked == ["d"]
    scene.prints("d", "on")
    scene.ends("d")
    assert scene.below("d") == "on"
    assert scene.channel.execution_state == "idle"


async def test_node_lost_after_going_back_asks_only_what_came_after(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    checkpoint = copy.deepcopy(scene.shim)
    long_ago(scene)
    scene.channel.go_back("gone back")
    scene.restore(checkpoint)
    scene.ask("d")
    scene.ends("d")
    reopen(scene)
    scene.restore(checkpoint)
    assert scene.asked == ["d"]
    assert [one.msg_id for one in scene.told.rollbacks[-1].rerun] == ["d"]


async def test_kernel_that_had_ended_runs_again(tmp_path: Path) -> None:
    kernels = Kernels(tmp_path)
    record = kernels.create("python3")
    record.state = "ended"
    kernels.channel(record.id).end("The kernel exited (0).")
    kernels.go_back(record.id, 3, "gone back")
    kernels.close()
    again = Kernels(tmp_path)
    assert (again.record(record.id).state, again.record(record.id).generation) == ("running", 3)
    assert not again.channel(record.id).ended
    again.close()
