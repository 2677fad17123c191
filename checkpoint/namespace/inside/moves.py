"""The workspace may lie elsewhere than where the namespace was dumped: what follows it there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

_moved: tuple[str, str] | None = None  # where the workspace was and is, while a session is loaded


@contextlib.contextmanager
def following(moved: tuple[str, str] | None) -> Iterator[None]:
    """Translate paths from ``moved[0]`` to ``moved[1]`` meanwhile."""
    global _moved
    _moved = moved
    try:
        yield
    finally:
        _moved = None


def path(name: Any) -> Any:
    """``name`` in the workspace of today, if it was below the one of then."""
    if _moved is None or not isinstance(name, (str, bytes, os.PathLike)):
        return name
    text = os.fsdecode(name)
    return _moved[1] + text[len(_moved[0]) :] if _below(text) else name


def paths(value: str) -> str:
    """Each element of a search path (`os.pathsep` between them) as :func:`path` has it."""
    return os.pathsep.join(path(part) for part in value.split(os.pathsep))


def left_behind(value: Any) -> str | None:
    """What to tell of a user's value that names a file in the workspace of then; else None.

    It is not changed: nobody but the user knows whether it is meant as a path.
    """
    if _moved is None or not issubclass(type(value), (str, bytes, PurePath)):
        return None
    if not _below(os.fsdecode(value)):
        return None
    return f"it names a place in the workspace of the node that was left, now {_moved[1]}"


def _below(text: str) -> bool:
    return _moved is not None and (text == _moved[0] or text.startswith(_moved[0] + os.sep))
