"""What a dump says of its processes (CRIU `images/core.proto`)."""

from __future__ import annotations

import os
from pathlib import Path

from checkpoint.criu.identity import image_messages, message_fields
from checkpoint.errors import InvalidImage

_TASK = 3  # of core_entry: task_core_entry, which only a process's first thread has
_STATE = 1  # of task_core_entry
_STOPPED = 3  # CRIU's TASK_STOPPED


def stopped_processes(directory: str | os.PathLike[str]) -> frozenset[int]:
    """The processes in a dump that a signal had stopped, by their ids as they see them.

    Raises `InvalidImage` and `OSError`.
    """
    found = set()
    for path in Path(directory).glob("core-*.img"):
        try:
            for _, core in image_messages(path):
                if _TASK in core and message_fields(core[_TASK]).get(_STATE) == _STOPPED:
                    found.add(int(path.stem.removeprefix("core-")))
        except (LookupError, TypeError, ValueError):
            raise InvalidImage(f"{path.name} is in a form that is not known.") from None
    return frozenset(found)
