"""What sessions cost outlives the gateway's process, and with checkpoints its disk."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from keeper_rig import SESSION, Site

from sessionkeeper.bill import Row, Wanted
from sessionkeeper.keeper import ledger as module
from sessionkeeper.keeper.ledger import BILL, Ledger
from sessionkeeper.keeper.nodes import Nodes
from sessionkeeper.leases import Leases


def account(file: Path, nodes: Nodes) -> Ledger:
    return Ledger(file, nodes, lambda session: "ann")


@pytest.fixture
async def nodes() -> Nodes:
    found = Nodes(Leases(60.0), lambda node: None)
    found.expect("n1")
    return found


def seconds(ledger: Ledger, session: str = "a") -> float:
    ledger.settle()
    return sum(row.seconds for row in ledger.rows(Wanted(session=session)))


async def test_what_was_written_down_is_there_after_a_kill(
    tmp_path: Path, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = account(tmp_path / "bill", nodes)
    nodes.get("n1").take("a")
    was = seconds(first)
    # Killed: nothing is closed. The session is still on the node, and was meanwhile.
    later = time.time() + 60.0
    with monkeypatch.context() as clock:
        clock.setattr(time, "time", lambda: later)
        again = account(tmp_path / "bill", nodes)
        assert was + 60.0 <= seconds(again) < was + 120.0
    nodes.get("n1").release("a")
    done = seconds(again)
    again.close()
    assert seconds(account(tmp_path / "bill", nodes)) == done


async def test_a_session_that_left_meanwhile_is_not_charged_for_it(
    tmp_path: Path, nodes: Nodes
) -> None:
    first = account(tmp_path / "bill", nodes)
    nodes.get("n1").take("a")
    was = seconds(first)
    nodes.get("n1").hosting.clear()
    assert seconds(account(tmp_path / "bill", nodes)) == was


async def test_a_gateway_on_an_empty_disk_has_it_from_the_checkpoint_and_a_fork_has_not(
    tmp_path: Path, nodes: Nodes
) -> None:
    first = account(tmp_path / "bill", nodes)
    nodes.get("n1").take("a")
    first.recovered("a", "n1", 3.0, 40.0)
    meta = first.of_session("a")
    nodes.get("n1").hosting.clear()
    other = account(tmp_path / "other", nodes)
    other.take_over("a", meta)
    other.take_over("a", meta)  # once more changes nothing
    (row,) = other.rows()
    assert (row.recoveries, row.lost, row.repeated, row.owner) == (1, 3.0, 40.0, "ann")
    other.take_over("fork", meta)
    assert len(other.rows()) == 1
    other.take_over("a", {BILL: {"session": "a", "rows": [{"day": 1}]}})
    other.take_over("a", {BILL: "damaged"})
    assert other.rows() == [row]


async def test_an_older_checkpoint_takes_nothing_back(tmp_path: Path, nodes: Nodes) -> None:
    ledger = account(tmp_path / "bill", nodes)
    nodes.get("n1").take("a")
    old = ledger.of_session("a")
    nodes.get("n1").release("a")
    was = seconds(ledger)
    ledger.take_over("a", old)
    assert seconds(ledger) == was


async def test_an_account_that_cannot_be_read_keeps_no_checkpoint_from_being_made(
    tmp_path: Path, nodes: Nodes
) -> None:
    ledger = account(tmp_path / "bill", nodes)
    ledger.close()
    assert ledger.of_session("a") == {}


async def test_a_checkpoint_has_the_newest_rows_of_a_long_life(
    tmp_path: Path, nodes: Nodes
) -> None:
    ledger = account(tmp_path / "bill", nodes)
    days = [f"2026-{month:02}-{day:02}" for month in range(1, 13) for day in range(1, 29)]
    old = [Row(day, "a", "n1", seconds=1.0).json() for day in days]
    ledger.take_over("a", {BILL: {"session": "a", "rows": old}})
    kept = ledger.of_session("a")[BILL]["rows"]
    assert [row["day"] for row in kept] == days[-module.KEPT_ROWS :]


async def test_a_loss_is_told_with_what_it_cost_and_a_planned_move_is_none(site: Site) -> None:
    told: list[tuple[str, str, float, float]] = []
    site.nodes.pool.recovered = lambda *what: told.append(what)
    site.join("a")
    await site.runs_on("a")
    await site.checkpointed()
    site.join("b")
    await site.drain("a")
    await site.runs_on("b")
    assert told == []
    site.lose("b")
    site.join("c")
    await site.runs_on("c")
    ((session, node, lost, repeated),) = told
    assert (session, node) == (SESSION, "c")
    assert 0 <= lost < 10
    assert repeated == 0.0  # everything was in the checkpoint


async def test_a_damaged_account_is_put_aside_and_checkpoints_have_what_was_in_it(
    tmp_path: Path, nodes: Nodes
) -> None:
    first = account(tmp_path / "bill.sqlite", nodes)
    nodes.get("n1").take("a")
    nodes.get("n1").release("a")
    meta, was = first.of_session("a"), seconds(first)
    first.close()
    (tmp_path / "bill.sqlite").write_bytes(b"no database" * 1000)
    again = account(tmp_path / "bill.sqlite", nodes)
    assert again.rows() == []
    assert (tmp_path / "bill.damaged").read_bytes().startswith(b"no database")
    again.take_over("a", meta)
    assert seconds(again) == was
