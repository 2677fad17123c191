"""How often a node goes, as far as was seen."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionkeeper.policy import MEAN_TIME_BETWEEN_FAILURES
from sessionkeeper.rates import Rates, Record, decode, estimate


@pytest.mark.parametrize("tier", MEAN_TIME_BETWEEN_FAILURES)
def test_a_node_of_which_nothing_is_known_goes_as_often_as_its_tier(tier: str) -> None:
    assert Rates().mean_time("n", tier) == pytest.approx(MEAN_TIME_BETWEEN_FAILURES[tier])


def test_what_was_seen_counts_more_the_longer_it_was_looked_at() -> None:
    rates, chance = Rates(), random.Random(1)
    for _ in range(2000):  # hours; this one goes twice as often as is believed of its tier
        rates.watched("bad", "spot", 1.0)
        if chance.random() < 0.5:
            rates.lost("bad", "spot")
    assert rates.rate("bad", "spot") == pytest.approx(0.5, rel=0.1)
    assert rates.rate("new", "spot") == pytest.approx(0.5, rel=0.1)
    assert rates.rate("new", "volunteer") == 0.5


def test_one_loss_does_not_condemn_a_node() -> None:
    rates = Rates()
    rates.lost("n", "on-demand")
    assert rates.rate("n", "on-demand") == pytest.approx(4 / 720)


@given(st.floats(1e-4, 10), st.floats(0, 1e4), st.integers(0, 100), st.floats(0.01, 100))
def test_hours_without_a_loss_lower_the_rate_and_losses_raise_it(
    before: float, hours: float, losses: int, more: float
) -> None:
    record = Record(hours, losses)
    assert estimate(before, record.after(hours=more)) < estimate(before, record)
    assert estimate(before, record.after(losses=1)) > estimate(before, record)
    assert estimate(before, record) > 0


def test_it_is_kept() -> None:
    rates = Rates()
    rates.watched("n", "spot", 2.5)
    rates.lost("n", "spot")
    assert decode(rates.encode()) == rates
    for damaged in ("[]", "{}", '{"tiers": {"spot": {"x": 1}}, "nodes": {}}', ""):
        with pytest.raises(ValueError):
            decode(damaged)
