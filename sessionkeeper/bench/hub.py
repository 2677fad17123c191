"""`bench launch`, its part with a JupyterHub: what its users see when a node dies.

A real JupyterHub with configurable-http-proxy, one user, whose page asks for something all the
time. Its node's plug is pulled; `hub_back_s` is how long the next cell takes. A run in which the
hub says anything but 200, or in which URL, token or kernel are others afterwards, has failed.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed

from sessionkeeper.bench.client import Kernel, Server
from sessionkeeper.bench.errors import RunFailed, StackFailed
from sessionkeeper.bench.feed import Feed
from sessionkeeper.bench.figures import REQUIRED, Figure
from sessionkeeper.bench.stacks import (
    READY_SECONDS,
    System,
    free_port,
    sessionkeeper_system,
    spawn,
    stop,
    until,
)
from sessionkeeper.errors import SessionkeeperError
from sessionkeeper.up.terminal import Terminal

__all__ = ["PROXY", "configuration", "measure", "proxy"]

PROXY = "configurable-http-proxy"
USER = "bench"

_TROUBLE = (SessionkeeperError, ConnectionClosed, OSError, http.client.HTTPException, ValueError)


async def measure(terminal: Terminal, runs: int) -> list[Figure]:
    """The figure; without a JupyterHub and its proxy all runs have failed."""
    # Its server is the pod that has the kernel: 503, and the kernel is gone for good.
    figure = Figure("hub_back_s", peers={"jupyterhub": None})
    for missing, hint in (
        (find_spec("jupyterhub") is None, "pip install sessionkeeper[hub]"),
        (shutil.which(PROXY) is None, f"apt-get install node-{PROXY}, or npm install -g {PROXY}"),
    ):
        if missing:
            figure.runs, figure.failures = [None] * runs, [f"it is not installed: {hint}"]
            return [figure]
    async with sessionkeeper_system(terminal) as system, _hub(terminal, system) as server:
        if system.runtime == "container":
            figure.must = REQUIRED["hub_back_s"]
        feeding = Feed.of(await _session(system))
        async with Kernel.started(server) as kernel, feeding as feed:
            for number in range(1, runs + 1):
                taken = None
                try:
                    with terminal.step(f"{figure.name}, {number}/{runs}"):
                        taken = await _once(system, server, kernel, feed)
                    terminal.say(f"  {taken:.3f} s")
                except _TROUBLE as error:
                    terminal.say(f"  failed: {error}")
                    figure.failures.append(f"run {number}: {error}")
                figure.runs.append(taken)
    return [figure]


async def _once(system: System, server: Server, kernel: Kernel, feed: Feed) -> float:
    answer = await kernel.run("x = 41\nimport time; print(time.time())")
    await feed.committed(float(answer.text))
    node = feed.node
    visiting = asyncio.create_task(_visit(server, kernel.id))
    try:
        began = time.perf_counter()
        await system.kill(node)
        answer = await kernel.run("print(x + 1)")
        await feed.moved(node)
        if visiting.done():
            visiting.result()
    finally:
        visiting.cancel()
        await asyncio.gather(visiting, return_exceptions=True)
        await system.start(node)
    if answer.text != "42\n":
        raise RunFailed(f"the kernel does not hold what it held: {answer.text!r}")
    return answer.replied - began


async def _visit(server: Server, kernel: str) -> None:
    """As an open page does. Raises RunFailed when the hub notices anything."""
    while True:
        there = [one["id"] for one in await server.ask("GET", "/api/kernels")]
        if there != [kernel]:
            raise RunFailed(f"the kernel is another one: {there}")


async def _session(system: System) -> Server:
    """The gateway, for who has the token of the user's session."""
    listed = (await system.gateway.ask("GET", "/api/sessionkeeper/sessions"))["sessions"]
    (name,) = [one["name"] for one in listed if one["owner"] == USER]
    made = await system.gateway.ask("POST", f"/api/sessionkeeper/sessions/{name}/token", {})
    return Server(system.gateway.url, made["token"])


# -- a hub and its proxy ---------------------------------------------------------------------------


