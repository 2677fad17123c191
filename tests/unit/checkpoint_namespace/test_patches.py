"""What a notebook changed inside imported modules is told by name, and not silently gone."""

from __future__ import annotations

import pytest

from checkpoint.namespace.inside import patches

from .conftest import Moved


def _told(report_also: object) -> list[str]:
    assert isinstance(report_also, dict)
    return [name.removeprefix("change of ") for name in report_also if name.startswith("change")]


def test_changes_of_modules_and_their_classes_are_told_by_name(moved: Moved) -> None:
    moved.kernel.run(
        "import statistics, fractions, string, calendar, copyreg\n"
        "from fractions import Fraction as F\n"
        "statistics.mean = lambda x: 'mine'\nF.shout = lambda self: '!'\nstring.digits += '9'\n"
        "setattr(calendar, 'January', 0)\ncopyreg.dispatch_table[F] = None\ndel string.punctuation"
    )
    told = [
        "statistics.mean", "fractions.Fraction.shout", "string.digits", "calendar.January",
        "copyreg.dispatch_table", "string.punctuation",
    ]  # fmt: skip
    loaded = moved.move()
    assert moved.dumped is not None
    assert sorted(_told(moved.dumped.also)) == sorted(told)
    assert sorted(_told(loaded.also)) == sorted(told)
    assert loaded.also["change of statistics.mean"]["state"] == "lost"
    assert "imported anew" in loaded.also["change of statistics.mean"]["why"]
    assert moved.kernel.value("statistics.mean([1, 3])") == "2"


def test_a_change_made_out_of_sight_is_found_in_the_module(moved: Moved) -> None:
    moved.kernel.run(
        "import statistics as st\ndef mine(x): return 'mine'\n"
        "(lambda module: vars(module).update(mode=mine))(st)"
    )
    assert _told(moved.move().also) == ["statistics.mode"]


def test_what_is_kept_or_was_taken_back_is_not_told(moved: Moved) -> None:
    moved.kernel.run(
        "import os, sys, statistics, numpy as np, matplotlib.pyplot as plt\n"
        "os.environ['A'] = '1'\nsys.path[:0] = ['/x']\nplt.rcParams['lines.linewidth'] = 3\n"
        "own = statistics.mean\nstatistics.mean = None\nstatistics.mean = own\n"
        "class Mine: pass\nMine.attribute = 1\na = np.zeros(3)\na[0] = 1\nbox = Mine()\nbox.x = 1"
    )
    assert _told(moved.move().also) == []


@pytest.mark.parametrize("cell", ["json.x = ", "a.b = c", "json = 3\njson.y = 4", "%%bash\nx=1"])
def test_cells_that_mean_nothing_change_nothing(cell: str) -> None:
    assert patches.found([cell], {"json": 3}, [], []) == []
