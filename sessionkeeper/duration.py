"""How long something takes or lasts, as it is typed."""

from __future__ import annotations

import re

__all__ = ["parse_duration", "positive_duration"]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: object) -> float:
    """Seconds of `5s`, `500ms`, `1m`, `2h`, `5`; ValueError for anything else, negatives too."""
    match = _DURATION.fullmatch(str(text).strip())
    if not match:
        raise ValueError("is not a duration such as 5s, 500ms or 1m")
    return float(match[1]) * _SECONDS[match[2] or "s"]


def positive_duration(text: object) -> float:
    """The same, and longer than nothing."""
    seconds = parse_duration(text)
    if seconds <= 0:
        raise ValueError("must be longer than nothing")
    return seconds
