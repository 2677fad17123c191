"""The UI server under a JupyterHub: `python -m sessionkeeper.ui.hub`, all else in the environment.

`JUPYTERHUB_*` as for any single-user server; `SESSIONKEEPER_STATE`, `_GATEWAY_URL`,
`_GATEWAY_TOKEN`, `_PORT`, and where the attendant holds the socket `_LISTEN_FD`. People come in by
the hub's OAuth; with `SESSIONKEEPER_TOKEN`, as for BinderHub, by that token, also from pages of
`SESSIONKEEPER_ALLOW_ORIGIN`.

Exit status 0 means that the user ended it. By a signal it is something else: it is to come back.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
from types import FrameType

import uvloop

from sessionkeeper import logs
from sessionkeeper.settings import UiSettings, load
from sessionkeeper.ui import app
from sessionkeeper.ui.attendant import LISTEN_FD

__all__ = ["main"]

_TOKEN = "SESSIONKEEPER_TOKEN"  # noqa: S105 - its name
_SIGNALLED = 128 + signal.SIGTERM


def main() -> int:
    """Serve until SIGTERM, SIGINT, or until the user ends it (0)."""
    environ = dict(os.environ)
    token = environ.pop(_TOKEN, "") or secrets.token_urlsafe(24)
    settings = load(UiSettings, {}, environ={**environ, _TOKEN: token})
    logs.set_up(
        "ui",
        settings.log_format,
        settings.log_level,
        (token, settings.gateway_token, environ.get("JUPYTERHUB_API_TOKEN", "")),
    )
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    held = environ.get(LISTEN_FD)
    server = app.make(
        app.UiSettings(
            state=settings.state,
            host=settings.host,
            port=settings.port,
            token=token,
            gateway_url=settings.gateway_url,
            gateway_token=settings.gateway_token,
            base_url=environ.get("JUPYTERHUB_SERVICE_PREFIX", "/"),
        ),
        extensions=("sessionkeeper.ui.hub_server",),
        held=socket.socket(fileno=int(held)) if held else None,
    )
    signalled: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        signalled.append(number)
        server.stop(from_signal=True)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    app.serve(server)
    return _SIGNALLED if signalled else 0


if __name__ == "__main__":
    sys.exit(main())
