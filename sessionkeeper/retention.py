"""The retention policy as it is typed: `all=1h,hourly=24h,daily=30d`, or `forever`.

What it means is `checkpoint.retention`'s business.
"""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace

from checkpoint.retention import DAY, Retention

__all__ = ["DEFAULT", "FOREVER", "parse_age", "parse_retention", "spelled"]

DEFAULT = Retention()
FOREVER = Retention(all=math.inf)
"""Nothing is ever too old."""

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])?")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY}
_STEPS = [one.name for one in fields(Retention)]


def parse_age(text: object) -> float:
    """Seconds of `30d`, `12h`, `10m`, `5s`, `5`; ValueError for anything else."""
    match = _AGE.fullmatch(str(text).strip())
    if not match:
        raise ValueError("is not a duration such as 30d, 12h or 10m")
    return float(match[1]) * _SECONDS[match[2] or "s"]


def parse_retention(text: object) -> Retention:
    """The policy; a step that is not named is as in the default one. ValueError for what is none;
    its text continues "<what was typed> ..."."""
    if str(text).strip() == "forever":
        return FOREVER
    policy = DEFAULT
    for part in str(text).split(","):
        name, given, age = (word.strip() for word in part.partition("="))
        if not given or name not in _STEPS:
            steps = ", ".join(f"{step}=AGE" for step in _STEPS)
            raise ValueError(f"is neither `forever` nor made of {steps}")
        try:
            policy = replace(policy, **{name: parse_age(age)})
        except ValueError as error:
            raise ValueError(f"cannot be: {name} {age!r} {error}") from None
    return policy


def spelled(policy: Retention) -> str:
    """Inverse of `parse_retention`."""
    if policy == FOREVER:
        return "forever"
    return ",".join(f"{step}={getattr(policy, step):.0f}s" for step in _STEPS)
