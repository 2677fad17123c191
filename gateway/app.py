"""The gateway as a tornado application, and how it listens."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prometheus_client.metrics_core import Metric
from tornado import httputil, web
from tornado.httpserver import HTTPServer

from gateway.access import Access
from gateway.agents import AgentConnection, Agents
from gateway.auth import check_token, log_request
from gateway.errors import OptionRefused, Unauthorized
from gateway.handlers import ROUTES, NotFoundHandler
from gateway.health import Readiness, journal_readiness
from gateway.kernels import Compute, Kernels
from gateway.metrics import KernelCollector
from gateway.options import Options
from gateway.tenants import Tenant, Tenants, only
from gateway.websocket import ChannelsHandler, Places

# Of one kernel message, either way (bytes).
MAX_MESSAGE = 1 << 30
# Of a request's body, which is in memory before anybody has looked at its token. Handlers that take
# more have looked before, and take it in pieces.
MAX_BODY = 4 << 20


class Application(web.Application):
    """The gateway's. With a `client_ca` only clients that have shown a certificate get further than
    `UNCERTIFIED`."""

    def find_handler(self, request: httputil.HTTPServerRequest, **kwargs: Any) -> Any:
        wanted = self.settings["options"].client_ca is not None
        path = request.path.removeprefix(self.settings["options"].base_url.rstrip("/"))
        connection: Any = request.connection
        connection.set_max_body_size(MAX_BODY)
        if wanted and not UNCERTIFIED.match(path) and not request.get_ssl_certificate():
            return self.get_handler_delegate(request, _UncertifiedHandler)
        return super().find_handler(request, **kwargs)


UNCERTIFIED = re.compile(r"/(agents(/join)?|blobs/.*|healthz|readyz)$")
"""Agents have tokens of their own, a node gets no certificate; probes show nothing."""


class _UncertifiedHandler(Access, web.RequestHandler):
    async def prepare(self) -> None:
        raise Unauthorized(
            "This gateway wants a certificate of its clients.",
            hint="It must be signed by the authority that the operator has set (KG_CLIENT_CA).",
        )


class _Collectors:
    def __init__(self, collectors: Sequence[Any]) -> None:
        self._collectors = collectors

    def collect(self) -> Iterator[Metric]:
        for one in self._collectors:
            yield from one.collect()


def make_app(
    kernels: Kernels,
    compute: Compute,
    token: str,
    extra_handlers: Sequence[Any] = (),
    agents: Agents | None = None,
    options: Options | None = None,
    readiness: Callable[[], Readiness] | None = None,
    collectors: Sequence[Any] = (),
) -> Application:
    """The kernel gateway's API over `kernels`, which `compute` runs.

    `agents`: told about agents at `/agents`, which is there only then. `extra_handlers` come
    first; they do their own authentication (`gateway.auth.check_token`). `options` are the
    operator's, `readiness` answers `/readyz`, `collectors` are what `/metrics` has beside what
    is known here (prometheus_client's protocol).
    """
    routes: list[Any] = [*extra_handlers]
    if agents is not None:
        routes.append((r"/agents", AgentConnection, {"agents": agents}))
    readiness = readiness or (lambda: journal_readiness(kernels.directory))
    return make_shared_app(
        only(Tenant("", kernels, compute), token),
        lambda request: check_token(request, token),
        routes,
        options,
        readiness,
        [KernelCollector(lambda: [kernels]), *collectors],
        token=token,
    )


def make_shared_app(
    tenants: Tenants,
    operator: Callable[[httputil.HTTPServerRequest], None],
    extra_handlers: Sequence[Any],
    options: Options | None,
    readiness: Callable[[], Readiness],
    collectors: Sequence[Any],
    **settings: Any,
) -> Application:
    """The same over the kernels of many: each request is for who `tenants` says. `operator` raises
    `Unauthorized` for requests that are not the operator's, who alone sees `/metrics`.
    """
    options = options or Options()
    base = re.escape(options.base_url.rstrip("/"))
    channels = (r"/api/kernels/([^/]+)/channels", ChannelsHandler)
    if options.ws_ping_interval:
        settings["websocket_ping_interval"] = options.ws_ping_interval
    return Application(
        [(base + pattern, *rest) for pattern, *rest in (*extra_handlers, channels, *ROUTES)],
        default_handler_class=NotFoundHandler,
        log_function=log_request,
        websocket_max_message_size=MAX_MESSAGE + (1 << 20),
        tenants=tenants,
        places=Places(),
        operator=operator,
        options=options,
        readiness=readiness,
        collector=_Collectors(collectors),
        **settings,
    )


def listen(app: Application, port: int, address: str = "127.0.0.1") -> HTTPServer:
    """Serve the application, with buffers for messages of 1 GiB, and with TLS if its options have a
    certificate. Port 0 takes a free one.

    Raises OSError if the port is taken, `OptionRefused` for certificates that will not do.
    """
    options: Options = app.settings["options"]
    server = HTTPServer(
        app,
        max_buffer_size=MAX_MESSAGE + (16 << 20),
        xheaders=options.trust_xheaders,
        ssl_options=_tls(options),
    )
    server.listen(port, address)
    return server


def _tls(options: Options) -> ssl.SSLContext | None:
    if options.certfile is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if options.ssl_version == ssl.PROTOCOL_TLSv1_2:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(options.certfile, options.keyfile)
        if options.client_ca is not None:
            context.load_verify_locations(options.client_ca)
            # Who has none is told so in words, and agents need none.
            context.verify_mode = ssl.CERT_OPTIONAL
    except (OSError, ssl.SSLError) as error:
        raise OptionRefused(
            f"The certificates ({options.certfile}, {options.keyfile}, {options.client_ca}) "
            f"cannot be used: {error}."
        ) from None
    return context


def port_of(server: HTTPServer) -> int:
    """The port that a server of `listen` has."""
    sockets: dict[int, socket.socket] = server._sockets
    return int(next(iter(sockets.values())).getsockname()[1])
