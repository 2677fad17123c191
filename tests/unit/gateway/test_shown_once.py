"""A kernel that goes back to a checkpoint in the middle of a cell: what a client is shown.

The shim's end of the link is real; the kernel behind it is this test.
"""

from __future__ import annotations

import asyncio
import copy
import json
from pathlib import Path
from typing import Any

import pytest

from gateway import interrupts
from gateway.channel import KernelChannel
from gateway.errors import Fenced
from gateway.feed import Delivery, Feed
from gateway.frames import CONTROL, EVENT, IOPUB, SHELL, decode_payload, encode_payload
from gateway.journal import Journal
from gateway.observer import Observer
from gateway.rollback import Rollback
from gateway.shim_link import ShimLink


class Told(Observer):
    def __init__(self) -> None:
        self.rollbacks: list[Rollback] = []
        self.began = 0
        self.interrupts = 0

    def rolled_back(self, rollback: Rollback) -> None:
        self.rollbacks.append(rollback)

    def interrupt_again(self, kernel_id: str) -> None:
        self.interrupts += 1

    def busy(self, kernel_id: str) -> None:
        self.began += 1


class Scene:
    """A channel with one client, and a scripted kernel behind a real `ShimLink`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told = Told()
        self.channel = KernelChannel("k", Journal(folder), self.told)
        self.shim = ShimLink()
        self.epoch = 1
        self.shown: list[tuple[str, str, Any]] = []
        self.asked: list[str] = []
        self.open()
        self.attach()

    def open(self) -> None:
        def write(delivery: Delivery) -> None:
            channel, parts = decode_payload(delivery.payload)
            if channel != EVENT:
                header, parent, _, content = (json.loads(bytes(p)) for p in parts[:4])
                self.shown.append((parent.get("msg_id", ""), header["msg_type"], content))

        self.channel.outlet.attach(Feed(self.channel.outlet, write, "s", 0, lambda: None))

    def attach(self) -> None:
        self.shim.connected(self.epoch)
        self.channel.attach_node(self.to_shim, self.epoch)
        self.settle()

    def to_shim(self, frame: bytes) -> None:
        payload = self.shim.receive(frame, self.epoch)
        if payload:
            header = json.loads(bytes(decode_payload(payload)[1][0]))
            self.asked.append(header["msg_id"])

    def settle(self) -> None:
        while (frame := self.shim.next_frame(self.epoch)) is not None:
            self.channel.receive(frame, self.epoch)
        self.channel._acknowledge()

    def ask(self, msg_id: str) -> None:
        parts = [self.header(msg_id, "execute_request"), b"{}", b"{}", b'{"code": "x"}']
        self.channel.submit(encode_payload(SHELL, parts))
        self.settle()

    @staticmethod
    def header(msg_id: str, kind: str) -> bytes:
        return json.dumps({"msg_id": msg_id, "msg_type": kind, "session": "s"}).encode()

    def says(self, parent: str, kind: str, content: Any, channel: int = IOPUB) -> None:
        parts = [self.header("-", kind), self.header(parent, "execute_request"), b"{}"]
        self.shim.produce(self.epoch, channel, [*parts, json.dumps(content).encode()])
        self.settle()

    def prints(self, parent: str, text: str) -> None:
        self.says(parent, "stream", {"name": "stdout", "text": text})

    def ends(self, parent: str) -> None:
        self.says(parent, "execute_reply", {"status": "ok"}, SHELL)
        self.says(parent, "status", {"execution_state": "idle"})

    def restore(self, checkpoint: ShimLink) -> None:
        self.epoch += 1
        self.shim = copy.deepcopy(checkpoint)
        self.asked.clear()
        self.attach()

    def below(self, msg_id: str) -> str:
        """What the notebook shows below the cell."""
        text = ""
        for parent, kind, content in self.shown:
            if parent == msg_id:
                text = "" if kind == "clear_output" else text + content.get("text", "")
        return text

    def count(self, msg_id: str, kind: str) -> int:
        return sum(1 for parent, k, _ in self.shown if (parent, k) == (msg_id, kind))


async def test_cell_running_at_the_checkpoint_is_shown_once(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.ask("a")
    scene.prints("a", "1 2 3 ")
    checkpoint = copy.deepcopy(scene.shim)
    scene.prints("a", "4 5 ")
    assert scene.below("a") == "1 2 3 4 5 "
    scene.restore(checkpoint)
    assert scene.asked == []
    assert scene.below("a") == "1 2 3 "
    scene.prints("a", "4 5 6 ")
    scene.ends("a")
    assert scene.below("a") == "1 2 3 4 5 6 "
    (rollback,) = scene.told.rollbacks
    assert [r.msg_id for r in rollback.continued] == ["a"]
    assert rollback.rerun == ()


async def test_the_beginning_of_a_cell_is_told_once(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    for number, msg_id in enumerate("abc", 1):
        scene.ask(msg_id)
        assert scene.told.began == number - 1
        scene.says(msg_id, "status", {"execution_state": "busy"})
        scene.prints(msg_id, "1 ")
        assert scene.told.began == number
        scene.ends(msg_id)


async def test_cell_that_ended_after_the_checkpoint_ends_unseen_again(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.ask("a")
    scene.prints("a", "1 ")
    checkpoint = copy.deepcopy(scene.shim)
    scene.prints("a", "2 ")
    scene.ends("a")
    scene.channel.release(checkpoint.applied, checkpoint.next_seq - 1)
    scene.restore(checkpoint)
    scene.prints("a", "2 ")
    scene.ends("a")
    assert scene.below("a") == "1 2 "
    assert scene.count("a", "execute_reply") == scene.count("a", "status") == 1
    scene.ask("b")
    scene.prints("b", "on")
    assert scene.below("b") == "on"


async def test_second_rollback_to_the_same_checkpoint_shows_once_too(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.ask("a")
    scene.prints("a", "1 ")
    checkpoint = copy.deepcopy(scene.shim)
    for _ in range(3):
        scene.prints("a", "2 3 ")
        scene.restore(checkpoint)
        assert scene.below("a") == "1 "
    scene.prints("a", "2 3 4 ")
    scene.ends("a")
    assert scene.below("a") == "1 2 3 4 "


async def test_gateway_restarted_in_the_middle_of_a_silent_re_run_stays_silent(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path)
    checkpoint = copy.deepcopy(scene.shim)
    scene.ask("a")
    scene.prints("a", "1 ")
    scene.ends("a")
    scene.restore(checkpoint)
    assert scene.asked == ["a"]
    scene.channel.close(deleted=False)
    scene.channel = KernelChannel("k", Journal(tmp_path), scene.told)
    scene.shown.clear()
    scene.open()
    scene.attach()
    scene.prints("a", "1 ")
    scene.ends("a")
    assert scene.below("a") == "1 "
    assert scene.count("a", "execute_reply") == 1
    assert len(scene.told.rollbacks) == 1


async def test_node_of_another_epoch_is_refused_with_words(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    with pytest.raises(Fenced, match="epoch 1") as refused:
        scene.channel.receive(b"\x03" + bytes(12), 7)
    assert "must stop" in refused.value.hint


async def test_reply_that_was_seen_is_not_seen_again_but_its_idle_is(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    checkpoint = copy.deepcopy(scene.shim)
    scene.ask("a")
    scene.prints("a", "1 ")
    scene.says("a", "execute_reply", {"status": "ok"}, SHELL)
    scene.restore(checkpoint)
    scene.prints("a", "1 ")
    scene.ends("a")
    assert scene.below("a") == "1 "
    assert scene.count("a", "execute_reply") == scene.count("a", "status") == 1


async def test_checkpoint_in_the_middle_of_a_silent_re_run_keeps_it_silent(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    checkpoint = copy.deepcopy(scene.shim)
    scene.ask("a")
    scene.ends("a")
    scene.restore(checkpoint)
    scene.prints("a", "1 2 3 ")
    for _ in range(2):
        scene.channel.release(scene.shim.applied, scene.shim.next_seq + 10)
    scene.prints("a", "4 ")
    scene.ends("a")
    assert scene.below("a") == ""
    assert scene.count("a", "execute_reply") == 1


@pytest.mark.parametrize("idle_first", [True, False])
async def test_second_end_is_unseen_in_whatever_order_it_comes(
    tmp_path: Path, idle_first: bool
) -> None:
    scene = Scene(tmp_path)
    checkpoint = copy.deepcopy(scene.shim)
    scene.ask("a")
    scene.ends("a")
    seen = len(scene.shown)
    scene.restore(checkpoint)
    ends = [("status", {"execution_state": "idle"}, IOPUB), ("execute_reply", {}, SHELL)]
    for kind, content, channel in ends if idle_first else reversed(ends):
        scene.says("a", kind, content, channel)
    assert len(scene.shown) == seen
    scene.prints("a", "said by a thread, later")
    assert scene.below("a") == "said by a thread, later"


async def test_hello_that_was_lost_is_said_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.channel._ANSWER_WITHIN", 0.01)
    scene = Scene(tmp_path)
    heard = asyncio.Event()
    frames: list[bytes] = []

    def lossy(frame: bytes) -> None:
        frames.append(frame)
        if len(frames) > 1:
            scene.to_shim(frame)
            heard.set()

    scene.channel.attach_node(lossy, 1)
    assert len(frames) == 1
    await asyncio.wait_for(heard.wait(), 5)
    scene.settle()
    scene.ask("a")
    assert scene.asked == ["a"]


async def test_inputs_that_are_gone_are_counted(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    checkpoint = copy.deepcopy(scene.shim)
    scene.channel.journal.inputs._log.segment_size = 1
    for name in "abc":
        scene.ask(name)
        scene.ends(name)
    scene.channel.release(2)
    scene.restore(checkpoint)
    assert scene.told.rollbacks[0].missing == 2
    assert scene.asked == ["c"]


def interrupted(scene: Scene, parent: str) -> None:
    """What a Python kernel says when its user interrupts a cell."""
    scene.channel.interrupts.note()
    error = {"status": "error", "ename": "KeyboardInterrupt", "evalue": "", "traceback": []}
    scene.says(parent, "error", error)
    scene.says(parent, "execute_reply", error, SHELL)
    scene.says(parent, "status", {"execution_state": "idle"})


def aborted(scene: Scene, parent: str) -> None:
    """What it says of the cells that wait behind that one."""
    scene.says(parent, "execute_reply", {"status": "aborted"}, SHELL)
    scene.says(parent, "status", {"execution_state": "idle"})


def reopened(scene: Scene) -> None:
    """The gateway is killed and started again."""
    scene.channel.close(deleted=False)
    scene.channel = KernelChannel("k", Journal(scene.folder), scene.told)
    scene.open()


@pytest.mark.parametrize("restarted", [False, True], ids=["", "gateway-restarted"])
async def test_interrupted_cell_is_not_run_again_and_those_after_it_are(
    tmp_path: Path, restarted: bool
) -> None:
    scene = Scene(tmp_path)
    checkpoint = copy.deepcopy(scene.shim)
    for msg_id in ("loops", "waits"):
        scene.ask(msg_id)
    interrupted(scene, "loops")
    aborted(scene, "waits")
    scene.ask("x = 1")
    scene.ends("x = 1")
    scene.ask("runs")
    if restarted:
        reopened(scene)
    shown = len(scene.shown)
    scene.restore(checkpoint)
    assert scene.asked == ["x = 1", "runs"]
    assert scene.told.interrupts == 0
    (rollback,) = scene.told.rollbacks
    assert [r.msg_id for r in rollback.interrupted] == ["loops"]
    assert "loops" not in [r.msg_id for r in rollback.rerun]
    ended = [kind for parent, kind, _ in scene.shown[shown:] if parent in ("loops", "waits")]
    assert ended == []
    scene.restore(checkpoint)
    assert scene.asked == ["x = 1", "runs"]
    assert scene.told.rollbacks[1].interrupted == ()


async def test_cell_whose_node_is_lost_while_it_is_interrupted_ends_with_an_error(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path)
    checkpoint = copy.deepcopy(scene.shim)
    scene.ask("loops")
    scene.prints("loops", "1 ")
    scene.channel.interrupts.note()
    scene.restore(checkpoint)
    assert scene.asked == []
    (reply,) = [content for _, kind, content in scene.shown if kind == "execute_reply"]
    assert reply["ename"] == "KeyboardInterrupt"
    assert "not run again" in reply["evalue"]
    assert scene.shown[-1][1:] == ("status", {"execution_state": "idle"})


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("said", [True, False])
async def test_cell_that_goes_on_in_its_middle_is_interrupted_there_again(
    tmp_path: Path, ended: bool, said: bool
) -> None:
    scene = Scene(tmp_path)
    scene.ask("loops")
    checkpoint = copy.deepcopy(scene.shim)
    if said:
        scene.prints("loops", "1 ")
    if ended:
        interrupted(scene, "loops")
    else:
        scene.channel.interrupts.note()
    scene.restore(checkpoint)
    assert scene.asked == []
    assert scene.told.interrupts == 1
    scene.attach()  # its agent lost the connection for a moment
    assert scene.told.interrupts == 1
    scene.ask("next")
    assert scene.asked == []  # the kernel would refuse it
    interrupted(scene, "loops")
    assert scene.asked == ["next"]


async def test_interrupted_run_that_is_not_shown_is_not_gone_on_with_either(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    checkpoint = copy.deepcopy(scene.shim)
    scene.ask("a")
    scene.ends("a")
    scene.restore(checkpoint)
    assert scene.asked == ["a"]
    scene.channel.interrupts.note()  # this time it takes for ever
    scene.restore(checkpoint)
    assert scene.asked == []
    scene.ask("b")
    scene.prints("b", "1 ")
    assert scene.below("b") == "1 "


async def test_interrupt_that_came_as_a_message_hits_nothing_else_later(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    checkpoint = copy.deepcopy(scene.shim)
    scene.ask("loops")
    parts = [scene.header("i", "interrupt_request"), b"{}", b"{}", b"{}"]
    scene.channel.submit(encode_payload(CONTROL, parts))
    scene.says("i", "interrupt_reply", {"status": "ok"}, CONTROL)
    scene.says("i", "status", {"execution_state": "idle"})
    scene.ask("next")
    scene.restore(checkpoint)
    assert scene.asked == ["next"]


async def test_what_goes_on_though_it_was_interrupted_again_holds_up_nothing_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "PATIENCE", 0.01)
    scene = Scene(tmp_path)
    scene.ask("loops")
    checkpoint = copy.deepcopy(scene.shim)
    scene.channel.interrupts.note()
    scene.restore(checkpoint)
    scene.ask("next")
    async with asyncio.timeout(5):
        while scene.asked != ["next"]:
            await asyncio.sleep(0.002)
