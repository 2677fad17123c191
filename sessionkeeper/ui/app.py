"""The UI server's process: stock JupyterLab, configured for a session behind a gateway.

    run(UiSettings(state=..., host="127.0.0.1", port=8888, token=..., gateway_url=...,
                   gateway_token=...))

Nothing of a user's or the machine's Jupyter configuration applies: server extensions installed
there would look for a workspace on this machine, and there is none.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer

from sessionkeeper import logs
from sessionkeeper.errors import PortTaken, UsageError
from sessionkeeper.ui.lean import leave_out

__all__ = ["MAX_MESSAGE", "UiSettings", "make", "run", "serve"]

MAX_MESSAGE = 2**30
"""Largest kernel message or request body in bytes, in both directions."""

_END_SECONDS = 5.0

LABEXTENSIONS = Path(__file__).parent / "labextensions"

# Their server halves run processes of the user on the UI server, or need the internet. The first
# one's place is taken by ours.
_DISABLED_LAB_PLUGINS = (
    "@jupyterlab/hub-extension:connectionlost",
    "@jupyterlab/lsp-extension",
    "@jupyterlab/fileeditor-extension:language-server",
    "@jupyterlab/notebook-extension:language-server",
    "@jupyterlab/terminal-extension",
    "@jupyterlab/apputils-extension:announcements",
)


@dataclass(frozen=True)
class UiSettings:
    """What a UI server needs to know.

    `state`: directory of its own for lab settings and layouts, cookies, positions of tabs; created.
    `token`: what a browser must present. `gateway_url`: `http://host:port[/base]`.
    `base_url`: path that all of its URLs begin with; begins and ends with a slash.
    `allow_origin`: the origin of pages elsewhere that may talk to it, with its token.
    """

    state: Path
    host: str
    port: int
    token: str = field(repr=False)
    gateway_url: str
    gateway_token: str = field(repr=False)
    base_url: str = "/"
    allow_origin: str = ""


def run(settings: UiSettings) -> None:
    """Serve until SIGTERM or SIGINT, then return. Call it in a process's main thread.

    Raises `UsageError` for settings that cannot work, `PortTaken` when the port is in use.
    """
    serve(make(settings))


def serve(server: Any) -> None:
    """What `make` made, until SIGTERM or SIGINT."""
    server.start()
    # Threads that were lent to a task (anyio's) end with it; else the process waits for them.
    tasks = asyncio.all_tasks(loop := server.io_loop.asyncio_loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=_END_SECONDS))


def make(
    settings: UiSettings, extensions: Sequence[str] = (), held: socket.socket | None = None
) -> Any:
    """The `jupyter_server.serverapp.ServerApp`, which serves once it is started. `extensions`:
    modules of more server extensions; `held`: a socket that listens already, for `port`.

    Raises as `run`.
    """
    _check(settings)
    if held is None:
        _check_port(settings)
    _isolate(settings.state)
    leave_out()
    # Imported late: it takes half a second, and reads the environment set above.
    from jupyter_server.serverapp import ServerApp

    config = _config(settings)
    config.ServerApp.jpserver_extensions |= dict.fromkeys(extensions, True)
    server = ServerApp.instance(config=config)
    server.no_browser_open_file = True
    server.initialize(
        argv=[], find_extensions=False, starter_extension="lab", new_httpserver=held is None
    )
    if held is not None:
        _serve(server, held)
    return server


def _serve(server: Any, held: socket.socket) -> None:
    """What ServerApp does for a port that it opens itself."""
    http = HTTPServer(
        server.web_app,
        ssl_options=server.ssl_options,
        xheaders=server.trust_xheaders,
        max_body_size=server.max_body_size,
        max_buffer_size=server.max_buffer_size,
    )
    held.setblocking(False)
    server.io_loop.add_callback(http.add_socket, held)


def _check(settings: UiSettings) -> None:
    if not settings.token:
        raise UsageError("the UI server needs a token", hint="give it one, it is never optional")
    if not settings.gateway_url.startswith(("http://", "https://")):
        raise UsageError(f"{settings.gateway_url!r} is no gateway URL", hint="http://host:port")


def _check_port(settings: UiSettings) -> None:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            if error.errno == errno.EADDRINUSE:
                raise PortTaken(f"something else listens on {where}") from error
            raise UsageError(
                f"cannot listen on {where}: {error.strerror}",
                hint="choose another address or port with --host and --port",
            ) from error


def _isolate(state: Path) -> None:
    """Point everything that Jupyter reads and writes by itself to `state`."""
    for name in ("config", "data", "runtime"):
        directory = state / name
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.environ[f"JUPYTER_{name.upper()}_DIR"] = str(directory)
    os.environ["JUPYTER_NO_CONFIG"] = "1"
    # What Jupyter and uploads put aside does not outlive this server, whatever ends it.
    scratch = state / "tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    os.environ["TMPDIR"] = str(scratch)
    page = state / "lab-app" / "page_config.json"
    page.parent.mkdir(exist_ok=True)
    page.write_text(json.dumps({"disabledExtensions": dict.fromkeys(_DISABLED_LAB_PLUGINS, True)}))
    # Kernel ids and working directories are the gateway's business, not this machine's.
    for name in [n for n in os.environ if n.startswith(("JUPYTER_GATEWAY_", "KERNEL_"))]:
        del os.environ[name]


def _config(settings: UiSettings) -> Any:
    from traitlets.config import Config

    state = settings.state
    base_url = "/" + settings.base_url.strip("/")
    return Config(
        # Of the server and of what runs in it: their lines among ours.
        Application={"logging_config": {"handlers": {"console": {"class": logs.PASSES_ON}}}},
        ServerApp={
            "ip": settings.host,
            "port": settings.port,
            "port_retries": 0,
            "base_url": base_url if base_url == "/" else base_url + "/",
            "root_dir": str(state / "data"),
            "allow_root": True,
            "open_browser": False,
            "answer_yes": True,
            "terminals_enabled": False,
            "allow_remote_access": True,
            "allow_origin": settings.allow_origin,
            "max_body_size": MAX_MESSAGE,
            "max_buffer_size": MAX_MESSAGE + 2**20,
            "jpserver_extensions": {"jupyterlab": True, "sessionkeeper.ui.handlers": True},
            "contents_manager_class": "sessionkeeper.ui.contents.WorkspaceContents",
            "kernel_manager_class": "sessionkeeper.ui.kernels.SessionKernels",
            "kernel_spec_manager_class": "sessionkeeper.ui.kernels.SessionKernelSpecs",
            "session_manager_class": "sessionkeeper.ui.kernels.NotebookSessions",
            "identity_provider_class": "sessionkeeper.ui.identity.TokenIdentity",
            "kernel_websocket_connection_class": "sessionkeeper.ui.channels.ResumingConnection",
            "tornado_settings": {"websocket_max_message_size": MAX_MESSAGE},
        },
        TokenIdentity={"token": settings.token, "allow_password_change": False},
        SessionExtension={"outputs_directory": str(state / "outputs")},
        ResumingConnection={"positions_directory": str(state / "positions")},
        GatewayClient={
            "url": settings.gateway_url.rstrip("/"),
            "auth_token": settings.gateway_token,
            "headers": "{}",
            "connect_timeout": 5.0,
            "request_timeout": 120.0,
        },
        NotebookNotary={"db_file": str(state / "notebook-signatures.sqlite")},
        LabApp={
            "extra_labextensions_path": [str(LABEXTENSIONS)],
            "app_settings_dir": str(state / "lab-app"),
            "user_settings_dir": str(state / "lab-settings"),
            "workspaces_dir": str(state / "lab-workspaces"),
            "news_url": None,
            "check_for_updates_class": "jupyterlab.handlers.announcements.NeverCheckForUpdate",
            "extension_manager": "readonly",
        },
    )
