"""What a user reads who waits for a server: the gateway's status as JupyterHub's progress. Pure."""

from __future__ import annotations

from typing import Any

__all__ = ["Event", "is_there", "told"]

Event = dict[str, Any]
"""`{"progress": 0 to 100, "message": text}`, as `Spawner.progress` yields them."""

_AT = {"hibernated": 20, "waiting": 30, "moving": 60, "recovering": 60, "starting": 60}
_THERE = {"running": 80, "idle": 80, "failed": 80}


def is_there(status: dict[str, Any]) -> bool:
    """Whether there is nothing more to wait for: it runs, or wants no compute, or never will."""
    return status["state"] in _THERE


def told(status: dict[str, Any], why: dict[str, Any] | None) -> Event:
    """The gateway's `status` in words; `why` is its answer to where the session would go. A state
    that is not known here (an image that is being built, say) speaks for itself.
    """
    state, node, checkpoint = status["state"], status["node"], status["checkpoint"]
    at = {**_AT, **_THERE}.get(state)
    match state:
        case "hibernated":
            text = "The session hibernates, and is woken"
        case "waiting":
            text = _waiting(why)
        case "starting" | "recovering" | "moving":
            where = f" on {node}" if node else ""
            text = f"Restoring checkpoint {checkpoint['number']}" if checkpoint else "Starting"
            text += where
        case "running":
            text = f"Running on {node}"
        case "idle":
            text = "The session is ready; its first kernel gets a node"
        case _:
            text = status["message"] or state
    return {"message": text} if at is None else {"progress": at, "message": text}


def _waiting(why: dict[str, Any] | None) -> str:
    if why is None:
        return "Waiting for a node"
    place = f", place {why['place']} of {why['line']} in the line" if why["place"] else ""
    reasons = "; ".join(f"{node}: {reason}" for node, reason in sorted(why["reasons"].items()))
    return f"Waiting for a node{place}" + (f" ({reasons})" if reasons else "")
