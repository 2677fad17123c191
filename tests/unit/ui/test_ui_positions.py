"""How far each tab is, over the end of the process."""

from __future__ import annotations

import os
import time

from sessionkeeper.ui.positions import Position, Positions


def test_newest_position_is_found_by_another_process(tmp_path):
    ours = Positions(tmp_path)
    ours.put("kernel", "tab", Position("journal", 10**12))
    ours.put("kernel", "tab", Position("journal", 7))
    assert Positions(tmp_path).get("kernel", "tab") == Position("journal", 7)


def test_tabs_and_kernels_do_not_share_positions(tmp_path):
    positions = Positions(tmp_path)
    positions.put("kernel", "tab", Position("journal", 1))
    assert positions.get("kernel", "other") is None
    assert positions.get("other", "tab") is None


def test_session_id_is_no_path(tmp_path):
    positions = Positions(tmp_path / "positions")
    positions.put("kernel", "../../escaped", Position("journal", 1))
    assert [entry.name for entry in tmp_path.iterdir()] == ["positions"]


def test_damaged_record_counts_as_none(tmp_path):
    positions = Positions(tmp_path)
    positions.put("kernel", "tab", Position("journal", 1))
    next(tmp_path.iterdir()).write_bytes(b"\xff\x00")
    assert positions.get("kernel", "tab") is None


def test_tabs_of_long_ago_are_forgotten(tmp_path):
    positions = Positions(tmp_path)
    positions.put("kernel", "old", Position("journal", 1))
    long_ago = time.time() - 30 * 24 * 3600
    os.utime(next(tmp_path.iterdir()), (long_ago, long_ago))
    positions.put("kernel", "new", Position("journal", 2))
    again = Positions(tmp_path)
    assert again.get("kernel", "old") is None
    assert again.get("kernel", "new") == Position("journal", 2)
