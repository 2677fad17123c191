"""The checker finds what is wrong in histories that were made up, and nothing in a good one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaos.checker import trouble
from chaos.history import Cell, Commit, Heard, History, KernelHistory


def cell(number: int, count: int, parts: int = 2) -> Cell:
    return Cell(number, parts, "ok", tuple(f"{number} {count} {part}" for part in range(parts)))


CELLS = (cell(0, 1), cell(1, 2), cell(2, 3))
KERNEL = KernelHistory("a", CELLS, (0, 1, 2), (0, 1, 2))
CHAIN = (Commit(1, 1, "g"), Commit(2, 1, "g"), Commit(3, 4, "g"))
HEARD = (Heard(1, "node-1"), Heard(1, "node-1"), Heard(4, "node-2"))
GOOD = History((KERNEL,), CHAIN, HEARD)


def of(cells: tuple[Cell, ...] = CELLS, **there: tuple[int, ...]) -> History:
    return replace(GOOD, kernels=(replace(KERNEL, cells=cells, **there),))


def test_history_as_promised_has_no_trouble() -> None:
    assert trouble(GOOD) == []


def test_cell_that_nobody_acknowledged_may_be_there_or_not() -> None:
    unknown = (*CELLS, Cell(3, 2, "unknown", ()))
    assert trouble(of(unknown)) == []
    assert trouble(of(unknown, memory=(0, 1, 2, 3), file=(0, 1, 2, 3))) == []


WRONG = {
    "an acknowledged cell is lost": (
        of(memory=(0, 2), file=(0, 2)),
        "1 was acknowledged and is not there",
    ),
    "a cell ran twice": (of(memory=(0, 1, 1, 2), file=(0, 1, 1, 2)), "1 is there 2 times"),
    "a file was appended to twice": (of(file=(0, 1, 1, 2)), "file: 1 is there 2 times"),
    "memory and file are not of one moment": (of(file=(0, 1)), "the file (0, 1)"),
    "an unknown cell ran twice": (
        of((*CELLS, Cell(3, 2, "unknown", ())), memory=(0, 1, 2, 3, 3), file=(0, 1, 2, 3, 3)),
        "3 is there 2 times",
    ),
    "cells ran in another order": (of(memory=(0, 2, 1), file=(0, 2, 1)), "1 comes after 2"),
    "something was never asked": (of(memory=(0, 1, 2, 9), file=(0, 1, 2, 9)), "9 was never asked"),
    "a cell failed": (
        of((*CELLS[:2], Cell(2, 2, "error", ("KernelLost: gone",)))),
        "cell 2 failed: KernelLost: gone",
    ),
    "an output is missing": (
        of((*CELLS[:2], replace(CELLS[2], shown=("2 3 0",)))),
        "cell 2 shows ('2 3 0',)",
    ),
    "an output is shown twice": (
        of((*CELLS[:2], replace(CELLS[2], shown=("2 3 0", "2 3 0", "2 3 1")))),
        "cell 2 shows",
    ),
    "outputs are in another order": (
        of((*CELLS[:2], replace(CELLS[2], shown=("2 3 1", "2 3 0")))),
        "cell 2 shows",
    ),
    "an output is of a run that was taken back": (
        of((*CELLS[:2], replace(CELLS[2], shown=("2 4 0", "2 4 1")))),
        "cell 2 shows",
    ),
    "an incarnation that was over committed": (
        replace(GOOD, commits=(*CHAIN, Commit(4, 1, "g"))),
        "checkpoint 4 is of epoch 1, which was over",
    ),
    "two gateways committed in one epoch": (
        replace(GOOD, commits=(*CHAIN, Commit(4, 4, "h"))),
        "epoch 4 was committed by g and h",
    ),
    "two checkpoints have one number": (
        replace(GOOD, commits=(*CHAIN, Commit(3, 4, "g"))),
        "checkpoint 3 comes after 3",
    ),
    "an incarnation was on two nodes": (
        replace(GOOD, heard=(*HEARD, Heard(4, "node-1"))),
        "epoch 4 was on node-2 and on node-1",
    ),
    "an incarnation that was over was heard": (
        replace(GOOD, heard=(*HEARD, Heard(1, "node-1"))),
        "epoch 1 was heard after 4",
    ),
}


@pytest.mark.parametrize(("history", "words"), WRONG.values(), ids=WRONG.keys())
def test_whatever_breaks_a_promise_is_found_and_named(history: History, words: str) -> None:
    found = trouble(history)
    assert any(words in text for text in found), found
