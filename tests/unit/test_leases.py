"""How long a node may be silent, by its tier."""

from __future__ import annotations

import pytest

from sessionkeeper.leases import AWAY, NEAR, Leases, parse_leases, spelled
from sessionkeeper.settings import GatewaySettings, UpSettings, load


def test_machines_at_home_may_be_silent_for_longer_than_those_next_door() -> None:
    assert [AWAY.of(tier) for tier in ("on-demand", "spot", "volunteer")] == [4.0, 4.0, 15.0]
    assert [NEAR.of(tier) for tier in ("on-demand", "spot", "volunteer")] == [2.0, 2.0, 15.0]
    assert GatewaySettings.lease_seconds == AWAY
    assert UpSettings.lease_seconds == NEAR


@pytest.mark.parametrize(
    ("text", "leases"),
    [
        ("5s", Leases(5.0)),
        ("2", Leases(2.0)),
        ("4s,volunteer=20s", Leases(4.0, (("volunteer", 20.0),))),
        ("spot=3s, 4s", Leases(4.0, (("spot", 3.0),))),
    ],
)
def test_it_is_read_as_it_is_typed_and_spelled(text: str, leases: Leases) -> None:
    assert parse_leases(text) == leases
    assert parse_leases(spelled(leases)) == leases


def test_one_time_is_for_all_tiers_that_are_not_named() -> None:
    assert load(UpSettings, {"lease_seconds": "5s"}, environ={}).lease_seconds.of("volunteer") == 5


@pytest.mark.parametrize("text", ["", "volunteer=5s", "4s,5s", "4s,home=5s", "0", "4s,spot=0s"])
def test_what_is_no_lease(text: str) -> None:
    with pytest.raises(ValueError):
        parse_leases(text)
