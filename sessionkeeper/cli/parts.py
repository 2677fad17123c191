"""`sessionkeeper gateway|ui|agent`: the parts that `up` starts."""

from __future__ import annotations

import asyncio
import logging
import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path

from sessionkeeper.settings import AgentSettings, GatewaySettings, UiSettings, UpSettings, load
from sessionkeeper.up.ready import announce
from sessionkeeper.up.state import StateDirectory

__all__ = ["agent", "gateway", "ui"]


def gateway(arguments: Namespace) -> int:
    """Serve until SIGTERM."""
    settings = load(GatewaySettings, vars(arguments), config=config_of(arguments))
    _log()
    import_module("sessionkeeper.gateway_app").run(settings)
    return 0


def agent(arguments: Namespace) -> int:
    """Offer compute until SIGTERM."""
    settings = load(AgentSettings, vars(arguments), config=config_of(arguments))
    _log()
    import_module("sessionkeeper.agent").run(settings)
    return 0


def ui(arguments: Namespace) -> int:
    """Serve JupyterLab until SIGTERM."""
    flags = vars(arguments)
    if arguments.session is not None:
        given = {name: value for name, value in flags.items() if value is not None}
        flags = {**_of_session(arguments), **given}
    settings = load(UiSettings, flags, config=config_of(arguments))
    _log()
    import uvloop
    from tornado.ioloop import IOLoop

    from sessionkeeper.ui import app

    # Takes a sixth off what a message costs on its way; so do the gateway and the agents.
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

    # Jupyter binds its sockets in a callback that it has not added yet: ours comes after it.
    loop = IOLoop.current()
    loop.add_callback(loop.add_callback, announce, settings.ready_fd)
    app.run(
        app.UiSettings(
            state=settings.state,
            host=settings.host,
            port=settings.port,
            token=settings.token,
            gateway_url=settings.gateway_url,
            gateway_token=settings.gateway_token,
            base_url=settings.base_url,
        )
    )
    return 0


def _of_session(arguments: Namespace) -> dict[str, object]:
    """What a UI server for a session of an `up` on this machine need not be told."""
    from sessionkeeper.cli.session import have_token

    state = StateDirectory(load(UpSettings, {"state": arguments.up}).state)
    have_token(state, arguments.session)
    token = state.session_token_file(arguments.session)
    return {
        "state": state.ui / "of" / arguments.session,
        "gateway_url": state.running()["gateway"],
        "gateway_token_file": token,
        "token_file": token,
    }


def config_of(arguments: Namespace) -> Path | None:
    """The file given with --config."""
    return Path(arguments.config) if arguments.config else None


def _log() -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
