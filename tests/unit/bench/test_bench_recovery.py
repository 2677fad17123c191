"""What is concluded from a counting cell, and from a session's status."""

from __future__ import annotations

from typing import Any

import pytest

from sessionkeeper.bench.counter import CELL, Count, parse
from sessionkeeper.bench.coverage import Coverage


def _output(stamps: list[float], end: int | None = None) -> str:
    lines = [f"{number} {stamp:.6f}\n" for number, stamp in enumerate(stamps)]
    return "".join([*lines, f"end {len(stamps) - 1 if end is None else end}\n"])


STAMPS = [1000.0 + 0.005 * number for number in range(100)]
MOVED = STAMPS[:50] + [stamp + 0.9 for stamp in STAMPS[50:]]


def test_blackout_is_the_longest_gap_beyond_the_ordinary() -> None:
    assert parse(_output(MOVED)).blackout() == pytest.approx(0.9)
    assert parse(_output(STAMPS)).blackout() == pytest.approx(0.0, abs=1e-5)


def test_two_stalls_are_added_up() -> None:
    twice = [stamp + (0.2 if place >= 30 else 0.0) for place, stamp in enumerate(MOVED)]
    count = parse(_output(twice))
    assert count.blackout() == pytest.approx(0.9)
    assert count.stalled() == pytest.approx(1.1)


def test_whole_count_is_no_trouble() -> None:
    assert parse(_output(MOVED)).trouble() == ""


def test_interrupt_between_counting_and_printing_is_no_trouble() -> None:
    assert parse(_output(STAMPS, end=len(STAMPS))).trouble() == ""


@pytest.mark.parametrize(
    ("numbers", "end", "said"),
    [
        ([0, 1, 3], 3, "number 3 came where 2 was due"),
        ([0, 1, 1, 2], 2, "number 1 came where 2 was due"),
        ([0, 2, 1], 2, "number 2 came where 1 was due"),
        ([0, 1, 2], 5, "3 numbers came, the cell ended at 5"),
        ([0, 1, 2], None, "3 numbers came, the cell ended at None"),
    ],
)
def test_missing_and_double_numbers_are_named(
    numbers: list[int], end: int | None, said: str
) -> None:
    assert Count(numbers, [0.0] * len(numbers), end).trouble() == said


def test_line_that_has_not_ended_is_waited_for() -> None:
    assert list(parse("0 1.0\n1 2.0\n2 3").numbers) == [0, 1]


def test_output_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="Killed"):
        parse("0 1.0\nKilled\n")


def test_cell_prints_what_is_understood() -> None:
    printed: list[str] = []

    class Out:
        def write(self, text: str) -> None:
            printed.append(text)
            if len(printed) == 5:
                raise KeyboardInterrupt

    code = CELL.replace("import sys, time", "import time")
    exec(code, {"sys": type("sys", (), {"stdout": Out()})})
    count = parse("".join(printed))
    assert list(count.numbers) == [0, 1, 2, 3, 4]
    assert count.trouble() == ""


def status(making: bool, number: int | None) -> dict[str, Any]:
    checkpoint = None if number is None else {"number": number}
    return {"checkpointing": making, "checkpoint": checkpoint}


def fed(*messages: tuple[float, bool, int | None]) -> Coverage:
    coverage = Coverage()
    for at, making, number in messages:
        coverage.feed(at, status(making, number))
    return coverage


def test_commit_covers_what_was_there_when_the_checkpoint_began() -> None:
    coverage = fed((1, False, None), (10, True, None), (12, False, None), (12.1, False, 1))
    assert coverage.rests(10)
    assert not coverage.rests(11)


def test_checkpoint_that_is_not_committed_covers_nothing() -> None:
    assert not fed((1, False, 4), (10, True, 4), (12, False, 4)).rests(9)


def test_failed_checkpoint_is_not_taken_for_the_next_one() -> None:
    coverage = fed((1, False, 4), (10, True, 4), (12, False, 4), (20, True, 4), (21, False, 5))
    assert coverage.rests(20)
    assert not coverage.rests(21)


def test_there_is_no_rest_while_the_next_one_is_made() -> None:
    assert not fed((1, False, 1), (2, True, 1), (3, False, 2), (4, True, 2)).rests(2)


def test_checkpoint_that_was_under_way_at_first_sight_covers_nothing() -> None:
    assert not fed((5, True, 1), (6, False, 2)).rests(5)
