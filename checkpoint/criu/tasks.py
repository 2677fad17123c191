"""Which processes of a dump were stopped by a signal: what CRIU says (`images/core.proto`), and
what was noted beside it, as CRIU cannot dump a process that is stopped and frozen as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from checkpoint.criu.identity import image_messages, message_fields
from checkpoint.errors import InvalidImage

STOPPED = "stopped.json"
"""In the directory of CRIU images, which CRIU does not look at: a JSON list of process ids."""

_TASK = 3  # of core_entry: task_core_entry, which only a process's first thread has
_STATE = 1  # of task_core_entry
_STOPPED = 3  # CRIU's TASK_STOPPED


def note_stopped(directory: str | os.PathLike[str], processes: Iterable[int]) -> None:
    """Note in a dump processes that were stopped, by their ids as they see them."""
    if found := sorted(processes):
        (Path(directory) / STOPPED).write_text(json.dumps(found))


def stopped_processes(directory: str | os.PathLike[str]) -> frozenset[int]:
    """The processes in a dump that a signal had stopped, by their ids as they see them.

    Raises `InvalidImage` and `OSError`.
    """
    found: set[int] = set()
    try:
        found.update(int(pid) for pid in json.loads((Path(directory) / STOPPED).read_bytes()))
    except FileNotFoundError:
        pass
    except (ValueError, TypeError):
        raise InvalidImage(f"{STOPPED} is in a form that is not known.") from None
    for path in Path(directory).glob("core-*.img"):
        try:
            for _, core in image_messages(path):
                if _TASK in core and message_fields(core[_TASK]).get(_STATE) == _STOPPED:
                    found.add(int(path.stem.removeprefix("core-")))
        except (LookupError, TypeError, ValueError):
            raise InvalidImage(f"{path.name} is in a form that is not known.") from None
    return frozenset(found)
