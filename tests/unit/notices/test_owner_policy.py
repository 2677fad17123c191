"""When a volunteer's machine is offered: tables."""

from __future__ import annotations

from datetime import datetime, time
from pathlib import Path

import pytest

from sessionkeeper.notices.owner import read_supplies
from sessionkeeper.notices.policy import (
    Machine,
    Policy,
    parse_policy,
    plugged_in,
    spelled,
    wish,
)

NIGHT = (time(22), time(7))
NOON, MIDNIGHT = datetime(2026, 1, 5, 12), datetime(2026, 1, 5, 0, 0)


def at(hour: int, minute: int = 0, second: int = 0) -> datetime:
    return datetime(2026, 1, 5, hour, minute, second)


@pytest.mark.parametrize(
    ("policy", "machine", "now", "why"),
    [
        (Policy(), Machine(False, False), NOON, None),
        (Policy(plugged_in=True), Machine(True, None), NOON, None),
        (Policy(plugged_in=True), Machine(False, None), NOON, "battery"),
        (Policy(plugged_in=True), Machine(None, None), NOON, None),  # a desktop has no battery
        (Policy(away=True), Machine(None, True), NOON, None),
        (Policy(away=True), Machine(None, False), NOON, "using"),
        (Policy(away=True), Machine(None, None), NOON, None),
        (Policy(hours=NIGHT), Machine(), NOON, "from 22:00 to 07:00 only"),
        (Policy(hours=NIGHT), Machine(), MIDNIGHT, None),
        (Policy(hours=NIGHT), Machine(), at(22), None),
        (Policy(hours=NIGHT), Machine(), at(21, 58, 59), "from 22:00"),
        # A minute to leave is part of the hours, so that all are gone when they end.
        (Policy(hours=NIGHT), Machine(), at(6, 58, 59), None),
        (Policy(hours=NIGHT), Machine(), at(6, 59, 0), "from 22:00"),
        (Policy(hours=(time(9), time(17))), Machine(), NOON, None),
        (Policy(hours=(time(9), time(17))), Machine(), at(17), "from 09:00"),
        (Policy(hours=(time(9), time(17))), Machine(), MIDNIGHT, "from 09:00"),
        (Policy(hours=(time(0), time(23, 59))), Machine(), at(23, 57), None),
        (Policy(True, True, NIGHT), Machine(True, True), MIDNIGHT, None),
        (Policy(True, True, NIGHT), Machine(False, True), MIDNIGHT, "battery"),
        (Policy(True, True, NIGHT), Machine(True, False), MIDNIGHT, "using"),
        (Policy(True, True, NIGHT), Machine(True, True), NOON, "from 22:00"),
    ],
)
def test_sessions_may_stay_only_while_all_that_the_owner_wishes_holds(
    policy: Policy, machine: Machine, now: datetime, why: str | None
) -> None:
    said = wish(policy, machine, now)
    assert said is None if why is None else why in (said or "")


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("plugged-in", Policy(plugged_in=True)),
        ("away", Policy(away=True)),
        ("night", Policy(hours=NIGHT)),
        ("9:30-17:05", Policy(hours=(time(9, 30), time(17, 5)))),
        ("plugged-in, away,22:00-07:00", Policy(True, True, NIGHT)),
    ],
)
def test_a_policy_is_read_as_it_is_spelled(text: str, policy: Policy) -> None:
    assert parse_policy(text) == policy
    assert parse_policy(spelled(policy)) == policy


@pytest.mark.parametrize(
    "text", ["", "never", "24:00-07:00", "22:00", "7:00-7:00", "night,9:00-10:00", "away,", "22-7"]
)
def test_a_policy_that_makes_no_sense_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"is none of|names hours"):
        parse_policy(text)


MAINS_ON, MAINS_OFF = {"type": "Mains", "online": "1"}, {"type": "Mains", "online": "0"}
FULL = {"type": "Battery", "status": "Full"}
DRAINING = {"type": "Battery", "status": "Discharging"}
MOUSE = {"type": "Battery", "status": "Discharging", "scope": "Device"}
USB_C = {"type": "USB", "online": "1"}


@pytest.mark.parametrize(
    ("supplies", "answer"),
    [
        ([], None),
        ([MOUSE], None),
        ([MAINS_ON], None),
        ([MAINS_ON, FULL], True),
        ([MAINS_OFF, DRAINING], False),
        ([MAINS_OFF, FULL], False),  # not yet noticed by the battery
        ([MAINS_OFF, USB_C, FULL], True),
        ([DRAINING], False),
        ([FULL], True),
        ([MAINS_ON, DRAINING], True),  # a weak supply
        ([MAINS_OFF, FULL, MOUSE], False),
        ([{}], None),
    ],
)
def test_power_from_outside_is_told_from_a_battery(
    supplies: list[dict[str, str]], answer: bool | None
) -> None:
    assert plugged_in(supplies) is answer


def test_supplies_are_read_as_linux_has_them(tmp_path: Path) -> None:
    battery = tmp_path / "BAT0"
    battery.mkdir()
    (battery / "type").write_text("Battery\n")
    (battery / "status").write_text("Discharging\n")
    (tmp_path / "gone").symlink_to("nowhere")
    assert DRAINING in read_supplies(tmp_path)
    assert read_supplies(tmp_path / "no such directory") == []
