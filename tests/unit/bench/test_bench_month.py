"""The simulated month: what is counted, and that the real policy loses least."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from sessionkeeper.bench.month import (
    AUTO,
    COMMIT,
    DAY,
    FIXED,
    MEAN_LIFE,
    WAVE_SHARE,
    WAVES,
    Checkpoint,
    Life,
    automatic,
    fixed,
    lives,
    month,
    outcome,
    simulate,
    trace,
)
from sessionkeeper.bench.months import picture, table
from sessionkeeper.policy import QUIET


def life(*cells: tuple[float, float], losses: tuple[float, ...] = (), pause: float = 0.5) -> Life:
    return Life(cells, pause, losses, lambda now: 14400.0)


def test_what_ran_since_the_newest_committed_checkpoint_is_repeated() -> None:
    one = life((0, 10), (20, 30), losses=(25.0,))
    assert outcome(one, iter([])).repeated == 15
    assert outcome(one, iter([Checkpoint(5.0, 0.5)])).repeated == 10
    # One that was not committed yet is of no use.
    late = Checkpoint(25.0 - 0.5 - COMMIT + 0.01, 0.0)
    assert outcome(one, iter([Checkpoint(5.0, 0.5), late])).repeated == 10
    done = outcome(one, iter([Checkpoint(5.0, 0.5), Checkpoint(12.0, 0.0)]))
    assert (done.repeated, done.stood, done.lost, done.checkpoints, done.work) == (
        5,
        0.5,
        5.5,
        2,
        20,
    )


def test_a_loss_while_nothing_ran_repeats_what_was_not_saved() -> None:
    assert outcome(life((0, 10), losses=(15.0, 16.0)), iter([])).repeated == 20
    assert outcome(life((0, 10), losses=(15.0,)), iter([Checkpoint(11.0, 0.0)])).repeated == 0


def test_a_clock_strikes_in_cells_and_after_them_and_not_when_nothing_ran() -> None:
    taken = list(fixed(life((10, 130), (400, 410)), 60.0))
    assert taken == [
        Checkpoint(60, 0.5),
        Checkpoint(120, 0.5),
        Checkpoint(180, 0),
        Checkpoint(420, 0),
    ]
    assert [one.at for one in fixed(life((10, 59), (500, 501)), 60.0)] == [60, 540]


def test_who_wants_to_run_a_cell_during_a_checkpoint_waits_for_it() -> None:
    taken = list(fixed(life((10, 59.9), (60.2, 61)), 60.0))
    assert taken[0].at == 60
    assert taken[0].stood == pytest.approx(0.3)


def test_the_real_policy_saves_after_a_cell_and_in_a_long_one() -> None:
    taken = list(automatic(life((100, 102), (200, 1200))))
    assert taken[0] == Checkpoint(102 + QUIET, 0.0)
    inside = [one for one in taken if 200 <= one.at < 1200]
    assert 4 <= len(inside) <= 12
    assert all(one.stood == 0.5 for one in inside)
    assert taken[-1].at >= 1200 + QUIET


def test_nodes_go_as_often_as_it_says() -> None:
    losses = trace(random.Random(1), 50, 200)
    expected = 200 * DAY * (1 / MEAN_LIFE + WAVE_SHARE / WAVES)
    assert sum(map(len, losses)) / 50 == pytest.approx(expected, rel=0.05)
    assert all(own == sorted(own) for own in losses)
    hours = [at % DAY / 3600 for own in losses for at in own]
    assert sum(12 <= h < 18 for h in hours) > 1.5 * sum(0 <= h < 6 for h in hours)


def test_what_is_believed_of_a_node_comes_near_what_is_so() -> None:
    one = next(lives(1, 40, 30))
    truth = 1 / (1 / MEAN_LIFE + WAVE_SHARE / WAVES)
    assert one.believed(0.0) == pytest.approx(4 * 3600)
    assert one.believed(30 * DAY) == pytest.approx(truth, rel=0.5)


def test_cells_of_a_session_do_not_overlap() -> None:
    cells = month(random.Random(3), 30)
    assert all(begin < end for begin, end in cells)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(cells))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_real_policy_loses_least_of_the_four(seed: int) -> None:
    found = simulate(seed, sessions=20, days=10)
    assert found.keys() == {AUTO, *FIXED}
    assert len({round(one.work) for one in found.values()}) == 1
    assert found[AUTO].lost == min(one.lost for one in found.values())


def test_it_is_the_same_month_each_time_and_can_be_shown() -> None:
    found = simulate(4, sessions=10, days=3)
    assert found == simulate(4, sessions=10, days=3)
    assert len(table(found).splitlines()) == 6
    ET.fromstring(picture(found))
