"""The gateway's HTTP API, as the command line needs it."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from sessionkeeper.addresses import SESSION_HEADER
from sessionkeeper.errors import EXIT_CODES, SessionkeeperError, Unavailable, UnknownNode
from sessionkeeper.up.state import StateDirectory

__all__ = [
    "checkpoints",
    "cordon",
    "create",
    "create_join_token",
    "delete",
    "drain",
    "fork",
    "hibernate",
    "join_tokens",
    "new_token",
    "nodes",
    "prune",
    "report",
    "restore",
    "resume",
    "revoke",
    "session",
    "sessions",
    "status",
    "streamed",
    "tag",
    "uncordon",
    "untag",
    "withdraw_join_token",
]

_SECONDS = 10.0
_LONG = 600.0
"""For what brings a session up, or reads much of a store."""


def nodes(state: StateDirectory) -> list[dict[str, Any]]:
    """The nodes that the gateway knows."""
    found: list[dict[str, Any]] = _call(state, "GET", "/nodes")["nodes"]
    return found


def status(state: StateDirectory, session: str | None = None) -> dict[str, Any]:
    """The session's status; None: that of the one that `up` was started with."""
    return _call(state, "GET", "/status", session=session)


def sessions(state: StateDirectory) -> list[dict[str, Any]]:
    """All sessions, those that only the store has too."""
    found: list[dict[str, Any]] = _call(state, "GET", "/sessions", seconds=_LONG)["sessions"]
    return found


def report(state: StateDirectory, asked: dict[str, str]) -> list[dict[str, Any]]:
    """The rows of what sessions cost; `asked` are `from`, `to`, `session`, `owner`."""
    path = f"/report?{urlencode(asked)}"
    found: list[dict[str, Any]] = _call(state, "GET", path, seconds=_LONG)["rows"]
    return found


def create(state: StateDirectory, wish: dict[str, Any]) -> dict[str, Any]:
    """Begin a session; returns it, and its token."""
    return _call(state, "POST", "/sessions", wish, _LONG)


def session(state: StateDirectory, name: str) -> dict[str, Any]:
    """What is known of a session, and why it is where it is."""
    return _call(state, "GET", _session(name), seconds=_LONG)


def delete(state: StateDirectory, name: str) -> None:
    """Delete a session, with all of its checkpoints."""
    _call(state, "DELETE", _session(name), seconds=_LONG)


def hibernate(state: StateDirectory, name: str) -> dict[str, Any]:
    """Save a session and release its compute."""
    return _call(state, "POST", f"{_session(name)}/hibernate", {}, _LONG)


def resume(state: StateDirectory, name: str) -> dict[str, Any]:
    """Have a session run again, or have one here that only the store has."""
    return _call(state, "POST", f"{_session(name)}/resume", {}, _LONG)


def new_token(state: StateDirectory, name: str) -> str:
    """One more token of a session."""
    return str(_call(state, "POST", f"{_session(name)}/token", {}, _LONG)["token"])


def drain(state: StateDirectory, name: str, deadline: float) -> dict[str, Any]:
    """Move everything off a node; returns what moved and how many seconds it took. UnknownNode
    when there is none of that name."""
    body = {"deadline": deadline}
    # A move that is late is still better than none: give it time beyond the deadline.
    seconds = deadline + 120
    return _call(state, "POST", f"/nodes/{quote(name, safe='')}/drain", body, seconds)


def uncordon(state: StateDirectory, name: str) -> None:
    """Let a drained node take sessions again. UnknownNode when there is none of that name."""
    _call(state, "POST", f"/nodes/{quote(name, safe='')}/uncordon", {})


def cordon(state: StateDirectory, name: str) -> None:
    """Place nothing new on a node. UnknownNode when there is none of that name."""
    _call(state, "POST", f"/nodes/{quote(name, safe='')}/cordon", {})


def revoke(state: StateDirectory, name: str) -> dict[str, Any]:
    """Let a machine that has joined in no more; returns the sessions it had."""
    return _call(state, "POST", f"/nodes/{quote(name, safe='')}/revoke", {})


def create_join_token(
    state: StateDirectory, tier: str, uses: int, seconds: float
) -> dict[str, Any]:
    """Make a token with which machines join; it is told here and never again."""
    return _call(state, "POST", "/join-tokens", {"tier": tier, "uses": uses, "seconds": seconds})


