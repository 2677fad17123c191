"""What an agent finds again when it is started anew."""

from __future__ import annotations

import time
from pathlib import Path

from sessionkeeper.agent.ledger import Ledger

FACTS = {"session": "one", "epoch": 3, "key": "secret"}


def test_what_was_remembered_is_there_for_the_next_agent(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.remember("one", FACTS)
    ledger.remember("two", {"session": "two"})
    ledger.remember("two", {"session": "two", "epoch": 1})
    ledger.granted(until := time.monotonic() + 5)
    again = Ledger(tmp_path / "ledger")
    found = sorted(again.sessions(), key=lambda one: one["session"])
    assert found == [FACTS, {"session": "two", "epoch": 1}]
    assert again.lease() == until
    assert again.instance() == ledger.instance()


def test_forgotten_sessions_are_gone_and_forgetting_twice_is_no_error(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.remember("one", FACTS)
    ledger.forget("one")
    ledger.forget("one")
    assert ledger.sessions() == []


def test_a_new_node_is_another_one_even_under_the_same_name(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "a").instance() != Ledger(tmp_path / "b").instance()


def test_keys_are_for_the_nodes_root_alone(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.remember("one", FACTS)
    assert (tmp_path / "ledger").stat().st_mode & 0o777 == 0o700
    assert all(p.stat().st_mode & 0o077 == 0 for p in (tmp_path / "ledger").iterdir())


def test_a_lease_of_an_earlier_boot_is_none(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.lease() == 0.0
    ledger.granted(time.monotonic() + 1e6)  # that clock was further than this one
    assert ledger.lease() == 0.0
    (tmp_path / "lease").write_text("half wri")
    assert ledger.lease() == 0.0


def test_a_crash_in_mid_write_leaves_what_was(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.remember("one", FACTS)
    (tmp_path / "one.session.new").write_text('{"sess')
    assert Ledger(tmp_path).sessions() == [FACTS]
