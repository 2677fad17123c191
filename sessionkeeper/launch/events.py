"""What is said while something is launched: BinderHub's events, in its words.

Source: BinderHub's `doc/source/developer/api.md` ("Phases") and `builder.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

Phase = Literal[
    "waiting", "fetching", "building", "pushing", "built", "launching", "ready", "failed"
]
LAST = ("ready", "failed")
OF_REPO2DOCKER: dict[str, Phase] = {
    "fetching": "fetching",
    "building": "building",
    "pushing": "pushing",
    "failed": "failed",
}
"""Its phases; all else that it says belongs to the one before."""


@dataclass(frozen=True)
class Event:
    """``message`` is text as it is to be printed, line ends included; ``more`` are fields of its
    phase: ``imageName`` when built, ``url`` and ``token`` when ready.
    """

    phase: Phase
    message: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def last(self) -> bool:
        """Whether nothing comes after it."""
        return self.phase in LAST

    def json(self) -> str:
        return json.dumps({"phase": self.phase, "message": self.message, **self.more})


def logged(line: str, before: Phase) -> Event:
    """Return the event of one line of repo2docker's JSON log, which came in the phase ``before``.
    Pure. A line that is none (of a program that it runs) is passed on as it is.
    """
    try:
        said = json.loads(line)
        message, phase = str(said["message"]), OF_REPO2DOCKER.get(said.get("phase", ""), before)
    except (ValueError, TypeError, KeyError, AttributeError):
        message, phase = line, before
    if phase == "failed":
        phase = "building"  # its end says so, after all that there is to say
    return Event(phase, message if message.endswith(("\n", "\r")) else f"{message}\n")
