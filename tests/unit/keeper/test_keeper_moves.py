"""A session goes from node to node: planned, or because one is gone, or does not work."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from typing import Any

import pytest
from keeper_rig import SESSION, Site, fails, remote

from checkpoint.errors import StoreUnavailable
from checkpoint.manifest import Manifest
from sessionkeeper.keeper import keeper


async def test_session_waits_for_a_node_and_says_why(site: Site) -> None:
    await site.until(lambda: "waiting for a node (there is no node)" in site.said)
    assert site.keeper.status.state == "waiting"
    site.join("a")
    agent = await site.runs_on("a")
    [opened] = agent.asked("session.open")
    assert (opened["epoch"], opened["manifest"]) == (1, None)
    assert site.channels.attached == {"kernel-1": 1}
    assert "placement" not in site.keeper.status.warnings


async def test_nothing_is_opened_while_no_kernel_is_wanted(site: Site) -> None:
    site.channels.ids.clear()
    node = site.join("a")
    await site.until(lambda: site.keeper.status.state == "idle")
    assert site.agents["a"].asked("session.open") == []
    site.channels.ids.append("kernel-1")
    site.keeper.changed()
    await site.runs_on("a")
    assert node.hosting == {SESSION}


async def test_a_move_takes_a_last_checkpoint_and_opens_that_elsewhere(site: Site) -> None:
    site.join("a")
    source = await site.runs_on("a")
    await site.checkpointed()
    site.join("b")
    assert await site.drain("a") == ""  # nothing was lost
    target = await site.runs_on("b")
    assert [c["final"] for c in source.asked("session.checkpoint")] == [False, True]
    [opened] = target.asked("session.open")
    assert (opened["manifest"], opened["epoch"], opened["restore_kernels"]) == (2, 2, True)
    assert site.channels.attached == {"kernel-1": 2}
    assert "moved from a to b" in site.said
    await site.until(lambda: site.holders() == [("b", 2)])
    assert site.grants.find(f"token {source.asked('session.open')[0]['blobs']}") is None
    assert site.grants.find(f"token {opened['blobs']}") is not None


async def test_the_target_fetches_the_newest_checkpoint_while_the_last_is_made(site: Site) -> None:
    site.join("a")
    await site.runs_on("a")
    newest = await site.checkpointed()
    site.join("b")
    await site.drain("a")
    target = await site.runs_on("b")
    asked = [name for name, _ in target.calls]
    assert asked[:3] == ["session.status", "session.stage", "session.open"]
    assert target.asked("session.stage")[0]["manifest"] == newest.number


async def test_without_a_last_checkpoint_the_newest_is_taken_and_that_is_said(site: Site) -> None:
    site.join("a")
    source = await site.runs_on("a")
    newest = await site.checkpointed()
    source.next["session.checkpoint"] = [fails(remote("dump_failed", "a GPU is open"))]
    site.join("b")
    site.drain("a", 0.5)
    target = await site.runs_on("b")
    assert target.asked("session.open")[0]["manifest"] == newest.number
    assert "a GPU is open" in site.said
    assert "a is leaving without a last checkpoint; the newest is taken" in site.said


async def test_a_last_checkpoint_that_fails_is_tried_again_while_there_is_time(site: Site) -> None:
    site.join("a")
    source = await site.runs_on("a")
    newest = await site.checkpointed()
    full = fails(remote("store_full", "no space left"))
    source.next["session.checkpoint"] = [full]
    site.join("b")
    site.drain("a", 30)
    target = await site.runs_on("b")
    assert target.asked("session.open")[0]["manifest"] == newest.number + 1
    assert "no space left" in site.said
    assert "without a last checkpoint" not in site.said


async def test_a_leaving_node_without_an_alternative_is_secured_until_there_is_one(
    site: Site,
) -> None:
    site.join("a")
    await site.runs_on("a")
    draining = site.drain("a")
    await site.until(lambda: "a is leaving and no other node fits" in site.said)
    await site.checkpointed()  # it is still served
    assert not draining.done()
    site.join("b")
    await site.runs_on("b")
    assert await draining == ""


async def test_a_node_that_cannot_take_the_session_is_passed_over(site: Site) -> None:
    site.join("a")
    await site.runs_on("a")
    await site.checkpointed()
    for name in ("b", "c"):
        site.join(name)
    site.agents["b"].next["session.open"] = [fails(remote("restore_failed", "no CRIU"))]
    site.lose("a")
    target = await site.runs_on("c")
    assert "b could not take the session: no CRIU" in site.said
    assert "a was lost; recovered on c from checkpoint 1" in site.said
    assert target.asked("session.open")[0]["epoch"] == 3  # 2 was tried: it is used up
    await site.until(lambda: bool(site.agents["b"].asked("session.close")))


async def test_when_no_node_can_restore_all_kernels_those_that_can_be_are(site: Site) -> None:
    site.join("a")
    await site.runs_on("a")
    await site.checkpointed()
    for name in ("b", "c"):
        site.join(name)
        site.agents[name].next["session.open"] = [fails(remote("restore_failed"))]
    site.lose("a")
    target = await site.runs_on("b")
    first, second = target.asked("session.open")
    assert (first["restore_kernels"], first["partly"]) == (True, False)
    assert (second["restore_kernels"], second["partly"]) == (True, True)
    assert second["manifest"] == 1  # the files are those of the checkpoint
    assert "those that can be restored are, the others start anew" in site.said


async def test_when_no_node_can_restore_any_kernel_all_start_anew_and_that_is_said(
    site: Site,
) -> None:
    site.join("a")
    await site.runs_on("a")
    await site.checkpointed()
    site.join("b")
    failing = fails(remote("invalid_image"))
    site.agents["b"].next["session.open"] = [failing, failing]
    site.lose("a")
    target = await site.runs_on("b")
    last = target.asked("session.open")[-1]
    assert (last["restore_kernels"], last["manifest"]) == (False, 1)
    assert "no node could restore the kernels of checkpoint 1: they start anew" in site.said


async def test_a_store_that_is_away_costs_no_kernel_however_long(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "PAUSE_WITHOUT_STORE", 0.01)
    site.join("a")
    await site.runs_on("a")
    newest = await site.checkpointed()
    for name in ("b", "c"):
        site.join(name)
        away = fails(remote("store_unavailable", "no answer"))
        site.agents[name].next["session.open"] = [away] * 5
    site.lose("a")
    await site.until(lambda: site.keeper.status.node in {"b", "c"})
    opened = [call for one in "bc" for call in site.agents[one].asked("session.open")]
    assert len(opened) > 8
    for call in opened:
        assert (call["manifest"], call["restore_kernels"]) == (newest.number, True)
        assert not call["partly"]
    assert site.said.count("the session waits for its store: no answer") == 1
    assert "store" not in site.keeper.status.warnings


async def test_files_that_no_node_can_write_are_those_of_an_older_checkpoint(site: Site) -> None:
    site.join("a")
    await site.runs_on("a")
    await site.checkpointed()
    await site.checkpointed()
    for name in ("b", "c"):
        site.join(name)
        site.agents[name].next["session.open"] = [fails(remote("files_not_written"))]
    site.lose("a")
    target = await site.runs_on("b")
    opened = [
        (call["manifest"], call["restore_kernels"], call["partly"])
        for call in target.asked("session.open")
    ]
    assert opened == [(2, True, False), (1, True, False)]
    assert len(site.agents["c"].asked("session.open")) == 1
    assert "checkpoint 2 was skipped, it cannot be restored: no node could write" in site.said
    assert "going back to checkpoint 1" in site.said
    assert "are restored" not in site.said


async def test_a_full_disk_does_not_cost_the_only_checkpoint(site: Site) -> None:
    site.join("a")
    await site.runs_on("a")
    await site.checkpointed()
    site.join("b")
    site.agents["b"].next["session.open"] = [fails(remote("files_not_written"))]
    site.lose("a")
    await site.until(lambda: site.keeper.status.state == "failed")
    site.join("c")
    target = await site.runs_on("b")
    assert [call["manifest"] for call in target.asked("session.open")] == [1, 1]
    assert "was skipped" not in site.said


async def test_a_node_that_does_not_fit_does_not_keep_the_session_waiting(site: Site) -> None:
    site.join("a")
    await site.runs_on("a")
    await site.checkpointed()
    site.join("b")
    site.join("p", runtime="process", engines=["namespace"])
    site.agents["b"].next["session.open"] = [fails(remote("restore_failed"))]
    site.lose("a")
    await site.until(lambda: "those that can be restored are" in site.said)
    await site.runs_on("b")  # the files, too, are of use in containers alone


@pytest.mark.parametrize("code", ["damaged", "not_found", "unknown_format", "wrong_key"])
async def test_a_damaged_checkpoint_is_skipped_for_the_one_before_and_named(
    site: Site, code: str
) -> None:
    site.join("a")
    await site.runs_on("a")
    await site.checkpointed()
    await site.checkpointed()
    site.join("b")
    site.agents["b"].next["session.open"] = [fails(remote(code, "chunk 17 is damaged"))]
    site.lose("a")
    target = await site.runs_on("b")
    assert [c["manifest"] for c in target.asked("session.open")] == [2, 1]
    assert "checkpoint 2 was skipped, it cannot be restored: chunk 17 is damaged" in site.said
    assert "going back to checkpoint 1" in site.said
    # The next one does not take the damaged one's number.
    assert (await site.checkpointed()).number == 3


async def test_writes_that_cannot_be_done_again_are_said_and_cost_nothing_else(site: Site) -> None:
    site.join("a")

    async def opened(params: dict[str, Any]) -> Any:
        done = site.agents["a"]._session_open(**params)
        return {**done, "refused": ["rename a was not done again: a: no such file"]}

    site.agents["a"].next["session.open"] = [opened]
    await site.runs_on("a")
    assert "rename a was not done again" in site.said


async def test_a_node_lost_while_it_opens_the_session_is_given_up_at_once(site: Site) -> None:
    hangs = asyncio.Event()

    async def hang(params: dict[str, Any]) -> Any:
        hangs.set()
        await asyncio.get_running_loop().create_future()

    site.join("a")
    site.agents["a"].next["session.open"] = [hang]
    await hangs.wait()
    token = site.agents["a"].asked("session.open")[0]["blobs"]
    site.join("b")
    site.lose("a")
    target = await site.runs_on("b")
    assert target.asked("session.open")[0]["epoch"] == 2
    assert site.grants.find(f"token {token}") is None


async def test_a_kernel_deleted_while_the_session_opens_is_stopped_there(site: Site) -> None:
    site.channels.ids.append("kernel-2")

    async def opened(params: dict[str, Any]) -> Any:
        done = site.agents["a"]._session_open(**params)
        site.channels.ids.remove("kernel-2")
        await site.keeper.kernels.stop("kernel-2")
        return done

    site.join("a")
    site.agents["a"].next["session.open"] = [opened]
    agent = await site.runs_on("a")
    await site.until(lambda: agent.kernels == {"kernel-1"})
    assert site.channels.attached == {"kernel-1": 1}


async def test_a_stale_writer_is_told_and_goes_on_from_the_others_when_it_is_started_anew(
    site: Site,
) -> None:
    site.join("a")
    agent = await site.runs_on("a")
    first = await site.checkpointed()
    site.repository.commit(replace(first, number=2, epoch=9, parent=1, created=5.0))
    site.channels.ended += 1
    site.keeper.changed()
    await site.until(lambda: agent.epoch is None and site.keeper.status.state == "failed")
    assert "another gateway has this session" in " ".join(site.keeper.status.warnings.values())
    assert [c["epoch"] for c in agent.asked("session.close")] == [1]
    assert len(agent.asked("session.open")) == 1
    await site.restart()
    site.join("a")
    await site.runs_on("a")
    assert agent.asked("session.open")[1]["manifest"] == 2
    assert site.holders() == [("a", agent.epoch)]
    assert (agent.epoch or 0) > 9
    assert (await site.checkpointed()).number == 3


async def test_a_commit_whose_answer_was_lost_is_not_taken_for_somebody_elses(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.join("a")
    agent = await site.runs_on("a")
    commit = site.repository.commit

    def commits_and_fails(manifest: Manifest) -> None:
        commit(manifest)
        monkeypatch.setattr(site.repository, "commit", commit)
        raise StoreUnavailable("no answer")

    monkeypatch.setattr(site.repository, "commit", commits_and_fails)
    site.channels.ended += 1
    site.keeper.changed()
    await site.until(lambda: "no answer" in site.said)
    assert (await site.checkpointed()).number == 2
    assert len(agent.asked("session.open")) == 1
    assert site.repository.numbers() == [1, 2]
    # And the other way round: it is found when the session is opened somewhere else.
    monkeypatch.setattr(site.repository, "commit", commits_and_fails)
    site.channels.ended += 1
    site.keeper.changed()
    await site.until(lambda: site.said.count("no answer") == 2)
    site.join("b")
    site.lose("a")
    target = await site.runs_on("b")
    assert target.asked("session.open")[0]["manifest"] == 3


async def test_a_checkpoint_of_a_node_that_is_lost_while_it_is_committed_counts(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.join("a")
    await site.runs_on("a")
    loop, commit = asyncio.get_running_loop(), site.repository.commit

    def loses_the_node(manifest: Manifest) -> None:
        lost = asyncio.run_coroutine_threadsafe(asyncio.to_thread(lambda: None), loop)
        loop.call_soon_threadsafe(site.lose, "a")
        lost.result(timeout=5)
        commit(manifest)

    monkeypatch.setattr(site.repository, "commit", loses_the_node)
    site.channels.ended += 1
    site.keeper.changed()
    site.join("b")
    target = await site.runs_on("b")
    assert target.asked("session.open")[0]["manifest"] == 1


async def test_damaged_words_of_an_agent_are_a_failed_checkpoint_not_a_dead_keeper(
    site: Site,
) -> None:
    async def nonsense(params: dict[str, Any]) -> Any:
        return {"body": base64.b64encode(b"nonsense").decode()}

    site.join("a")
    agent = await site.runs_on("a")
    agent.next["session.checkpoint"] = [nonsense]
    site.channels.ended += 1
    site.keeper.changed()
    await site.until(lambda: "a checkpoint could not be made" in site.said)
    assert (await site.checkpointed()).number == 1


async def test_whatever_a_step_raises_the_keeper_goes_on(site: Site) -> None:
    async def bug(params: dict[str, Any]) -> Any:
        raise LookupError("a bug")

    site.join("a")
    site.agents["a"].next["session.open"] = [bug]
    await site.runs_on("a")
    assert "a bug" in site.said


async def test_nothing_is_frozen_for_a_target_that_turns_out_dead(site: Site) -> None:
    async def never(_: object) -> None:
        await asyncio.Event().wait()

    site.join("a")
    source = await site.runs_on("a")
    site.join("b")
    site.agents["b"].next["session.status"] = [never]
    drained = site.drain("a")
    await site.until(lambda: bool(site.agents["b"].asked("session.status")))
    site.lose("b")
    await site.until(lambda: "no other node fits" in site.said)
    assert not any(call.get("final") for call in source.asked("session.checkpoint"))
    assert site.keeper.status.state == "running"
    assert site.keeper.node is site.nodes.get("a")
    drained.cancel()
