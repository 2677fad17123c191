"""Which session a server gets: the one that it had, else the first of its names that is free."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from itertools import chain
from typing import Any

from sessionkeeper.spawner.gateway import Gateway, GatewayRefused

__all__ = ["claim"]


async def claim(
    gateway: Gateway,
    had: str | None,
    names: Iterable[str],
    wish: dict[str, Any],
    kept: str | None,
    say: Callable[[str], Awaitable[None]],
) -> tuple[str, str]:
    """The session's name, and a token of it: `kept` as long as it is one.

    `wish` is what a new session is to be, its `owner` at least. One that somebody else has is left
    alone, and so is one that is being deleted (what a fork needs of it is still there). Raises as
    `gateway` does.
    """
    for name in chain([had] if had else [], names):
        try:
            found = await gateway.session(name)
        except GatewayRefused as error:
            if error.code != "session_deleted":
                raise
            continue
        if found is None:
            await say("A new session")
            token = await gateway.begin({"name": name, **wish})
            if token is not None:
                return name, token
        elif name != had and found["session"]["owner"] != wish["owner"]:
            continue
        await say("Going on with the session")
        if kept is not None and await gateway.opens(name, kept):
            return name, kept
        return name, await gateway.new_token(name)
    raise AssertionError("names have no end")
