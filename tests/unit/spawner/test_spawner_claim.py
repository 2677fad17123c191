"""Which session a server gets, whatever the gateway has under its names."""

from __future__ import annotations

from typing import Any

import pytest

from sessionkeeper.spawner.claim import claim
from sessionkeeper.spawner.gateway import GatewayRefused


class Sessions:
    """What a gateway answers. `owners`: of each session; None: it is being deleted."""

    def __init__(self, owners: dict[str, str | None]) -> None:
        self.owners = owners

    async def session(self, name: str) -> dict[str, Any] | None:
        if name not in self.owners:
            return None
        if self.owners[name] is None:
            raise GatewayRefused(410, {"code": "session_deleted"})
        return {"session": {"owner": self.owners[name]}}

    async def begin(self, wish: dict[str, Any]) -> str:
        return f"begun {wish['name']}"

    async def opens(self, name: str, token: str) -> bool:
        return token == f"kept {name}"

    async def new_token(self, name: str) -> str:
        return f"new {name}"


@pytest.mark.parametrize(
    ("there", "had", "kept", "token"),
    [
        ({}, None, None, "begun one"),
        ({"one": "ann"}, None, None, "new one"),
        ({"one": "ann"}, None, "kept one", "kept one"),
        ({"one": "ann"}, None, "kept two", "new one"),
        ({"one": "bob"}, None, "kept one", "begun two"),
        ({"one": None}, "one", "kept one", "begun two"),
        # It was this server's before its user was renamed.
        ({"old": "anna"}, "old", None, "new old"),
        ({"one": "ann"}, "gone", None, "begun gone"),
    ],
)
async def test_server_gets_its_session_and_nobody_elses(there, had, kept, token):
    said: list[str] = []

    async def say(text: str) -> None:
        said.append(text)

    gateway: Any = Sessions(there)
    name, got = await claim(gateway, had, iter(["one", "two"]), {"owner": "ann"}, kept, say)
    assert got == token
    assert name == token.split()[1]
    assert said == ["A new session" if "begun" in token else "Going on with the session"]
