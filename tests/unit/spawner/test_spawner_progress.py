"""What is read while a server starts."""

from __future__ import annotations

from typing import Any

import pytest

from sessionkeeper.spawner.progress import is_there, told


def status(
    state: str, node: str | None = None, number: int | None = None, message: str = ""
) -> Any:
    checkpoint = {"number": number} if number else None
    return {"state": state, "node": node, "checkpoint": checkpoint, "message": message}


LINE = {"node": None, "reasons": {"node-1": "has 100 MB left"}, "place": 2, "line": 3}


@pytest.mark.parametrize(
    ("said", "why", "text"),
    [
        (status("hibernated"), None, "The session hibernates, and is woken"),
        (
            status("waiting"),
            LINE,
            "Waiting for a node, place 2 of 3 in the line (node-1: has 100 MB left)",
        ),
        (status("waiting"), None, "Waiting for a node"),
        (status("starting", "node-1"), None, "Starting on node-1"),
        (status("recovering", "node-1", 4), None, "Restoring checkpoint 4 on node-1"),
        (status("running", "node-2", 4), None, "Running on node-2"),
        (status("building", message="installing numpy"), None, "installing numpy"),
    ],
)
def test_status_is_told_in_words(said, why, text):
    assert told(said, why)["message"] == text


def test_bar_never_goes_back_on_the_way_to_a_node():
    way = [status("hibernated"), status("waiting"), status("starting"), status("running")]
    bars = [told(one, None)["progress"] for one in way]
    assert bars == sorted(bars)


@pytest.mark.parametrize(
    ("state", "there"),
    [("running", True), ("idle", True), ("failed", True), ("waiting", False), ("building", False)],
)
def test_start_waits_only_for_what_may_still_change(state, there):
    assert is_there(status(state)) is there
