"""`sessionkeeper gateway|ui|agent`: the parts that `up` starts."""

from __future__ import annotations

import asyncio
import os
from argparse import Namespace
from importlib import import_module
from pathlib import Path

from gateway.errors import OptionRefused
from gateway.options import Options, read_options
from sessionkeeper import logs
from sessionkeeper.errors import UsageError
from sessionkeeper.settings import AgentSettings, GatewaySettings, UiSettings, UpSettings, load
from sessionkeeper.up.ready import announce
from sessionkeeper.up.state import StateDirectory

__all__ = ["agent", "gateway", "ui"]


def gateway(arguments: Namespace) -> int:
    """Serve until SIGTERM."""
    config = config_of(arguments)
    stock = config if config is not None and config.suffix in (".py", ".json") else None
    try:
        options = read_options(arguments.stock, stock, os.environ)
        settings = load(
            GatewaySettings,
            vars(arguments),
            config=None if stock else config,
            environ={**_known_elsewhere(options), **os.environ},
        )
        level = (options.log_level or settings.log_level).lower()
        hexes = os.environ.get("SESSIONKEEPER_MASTER_KEY_HEX", "").split()
        secrets = (settings.token, settings.agent_token, *hexes)
        logs.set_up("gateway", settings.log_format, level, secrets)
        import_module("sessionkeeper.gateway_app").run(settings, options)
    except OptionRefused as error:
        raise UsageError(str(error), hint=error.hint) from None
    return 0


def _known_elsewhere(options: Options) -> dict[str, str]:
    """Options of the stock kernel gateway for which there is a setting: that wins, if given."""
    said = {
        "SESSIONKEEPER_HOST": options.ip,
        "SESSIONKEEPER_PORT": options.port,
        "SESSIONKEEPER_TOKEN": options.auth_token,
    }
    return {name: str(value) for name, value in said.items() if value is not None}


def agent(arguments: Namespace) -> int:
    """Offer compute until SIGTERM."""
    settings = load(AgentSettings, vars(arguments), config=config_of(arguments))
    logs.set_up(settings.node, settings.log_format, settings.log_level, [settings.token])
    import_module("sessionkeeper.agent").run(settings)
    return 0


def ui(arguments: Namespace) -> int:
    """Serve JupyterLab until SIGTERM."""
    flags = vars(arguments)
    if arguments.session is not None:
        given = {name: value for name, value in flags.items() if value is not None}
        flags = {**_of_session(arguments), **given}
    settings = load(UiSettings, flags, config=config_of(arguments))
    secrets = (settings.token, settings.gateway_token)
    logs.set_up("ui", settings.log_format, settings.log_level, secrets)
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
            allow_origin=settings.allow_origin or "",
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
