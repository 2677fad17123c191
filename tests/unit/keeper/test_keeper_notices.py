"""Notices at the gateway: of operators and of nodes, and what a user reads of them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from keeper_rig import Site

from sessionkeeper.keeper.notices import LONGEST_REASON, Notices, Word, word_of


@pytest.mark.parametrize(
    ("event", "word"),
    [
        ({"reason": None, "seconds": None}, Word()),
        ({}, Word()),
        ({"reason": "AWS", "seconds": 112.5}, Word("AWS", 112.5)),
        ({"reason": "AWS", "seconds": 0}, Word("AWS", 0.0)),
        ({"reason": "maybe", "seconds": None}, Word("maybe")),
        ({"reason": "", "seconds": 5}, Word("it gave no reason", 5.0)),
        ({"reason": "two\nlines \x09 of it", "seconds": 5}, Word("two lines of it", 5.0)),
        ({"reason": "x" * 1000, "seconds": 5}, Word("x" * LONGEST_REASON, 5.0)),
        ({"reason": "AWS", "seconds": -1}, None),
        ({"reason": "AWS", "seconds": math.nan}, None),
        ({"reason": "AWS", "seconds": 1e9}, None),
        ({"reason": "AWS", "seconds": "5"}, None),
    ],
)
def test_what_a_node_says_is_taken_or_it_makes_no_sense(
    event: dict[str, Any], word: Word | None
) -> None:
    assert word_of(event) == word


def test_neither_takes_back_what_the_other_said_and_the_earliest_counts(tmp_path: Path) -> None:
    notices = Notices(tmp_path / "notices.json")
    notices.give("a", "1", 100)
    notices.give("a", "1", 50, "AWS", by="node")
    found = Notices(tmp_path / "notices.json").leaving("a", "1")  # over a restart
    assert found is not None
    assert found.reason == "AWS"
    assert 45 < found.left() <= 50
    notices.withdraw("a", by="node")
    left = notices.leaving("a", "1")
    assert left is not None
    assert not left.reason
    assert notices.leaving("a", "another life") is None
    notices.withdraw("a")
    assert notices.leaving("a", "1") is None
    assert Notices(tmp_path / "notices.json").leaving("a", "1") is None


async def test_a_node_that_says_it_goes_is_drained_and_the_user_reads_why(site: Site) -> None:
    node = site.join("a")
    await site.runs_on("a")
    await site.checkpointed()
    site.join("b")
    site.nodes.noticed(node, Word("AWS takes the spot instance back", 112))
    await site.runs_on("b")
    assert "a goes in 112 s (AWS takes the spot instance back)" in site.said
    assert "notice" not in site.keeper.status.warnings
    [report] = [one for one in site.nodes.report() if one["name"] == "a"]
    words = re.fullmatch(
        r"a goes in (\d+) s \(AWS takes the spot instance back\)", report["notice"]
    )
    assert words
    assert 100 < int(words[1]) <= 112
    site.nodes.left(node)
    [report] = [one for one in site.nodes.report() if one["name"] == "a"]
    assert report["notice"] is None


async def test_advice_is_said_and_moves_nothing(site: Site) -> None:
    node = site.join("a")
    await site.runs_on("a")
    site.join("b")
    site.nodes.noticed(node, Word("AWS expects to take it back"))
    await site.until(
        lambda: (
            site.keeper.status.warnings.get("notice")
            == "a may go soon (AWS expects to take it back)"
        )
    )
    assert node.ready
    site.nodes.noticed(node, Word())
    await site.until(lambda: "notice" not in site.keeper.status.warnings)


async def test_a_node_that_stays_after_all_takes_sessions_again_unless_an_operator_drains_it(
    site: Site,
) -> None:
    node = site.join("a")
    await site.runs_on("a")
    site.nodes.noticed(node, Word("AWS", 112))
    assert not node.ready
    site.nodes.noticed(node, Word())
    assert node.ready
    assert node.notice is None
    site.nodes.drain(node, 100)
    site.nodes.noticed(node, Word("AWS", 50))
    site.nodes.noticed(node, Word())
    assert not node.ready
    site.nodes.uncordon(node)
    assert node.ready
