"""What of a session's files is not in a checkpoint, in words."""

from __future__ import annotations

from collections.abc import Sequence

from checkpoint import files

NAMED = 5
"""Paths that are told by name; of more, their number is."""


def told(tree: files.Tree, home: str) -> str | None:
    """Return what could not be saved, or not for sure at one moment; None when that is nothing.

    Sockets are left out: nobody misses them, as who listens at one makes it anew.
    """
    lost = [
        f"{shown(path, home)} ({reason})" for path, reason in tree.skipped if reason != files.SOCKET
    ]
    parts = []
    if lost:
        parts.append(f"not in the checkpoints: {_listed(lost, tree.skipped.more)}")
    if tree.torn:
        torn = [shown(path, home) for path in tree.torn]
        parts.append(f"changed while they were saved: {_listed(torn, tree.torn.more)}")
    return "; ".join(parts) or None


def ignored(tree: files.Tree, home: str) -> str | None:
    """Return what ``.sessionkeeperignore`` leaves out; None when that is nothing."""
    if not tree.ignored:
        return None
    names = _listed([shown(path, home) for path in tree.ignored], tree.ignored.more)
    return (
        f"left out of the checkpoints, as .sessionkeeperignore says: {names};"
        " they will be missing when the session moves"
    )


def shown(path: bytes, home: str) -> str:
    """Return the path as the user knows it: relative to the workspace, or from the root on."""
    text = "/" + path.decode("utf-8", "backslashreplace")
    return text.removeprefix(f"{home}/")


def _listed(names: Sequence[str], further: int) -> str:
    left = max(0, len(names) - NAMED) + further
    return ", ".join(names[:NAMED]) + (f" and {left} more" if left else "")