@asynccontextmanager
async def _hub(terminal: Terminal, system: System) -> AsyncIterator[Server]:
    """The user's server, which runs."""
    with tempfile.TemporaryDirectory(prefix="sessionkeeper-bench-") as directory:
        place, token, secret = Path(directory), secrets.token_hex(16), secrets.token_hex(16)
        ports = (free_port(), free_port(), free_port())
        config = place / "config.py"
        config.write_text(configuration(place, ports, system.gateway, token, secret))
        front = Server(f"http://127.0.0.1:{ports[0]}", token)
        words, environ = proxy(ports, secret)
        with (place / "proxy.log").open("wb") as log:
            routing = await asyncio.create_subprocess_exec(
                *words, env=environ, stdout=log, stderr=log
            )
        try:
            log_file = place / "hub.log"
            words = ["-m", "jupyterhub", "-f", str(config)]
            process = await spawn(words, {"PYTHONPATH": ""}, log_file, directory)
            try:
                with terminal.step("starting JupyterHub"):
                    await until(process, log_file, lambda: _answers(front))
                yield await _server(terminal, front)
            finally:
                with terminal.step("stopping JupyterHub"):
                    await stop(process)
        finally:
            await stop(routing)


async def _server(terminal: Terminal, front: Server) -> Server:
    user = f"/hub/api/users/{USER}"
    with terminal.step("starting a user's server"):
        await front.ask("POST", user)
        await front.ask("POST", f"{user}/server", {})
        deadline = time.monotonic() + READY_SECONDS
        while not await _is_ready(front, user):
            if time.monotonic() > deadline:
                raise StackFailed(f"its server was not ready in {READY_SECONDS:.0f} s")
            await asyncio.sleep(0.05)
    made: dict[str, Any] = await front.ask("POST", f"{user}/tokens", {})
    return Server(f"{front.url}/user/{USER}", made["token"])


async def _is_ready(front: Server, user: str) -> bool:
    servers = (await front.ask("GET", user))["servers"]
    return bool(servers.get("", {}).get("ready"))


def _answers(front: Server) -> bool:
    try:
        front.call("GET", "/hub/api/", seconds=5.0)
    except (OSError, RunFailed):
        return False
    return True


def configuration(
    place: Path, ports: Sequence[int], gateway: Server, token: str, secret: str, base: str = "/"
) -> str:
    """A JupyterHub's configuration that keeps everything in `place`. `ports`: of the proxy, of the
    proxy's API, whose token is `secret`, and of the hub. `token`: for a client that may do all.
    """
    front, api, hub = ports
    return f"""
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.db_url = "sqlite:///{place}/hub.sqlite"
c.JupyterHub.cookie_secret_file = "{place}/cookie_secret"
c.JupyterHub.bind_url = "http://127.0.0.1:{front}{base}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{hub}"
c.JupyterHub.allow_named_servers = True
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{api}"
c.ConfigurableHTTPProxy.auth_token = "{secret}"
c.JupyterHub.services = [{{"name": "client", "api_token": "{token}"}}]
c.JupyterHub.load_roles = [{{
    "name": "client",
    "services": ["client"],
    "scopes": ["admin:users", "admin:servers", "access:servers", "tokens"],
}}]
c.JupyterHub.spawner_class = "sessionkeeper.spawner.SessionKeeperSpawner"
c.SessionKeeperSpawner.gateway_url = "{gateway.url}"
c.SessionKeeperSpawner.gateway_token = "{gateway.token}"
c.SessionKeeperSpawner.state_directory = "{place}/ui"
"""


def proxy(
    ports: Sequence[int], secret: str, base: str = "/"
) -> tuple[list[str], Mapping[str, str]]:
    """Its command and environment, for the hub that has this :func:`configuration`."""
    front, api, hub = ports
    target = f"http://127.0.0.1:{hub}"
    words = [PROXY, "--ip", "127.0.0.1", "--port", str(front)]
    words += ["--api-ip", "127.0.0.1", "--api-port", str(api)]
    words += ["--default-target", target, "--error-target", f"{target}{base}hub/error"]
    # Debian's package has its modules where only Debian's node looks by itself.
    modules = os.pathsep.join(filter(None, (os.environ.get("NODE_PATH"), "/usr/share/nodejs")))
    return words, {**os.environ, "CONFIGPROXY_AUTH_TOKEN": secret, "NODE_PATH": modules}
