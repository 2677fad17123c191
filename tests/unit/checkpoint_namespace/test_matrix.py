"""Every kind of object is exact, degraded or lost as promised, and never another value.

All cases share one kernel: it is killed, loaded in a new process, and that one again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.namespace import engine

from .cases import CASES, Case
from .conftest import Kernel


class Outcome:
    """Reports of two moves, and what each case's check said after each of them."""

    def __init__(self) -> None:
        self.dumps: list[engine.Report] = []
        self.loads: list[engine.Report] = []
        self.checks: list[dict[str, str]] = []


def _check_all(kernel: Kernel, report: engine.Report | None) -> dict[str, str]:
    results = {}
    for case in CASES:
        if report is not None and case.state == "lost":
            results[case.name] = kernel.value(f"{case.name!r} in globals()")
            continue
        try:
            results[case.name] = kernel.value(f"bool({case.check})")
        except RuntimeError as error:
            results[case.name] = str(error)
    return results


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    workspace = tmp_path_factory.mktemp("workspace")
    directory = tmp_path_factory.mktemp("dumps")
    outcome = Outcome()
    kernel = Kernel(workspace)
    try:
        for case in CASES:
            kernel.run(case.code)
        outcome.checks.append(_check_all(kernel, None))
        for move in range(2):
            place = Path(directory, str(move))
            outcome.dumps.append(kernel.dump(place))
            kernel.kill()
            kernel = Kernel(workspace)
            outcome.loads.append(kernel.load(place))
            outcome.checks.append(_check_all(kernel, outcome.loads[-1]))
        yield outcome
    finally:
        kernel.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_object_is_what_the_report_says(case: Case, outcome: Outcome) -> None:
    assert outcome.checks[0][case.name] == "True", "the case itself is wrong"
    assert outcome.dumps[0].variables[case.name].state == case.state
    loaded = outcome.loads[0].variables[case.name]
    assert loaded.state == case.state, loaded.why
    assert (loaded.why is None) == (case.state == "exact")
    # A lost variable has no name any more: no other value in its place.
    expected = "False" if case.state == "lost" else "True"
    assert outcome.checks[1][case.name] == expected


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.state != "lost"], ids=lambda case: case.name
)
def test_object_survives_a_second_move(case: Case, outcome: Outcome) -> None:
    state = outcome.loads[1].variables[case.name]
    assert state.state == ("exact" if case.name in ("caught",) else case.state), state.why
    assert outcome.checks[2][case.name] == "True"
