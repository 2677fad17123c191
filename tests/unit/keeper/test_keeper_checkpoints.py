"""Checkpoints that fail are said, tried again later and later, and cost nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from keeper_rig import Channels, ScriptedAgent, Site, fails, remote

from checkpoint.errors import StaleWriter, StoreFull
from checkpoint.manifest import Manifest
from sessionkeeper.cpu import Cpu
from sessionkeeper.keeper.chain import Chain
from sessionkeeper.keeper.channels import Position
from sessionkeeper.keeper.checkpoints import RETRY_AFTER, Checkpoints
from sessionkeeper.keeper.journals import Journals
from sessionkeeper.keeper.node import Node, NodeLost
from sessionkeeper.keeper.status import Status
from sessionkeeper.placement import Needs


class Bench:
    """Checkpoints of a session that is on a node, without a keeper."""

    def __init__(self, base: Path) -> None:
        self.site = Site(base)
        self.channels: Channels = self.site.channels
        self.channels.ids.append("kernel-1")
        self.status = Status("one")
        self.chain = Chain(self.site.repository)
        self.journal = self.site.journal
        journals = Journals(self.site.repository, base / "arriving")
        self.checkpoints = Checkpoints(
            self.chain, self.channels, self.journal, self.status, journals
        )
        self.agent = ScriptedAgent(self.site, "a")
        self.agent.epoch, self.agent.kernels = 1, {"kernel-1"}
        self.node = Node("a", self.agent, {"node": "a"}, 60.0)
        self.checkpoints.begin()

    async def take(self, **options: bool) -> bool:
        return await self.checkpoints.take(self.node, 1, **options)

    def warning(self) -> str:
        return self.status.warnings.get("checkpoint", "")


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_a_checkpoint_releases_what_it_contains(bench: Bench) -> None:
    write = bench.journal.record("mkdir", "x")
    bench.agent.applied.append(write.number)
    bench.channels.ended = 3
    assert await bench.take()
    assert bench.channels.released == {"kernel-1": Position(3, 6)}
    assert bench.journal.after(0) == []
    assert bench.checkpoints.covers(3)
    assert not bench.checkpoints.covers(4)
    facts = bench.status.checkpoint
    assert facts is not None
    assert (facts.number, facts.stored_bytes, facts.pause_seconds) == (1, 10, 0.01)
    assert not bench.status.checkpointing


async def test_it_releases_only_what_had_happened_when_it_began(bench: Bench) -> None:
    bench.channels.ended = 1

    async def goes_on_meanwhile(params: object) -> object:
        bench.channels.ended = 2
        return bench.agent._session_checkpoint(1)

    bench.agent.next["session.checkpoint"] = [goes_on_meanwhile]
    assert await bench.take()
    assert bench.channels.released == {"kernel-1": Position(1, 2)}
    assert bench.checkpoints.due("spot") is not None


async def test_failures_are_said_and_tried_again_later_and_later(bench: Bench) -> None:
    bench.channels.ended = 1
    waits = []
    for _ in range(8):
        bench.agent.next["session.checkpoint"] = [fails(remote("store_full", "the disk is full"))]
        assert not await bench.take()
        waits.append(bench.checkpoints.due("spot"))
    first, longest = RETRY_AFTER
    expected = [min(first * 2**n, longest) for n in range(8)]
    assert waits == pytest.approx(expected, abs=0.5)
    assert "the disk is full" in bench.warning()
    assert "Newest: none yet" in bench.warning()
    assert bench.channels.released == {}
    assert await bench.take()
    assert bench.warning() == ""
    bench.agent.next["session.checkpoint"] = [fails(remote("store_full"))]
    bench.channels.ended = 2
    assert not await bench.take()
    assert bench.checkpoints.due("spot") == pytest.approx(first, abs=0.5)
    assert "Newest: checkpoint 1" in bench.warning()


async def test_a_full_store_at_the_commit_is_a_failure_like_any_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(manifest: Manifest) -> None:
        raise StoreFull("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(bench.site.repository, "commit", full)
        assert not await bench.take()
    assert "no space left" in bench.warning()
    assert await bench.take()
    assert bench.site.repository.numbers() == [1]


async def test_a_stale_writer_is_refused_and_not_tried_again(bench: Bench) -> None:
    assert await bench.take()
    other = Manifest(2, 5, 1, 0.0, bench.chain.manifest.body)  # type: ignore[union-attr]
    bench.site.repository.commit(other)
    with pytest.raises(StaleWriter):
        await bench.take()
    assert bench.site.repository.numbers() == [1, 2]
    assert not bench.status.checkpointing


async def test_a_node_lost_meanwhile_is_told_at_once(bench: Bench) -> None:
    asked = asyncio.Event()

    async def never(params: object) -> object:
        asked.set()
        return await asyncio.get_running_loop().create_future()

    bench.agent.next["session.checkpoint"] = [never]
    taking = asyncio.create_task(bench.take())
    await asked.wait()
    bench.node.gone.set_result(None)
    with pytest.raises(NodeLost):
        await taking
    assert not bench.status.checkpointing


async def test_a_write_that_was_refused_is_no_reason_for_checkpoints(bench: Bench) -> None:
    bench.journal.void(bench.journal.record("mkdir", "x").number)
    assert bench.checkpoints.due("spot") is None
    bench.journal.record("mkdir", "y")
    assert bench.checkpoints.due("spot") is not None


async def test_chain_steps_back_over_what_cannot_be_read_and_never_reuses_a_number(
    bench: Bench,
) -> None:
    for _ in range(4):
        assert await bench.take()
    bench.site.repository.blobs.put("manifests/00000003", b"damaged")
    assert (await bench.chain.step_back()).number == 2  # type: ignore[union-attr]
    assert await bench.take()
    assert bench.chain.manifest is not None
    assert (bench.chain.manifest.number, bench.chain.manifest.parent) == (5, 2)
    bench.chain.manifest = bench.site.repository.load(1)
    assert await bench.chain.step_back() is None
    assert bench.chain.writes == 0


async def test_chain_read_names_what_it_skipped(bench: Bench) -> None:
    for _ in range(2):
        assert await bench.take()
    bench.site.repository.blobs.put("manifests/00000002", b"damaged")
    chain = Chain(bench.site.repository)
    [skipped] = await chain.read()
    assert skipped.number == 2
    assert skipped.reason
    assert chain.manifest is not None
    assert chain.manifest.number == 1
    assert (await chain.commit(chain.manifest.body, 1)).number == 3


async def test_chain_needs_what_its_checkpoint_was_made_with(bench: Bench) -> None:
    assert bench.chain.needs().engine is None
    assert await bench.take()
    assert bench.chain.needs() == Needs(engine="criu", cpu=Cpu("a CPU"))


async def test_what_is_ignored_is_said_once_and_what_cannot_be_saved_is_a_warning(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_taken = bench.agent._session_checkpoint
    more: dict[str, str | None] = {"ignored": "left out: cache", "unsaved": "not in: x"}
    monkeypatch.setattr(
        bench.agent, "_session_checkpoint", lambda **call: really_taken(**call) | more
    )
    assert await bench.take()
    assert bench.status.warnings["files"] == "not in: x"
    more["unsaved"] = None
    assert await bench.take()
    assert "files" not in bench.status.warnings
    said = [event["text"] for event in bench.status.json()["events"]]
    assert said.count("left out: cache") == 1
