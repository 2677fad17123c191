"""When a session has had its time, or takes more of the store than it may. Pure.

Nothing goes without a warning that was shown for the whole of the *grace*. Whether a limit is
exceeded is asked of the wall clock, which may be wrong; for how long a warning was shown is counted
by a monotonic clock, look by look, and only while there is a gateway that shows it. So neither a
clock that jumps nor a gateway that was off for a month makes anything go at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from checkpoint.retention import DAY
from sessionkeeper.retention import parse_age
from sessionkeeper.sizes import parse_size, spelled_size

__all__ = [
    "NEVER",
    "Excess",
    "Facts",
    "Limits",
    "Warned",
    "judge",
    "parse_limits",
    "spelled_limits",
    "told",
]

LOOK = 60.0
"""Seconds between two looks."""

LONGEST = 2 * LOOK
"""Of a warning no more than this counts as shown from one look to the next: a process that stood
still showed nothing."""

Why = Literal["age", "unused", "stored"]
Goes = Literal["session", "checkpoints"]


@dataclass(frozen=True)
class Limits:
    """Seconds since a session was begun, and since it was last used; bytes that it may have in the
    store. None: no such limit. ``grace``: seconds for which a warning is shown first.
    """

    age: float | None = None
    unused: float | None = None
    stored: int | None = None
    grace: float = 7 * DAY

    def __bool__(self) -> bool:
        return not (self.age is None and self.unused is None and self.stored is None)


NEVER = Limits()


@dataclass(frozen=True)
class Facts:
    """Of a session: ``now``, when it was ``begun`` and last ``used`` in Unix seconds; bytes of its
    ``newest`` checkpoint, and of all that are kept, as far as they are known.
    """

    now: float
    begun: float
    used: float
    newest: int = 0
    stored: int = 0


@dataclass(frozen=True)
class Excess:
    """A limit that is exceeded, and what would go for it: all of the session, or its older
    checkpoints, if what is left is within the limit.
    """

    why: Why
    goes: Goes = "session"


@dataclass(frozen=True)
class Warned:
    """A warning that stands; ``shown`` for so many seconds."""

    excess: Excess
    shown: float = 0.0

    def left(self, limits: Limits) -> float:
        """Return how many seconds it will be shown for before anything goes."""
        return max(0.0, limits.grace - self.shown)


def exceeded(limits: Limits, facts: Facts) -> list[Excess]:
    """Return all limits that are exceeded."""
    found = []
    if limits.age is not None and facts.now - facts.begun > limits.age:
        found.append(Excess("age"))
    if limits.unused is not None and facts.now - facts.used > limits.unused:
        found.append(Excess("unused"))
    if limits.stored is not None and facts.newest > limits.stored:
        found.append(Excess("stored"))
    elif limits.stored is not None and facts.stored > limits.stored:
        found.append(Excess("stored", "checkpoints"))
    return found


def judge(
    limits: Limits, facts: Facts, before: Warned | None, elapsed: float
) -> tuple[Warned | None, Goes | None]:
    """Return the warning that stands from now on, and what is to go now (None: nothing).

    ``before`` is what stood since the last look, ``elapsed`` monotonic seconds ago (0 for the first
    look of a process). A warning that ends, or is for another reason, has to be shown anew.
    """
    found = exceeded(limits, facts)
    if before is None or before.excess not in found:
        return (Warned(found[0]), None) if found else (None, None)
    shown = before.shown + min(max(0.0, elapsed), LONGEST)
    stands = replace(before, shown=shown)
    return stands, before.excess.goes if shown >= limits.grace else None


def told(session: str, warned: Warned, limits: Limits) -> str:
    """Return the warning in words. They change once a day, in the end once an hour."""
    left = _roughly(warned.left(limits))
    excess = warned.excess
    if excess.goes == "checkpoints":
        return (
            f"its checkpoints take more than {spelled_size(limits.stored or 0)} of the store: in"
            f" {left} all but the newest and those with a tag will be deleted"
        )
    reason, way_out = {
        "age": (f"it was begun more than {_spelled(limits.age)} ago", ""),
        "unused": (f"it was not used for {_spelled(limits.unused)}", ", or run a cell to keep it"),
        "stored": (
            f"it takes more than {spelled_size(limits.stored or 0)} of the store",
            ", or delete files and variables to keep it",
        ),
    }[excess.why]
    export = f"`sessionkeeper session export {session}` saves its files"
    return f"the session will be deleted in {left}: {reason}. {export}{way_out}"


def parse_limits(text: object) -> Limits:
    """Read ``age=365d,unused=90d,stored=20G,grace=14d``, or ``never``. Raises ``ValueError`` that
    goes on after the text.
    """
    if str(text).strip() == "never":
        return NEVER
    found: dict[str, float] = {}
    for part in str(text).split(","):
        name, given, value = (word.strip() for word in part.partition("="))
        if not given or name not in {"age", "unused", "stored", "grace"}:
            raise ValueError("is neither `never` nor made of age=, unused=, stored= and grace=")
        try:
            found[name] = parse_size(value) if name == "stored" else parse_age(value)
        except ValueError as error:
            raise ValueError(f"cannot be: {name} {value!r} {error}") from None
        if not found[name] > 0:
            raise ValueError(f"cannot be: {name} must be more than nothing")
    stored = found.get("stored")
    return Limits(
        found.get("age"),
        found.get("unused"),
        None if stored is None else int(stored),
        found.get("grace", NEVER.grace),
    )


def spelled_limits(limits: Limits) -> str:
    """Inverse of :func:`parse_limits`."""
    if not limits:
        return "never"
    times = {"age": limits.age, "unused": limits.unused, "grace": limits.grace}
    words = [f"{name}={time:.3f}s" for name, time in times.items() if time is not None]
    return ",".join([*words, *([f"stored={limits.stored}"] if limits.stored is not None else [])])


_UNITS = ((DAY, "day"), (3600.0, "hour"), (60.0, "minute"), (1.0, "second"))


def _roughly(seconds: float) -> str:
    """So many whole units, rounded up."""
    for unit, name in _UNITS[:-1]:
        if seconds > unit:
            return _counted(math.ceil(seconds / unit), name)
    return "a minute"


def _spelled(seconds: float | None) -> str:
    """As a limit was set, in the largest unit of which it is a whole number."""
    if seconds is None:
        return "any time"
    for unit, name in _UNITS:
        if seconds % unit == 0:
            return _counted(round(seconds / unit), name)
    return f"{seconds:g} seconds"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
