"""Where a launched session is opened: a JupyterLab of its own, or the gateway's API."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from sessionkeeper.up import control
from sessionkeeper.up.state import StateDirectory


class UpServers:
    """UI servers that the supervisor of a `sessionkeeper up` starts."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state

    async def open(self, session: str, token: str, origin: str | None) -> str:
        """Start a UI server for the session; its URL."""
        self._state.keep_session_token(session, token)
        call = {"session": session, "origin": origin}
        said = await asyncio.to_thread(control.request, self._state, "ui", **call)
        found = urlsplit(said["url"])
        return f"{found.scheme}://{found.netloc}/"

    async def close(self, session: str) -> None:
        """End it, and forget its token."""
        await asyncio.to_thread(control.request, self._state, "close_ui", session=session)
        self._state.session_token_file(session).unlink(missing_ok=True)


class GatewayAlone:
    """No UI servers: who launches talks to the gateway at ``url``, which has the kernels."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/") + "/"

    async def open(self, session: str, token: str, origin: str | None) -> str:
        """Return the gateway's own URL; its own options say which origins may talk to it."""
        return self._url

    async def close(self, session: str) -> None:
        """There is nothing to end."""
