"""How runs become figures, and what is printed of them."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from sessionkeeper.bench import checkpoint, gateway, machine, report
from sessionkeeper.bench.figures import REQUIRED, Figure, median, percentile


def test_median_is_the_middle_of_all_runs() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.5
    assert median([]) is None


def test_failed_run_counts_as_the_slowest() -> None:
    assert median([1.0, None, 3.0]) == 3.0
    assert median([1.0, None]) is None
    assert Figure("x_s", runs=[0.1, None, None], must=1.0).verdict == "short"


def test_percentile_is_a_value_that_was_measured() -> None:
    values = [float(number) for number in range(300, 0, -1)]
    assert percentile(values, 50) == 150
    assert percentile(values, 99) == 297
    assert percentile([7.0], 99) == 7.0


def test_verdict_compares_the_median_with_what_is_required() -> None:
    assert Figure("x_s", runs=[1.0], must=1.0).verdict == "ok"
    assert Figure("x_s", runs=[1.1], must=1.0).verdict == "short"
    assert Figure("x_s", runs=[1.1]).verdict == ""


def test_json_is_one_object_with_the_promised_keys() -> None:
    figure = Figure("latency_p50_ms", [3.0, 4.0, 5.0], {"jupyter-server": 44.0}, must=6.0)
    said = json.loads(report.as_json("latency", machine.describe(), [figure]))
    assert said.keys() == {"bench", "machine", "figures"}
    assert said["figures"] == [
        {
            "name": "latency_p50_ms",
            "value": 4.0,
            "unit": "ms",
            "must": 6.0,
            "runs": [3.0, 4.0, 5.0],
            "peers": {"jupyter-server": 44.0},
        }
    ]


def test_failures_are_in_the_json() -> None:
    figure = Figure("drain_blackout_50mb_s", [None], failures=["run 1: number 7 came twice"])
    assert figure.json()["value"] is None
    assert figure.json()["runs"] == [None]
    assert figure.json()["failures"] == ["run 1: number 7 came twice"]


@pytest.mark.parametrize("name", REQUIRED)
def test_unit_is_in_the_name(name: str) -> None:
    units = {"s", "ms", "mb", "kb", "mb_per_s", "ratio", "percent", "lost", "leftovers", "kept"}
    assert Figure(name).unit in units


def test_of_a_rate_more_is_better_and_a_failed_run_is_the_slowest() -> None:
    assert Figure("store_mb_per_s", [500.0, 300.0, 450.0], must=400.0).verdict == "ok"
    assert Figure("store_mb_per_s", [500.0, None, 300.0], must=400.0).verdict == "short"
    assert Figure("store_mb_per_s", [500.0, None, 300.0]).value == 300.0
    assert Figure("store_mb_per_s", [None, None, 500.0], must=400.0).verdict == "short"


def test_each_figure_of_a_checkpoint_is_measured_and_has_a_bound() -> None:
    measured = {name for names in checkpoint.FIGURES.values() for name in names}
    assert measured <= set(REQUIRED)
    assert set(gateway.FIGURES) <= set(REQUIRED)


def test_table_shows_required_verdict_peers_and_failures() -> None:
    facts: dict[str, Any] = machine.describe()
    out = io.StringIO()
    figures = [
        Figure("drain_blackout_50mb_s", [0.5], {"jupyter-server": None}, must=1.0),
        Figure("kernel_start_s", [2.0, None], {"jupyter-server": 0.9}, ["run 2: gone"], must=1.0),
    ]
    report.print_table(facts, figures, Console(file=out, width=80))
    drain, start = (line.split() for line in out.getvalue().splitlines() if "_s " in line)
    assert drain == ["drain_blackout_50mb_s", "0.5", "1", "ok", "0.5-0.5", "1/1", "cannot"]
    assert start == ["kernel_start_s", "none", "1", "short", "2-2", "1/2", "0.9"]
    assert "kernel_start_s: run 2: gone" in out.getvalue()


def test_machine_says_whether_it_is_busy() -> None:
    facts = machine.describe()
    assert facts["cores"] >= 1
    assert facts["memory_bytes"] > 2**28
    assert facts["busy"] == (facts["load"] > machine.BUSY * facts["cores"])
    assert facts["versions"]["jupyter_server"]


def test_of_what_is_kept_every_run_must_be_good() -> None:
    good = Figure("drain20_kept", runs=[20.0, 20.0], must=20.0)
    assert (good.value, good.verdict, good.unit) == (20.0, "ok", "kept")
    one_short = Figure("drain20_kept", runs=[20.0, 19.0, 20.0], must=20.0)
    assert (one_short.value, one_short.verdict) == (19.0, "short")
    assert Figure("drain20_kept", runs=[20.0, None], must=20.0).verdict == "short"
