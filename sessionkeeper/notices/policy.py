"""When the owner of a machine lets others use it. Pure: no clock, no files.

``plugged-in``, ``away`` (nobody is at keyboard and mouse), hours as ``22:00-07:00``; ``night`` is
those. All that is given must hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta

__all__ = ["PATIENCE", "Machine", "Policy", "parse_policy", "plugged_in", "spelled", "wish"]

PATIENCE = 60.0
"""Seconds that sessions have to leave once the owner wants the machine back."""

NIGHT = "22:00-07:00"
_HOURS = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)-([01]?\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True)
class Policy:
    """``hours``: from and until, of the machine's local day; until is not included."""

    plugged_in: bool = False
    away: bool = False
    hours: tuple[time, time] | None = None

    def __bool__(self) -> bool:
        return self != Policy()


@dataclass(frozen=True)
class Machine:
    """What there is to see of a machine. None: it does not say."""

    plugged_in: bool | None = None
    idle: bool | None = None


def parse_policy(text: str) -> Policy:
    """Return what ``text`` says, separated by commas. Raises ValueError that goes on after it."""
    plugged, away, hours = False, False, None
    for word in (one.strip() for one in text.split(",")):
        match = _HOURS.fullmatch(NIGHT if word == "night" else word)
        if word == "plugged-in":
            plugged = True
        elif word == "away":
            away = True
        elif match and hours is None:
            a, b, c, d = (int(number) for number in match.groups())
            hours = time(a, b), time(c, d)
            if hours[0] == hours[1]:
                raise ValueError("names hours that are none: from and until are the same")
        else:
            raise ValueError("is none of plugged-in, away, night or one span as 22:00-07:00")
    return Policy(plugged, away, hours)


def spelled(policy: Policy) -> str:
    """Return what :func:`parse_policy` would take for it."""
    words = ["plugged-in"] * policy.plugged_in + ["away"] * policy.away
    if policy.hours:
        words.append("-".join(f"{one:%H:%M}" for one in policy.hours))
    return ",".join(words)


def wish(policy: Policy, machine: Machine, now: datetime) -> str | None:
    """Return why sessions are to leave within :data:`PATIENCE`; None: they may stay.

    ``now`` is local time. What the machine does not say is no reason: a desktop has no battery, and
    a server nobody who could be away.
    """
    if policy.hours and not _within(policy.hours, (now + timedelta(seconds=PATIENCE)).time()):
        return f"it is offered from {policy.hours[0]:%H:%M} to {policy.hours[1]:%H:%M} only"
    if policy.plugged_in and machine.plugged_in is False:
        return "it runs on battery"
    if policy.away and machine.idle is False:
        return "its owner is using it"
    return None


def _within(hours: tuple[time, time], now: time) -> bool:
    begin, end = hours
    return begin <= now < end if begin < end else now >= begin or now < end


def plugged_in(supplies: Iterable[Mapping[str, str]]) -> bool | None:
    """Return whether the machine has power from outside; None: it has no battery.

    A supply is what the files of one directory in ``/sys/class/power_supply`` say, by their names.
    Batteries of mice and headsets are not the machine's (``scope`` is ``Device``). Source: Linux,
    Documentation/ABI/testing/sysfs-class-power.
    """
    mine = [one for one in supplies if one.get("scope", "").lower() != "device"]
    batteries = [one for one in mine if one.get("type") in ("Battery", "UPS")]
    if not batteries:
        return None
    outside = [one.get("online") for one in mine if one not in batteries]
    if any(one not in (None, "0") for one in outside):
        return True
    if any(one == "0" for one in outside):
        return False
    return all(one.get("status") != "Discharging" for one in batteries)
