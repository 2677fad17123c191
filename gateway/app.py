"""The gateway as a tornado application, and how it listens."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from tornado import web
from tornado.httpserver import HTTPServer

from gateway.agents import AgentConnection, Agents
from gateway.auth import log_request
from gateway.handlers import ROUTES, NotFoundHandler
from gateway.kernels import Compute, Kernels
from gateway.tenants import Tenant, Tenants, only
from gateway.websocket import ChannelsHandler, Places

# Of one kernel message, either way (bytes).
MAX_MESSAGE = 1 << 30


def make_app(
    kernels: Kernels,
    compute: Compute,
    token: str,
    extra_handlers: Sequence[Any] = (),
    agents: Agents | None = None,
) -> web.Application:
    """The kernel gateway's API over `kernels`, which `compute` runs.

    `agents`: told about agents at `/agents`, which is there only then. `extra_handlers` come
    first; they do their own authentication (`gateway.auth.check_token`).
    """
    routes: list[Any] = [*extra_handlers]
    if agents is not None:
        routes.append((r"/agents", AgentConnection, {"agents": agents}))
    return make_shared_app(only(Tenant("", kernels, compute), token), routes, token=token)


def make_shared_app(
    tenants: Tenants, extra_handlers: Sequence[Any] = (), **settings: Any
) -> web.Application:
    """The same over the kernels of many: each request is for who `tenants` says."""
    return web.Application(
        [*extra_handlers, (r"/api/kernels/([^/]+)/channels", ChannelsHandler), *ROUTES],
        default_handler_class=NotFoundHandler,
        log_function=log_request,
        websocket_max_message_size=MAX_MESSAGE + (1 << 20),
        tenants=tenants,
        places=Places(),
        **settings,
    )


def listen(app: web.Application, port: int, address: str = "127.0.0.1") -> HTTPServer:
    """Serve the application, with buffers for messages of 1 GiB. Port 0 takes a free one.

    Raises OSError if the port is taken.
    """
    server = HTTPServer(app, max_buffer_size=MAX_MESSAGE + (16 << 20), xheaders=False)
    server.listen(port, address)
    return server


def port_of(server: HTTPServer) -> int:
    """The port that a server of `listen` has."""
    sockets: dict[int, socket.socket] = server._sockets
    return int(next(iter(sockets.values())).getsockname()[1])