def join_tokens(state: StateDirectory) -> list[dict[str, Any]]:
    """What is known of the join tokens that are good."""
    found: list[dict[str, Any]] = _call(state, "GET", "/join-tokens")["tokens"]
    return found


def withdraw_join_token(state: StateDirectory, ticket: str) -> None:
    """It lets nobody in any more."""
    _call(state, "DELETE", f"/join-tokens/{quote(ticket, safe='')}")


def checkpoints(state: StateDirectory, session: str | None = None) -> dict[str, Any]:
    """The session, and its checkpoints."""
    return _call(state, "GET", "/checkpoints", seconds=_LONG, session=session)


def tag(
    state: StateDirectory, name: str, number: int | None, session: str | None = None
) -> dict[str, Any]:
    """Name a checkpoint; None: one of now."""
    return _call(state, "PUT", _tag(name), {"number": number}, _LONG, session)


def untag(state: StateDirectory, name: str, session: str | None = None) -> None:
    """Take a name away."""
    _call(state, "DELETE", _tag(name), session=session)


def restore(
    state: StateDirectory, at: str, discard: bool, session: str | None = None
) -> dict[str, Any]:
    """Go back to the checkpoint of that number or tag."""
    return _call(
        state, "POST", "/checkpoints/restore", {"at": at, "discard": discard}, _LONG, session
    )


def fork(state: StateDirectory, at: str, new: str, session: str | None = None) -> dict[str, Any]:
    """Begin a session `new` with the checkpoint of that number or tag."""
    return _call(state, "POST", "/checkpoints/fork", {"at": at, "as": new}, _LONG, session)


def prune(state: StateDirectory, session: str | None = None) -> dict[str, Any]:
    """Have old checkpoints cleared away."""
    return _call(state, "POST", "/checkpoints/prune", {}, _LONG, session)


@contextlib.contextmanager
def streamed(
    state: StateDirectory, path: str, seconds: float
) -> Iterator[http.client.HTTPResponse]:
    """The answer to a GET, to be read as it comes; `seconds` may pass without any of it. Raises
    what the gateway says, and Unavailable.
    """
    connection, headers = _connected(state, seconds)
    try:
        try:
            connection.request("GET", f"/api/sessionkeeper{path}", None, headers)
            answer = connection.getresponse()
            refused = answer.read() if answer.status >= 400 else None
        except (OSError, http.client.HTTPException) as error:
            raise _no_answer(error) from None
        if refused is not None:
            raise _error(answer.status, _understood(refused))
        yield answer
    finally:
        connection.close()


def _session(name: str) -> str:
    return f"/sessions/{quote(name, safe='')}"


def _tag(name: str) -> str:
    return f"/checkpoints/tags/{quote(name, safe='')}"


def _call(
    state: StateDirectory,
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    seconds: float = _SECONDS,
    session: str | None = None,
) -> dict[str, Any]:
    connection, headers = _connected(state, seconds)
    if session is not None:
        headers[SESSION_HEADER] = session
    try:
        sent = json.dumps(body) if body is not None else None
        connection.request(method, f"/api/sessionkeeper{path}", sent, headers)
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise _no_answer(error) from None
    finally:
        connection.close()
    if answer.status >= 400:
        raise _error(answer.status, _understood(content))
    try:
        found = json.loads(content or b"{}")
    except ValueError:
        found = {}
    if not isinstance(found, dict):
        raise Unavailable(f"the gateway's answer to {path} was not understood")
    return found


def _connected(
    state: StateDirectory, seconds: float
) -> tuple[http.client.HTTPConnection, dict[str, str]]:
    where = urlsplit(state.running()["gateway"])
    headers = {"Authorization": f"token {state.token('gateway')}"}
    return http.client.HTTPConnection(where.hostname or "", where.port, timeout=seconds), headers


def _no_answer(error: Exception) -> Unavailable:
    return Unavailable(f"the gateway does not answer: {error or type(error).__name__}")


def _understood(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _error(status: int, said: dict[str, Any]) -> SessionkeeperError:
    inner = said.get("error")
    detail = inner if isinstance(inner, dict) else said
    message = str(detail.get("message") or f"the gateway answered with HTTP status {status}")
    kind = UnknownNode if detail.get("code") == UnknownNode.code else SessionkeeperError
    error = kind(message, hint=str(detail.get("hint") or "") or None)
    if kind is SessionkeeperError:
        error.code = str(detail.get("code") or "gateway")
        error.exit_code = EXIT_CODES.get(error.code, error.exit_code)
    return error
