"""A real JupyterHub and configurable-http-proxy beside a system that is up."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from email.message import Message
from pathlib import Path
from typing import Any

from sessionkeeper.bench import own_image
from sessionkeeper.bench.client import Server as Address
from sessionkeeper.bench.hub import configuration, proxy
from sessionkeeper.images.store import ImageStore
from sessionkeeper.images.writing import layer, put
from sessionkeeper.ui.attendant import ENDED
from system.client import PATIENCE, KernelClient
from system.running import DIRECT, System, free_port

_MORE = """
c.JupyterHub.cleanup_servers = False
c.JupyterHub.last_activity_interval = 86400
c.SessionKeeperSpawner.poll_interval = 1
c.SessionKeeperSpawner.environment = {"JUPYTERHUB_ACTIVITY_INTERVAL": "1"}
"""
_BASE = "/base/"


class Hub:
    """`path`: of a JupyterHub that goes before the one that is installed; `more`: lines of its
    configuration."""

    def __init__(
        self, system: System, place: Path, path: Path | None = None, more: str = ""
    ) -> None:
        self.system = system
        self.place = place
        self.token, self._secret = secrets.token_hex(16), secrets.token_hex(16)
        self._ports = (free_port(), free_port(), free_port())
        self.url = f"http://127.0.0.1:{self._ports[0]}{_BASE}".rstrip("/")
        self._environ = {**os.environ, "PYTHONPATH": str(path or "")}
        place.mkdir(parents=True, exist_ok=True)
        gateway = Address(system.url("gateway"), system.state.token("gateway"))
        config = configuration(place, self._ports, gateway, self.token, self._secret, _BASE)
        (place / "config.py").write_text(config + _MORE + more)
        self._proxy: subprocess.Popen[bytes] | None = None
        self._hub: subprocess.Popen[bytes] | None = None

    # -- its life ------------------------------------------------------------------------------

    async def start(self) -> Hub:
        """Start the proxy and the hub; both answer afterwards."""
        words, environ = proxy(self._ports, self._secret, _BASE)
        log = (self.place / "proxy.log").open("ab")
        self._proxy = subprocess.Popen(words, env=environ, stdout=log, stderr=log)
        await self.start_hub()
        return self

    async def start_hub(self) -> None:
        """Only the hub, for the first time or again."""
        self._hub = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "-f", str(self.place / "config.py")],
            env=self._environ,
            cwd=self.place,
            stdout=(self.place / "hub.log").open("ab"),
            stderr=subprocess.STDOUT,
        )
        async with asyncio.timeout(PATIENCE):
            while (await self.ask("GET", "/hub/api/"))[0] != 200:
                assert self._hub.poll() is None, (self.place / "hub.log").read_text()
                await asyncio.sleep(0.05)

    async def image(self, name: str) -> str:
        """Have the gateway keep an image of that name; sessions can run in it."""
        store = ImageStore(self.system.state.gateway / "images")
        layers = [(await asyncio.to_thread(lambda: layer(own_image.files())), "")]
        await asyncio.to_thread(put, store, name, layers, own_image.CONFIG)
        return name

    async def forget(self) -> None:
        """Delete the sessions of its users."""
        listed = await self.system.call("GET", "/api/sessionkeeper/sessions", server="gateway")
        for one in listed["sessions"]:
            if one["name"].startswith("hub-"):
                path = f"/api/sessionkeeper/sessions/{one['name']}"
                await self.system.call("DELETE", path, server="gateway")

    def keep(self, place: Path) -> None:
        """Copy what helps to understand a failure."""
        place.mkdir(parents=True, exist_ok=True)
        for log in (*self.place.glob("*.log"), *self.place.glob("ui/*/ui.log")):
            name = "-".join(log.relative_to(self.place).parts)
            (place / name).write_bytes(log.read_bytes())

    def kill_hub(self) -> None:
        """SIGKILL to the hub alone."""
        assert self._hub is not None
        self._hub.kill()
        self._hub.wait()

    def stop(self) -> None:
        """End all of it, UI servers too."""
        for process in (self._hub, self._proxy):
            if process is not None:
                process.kill()
                process.wait()
        for home in (self.place / "ui").glob("*"):
            (home / ENDED).write_text("0")
            with suppress(OSError, ValueError):
                os.kill(int((home / "lock").read_text()), signal.SIGTERM)
        for home in (self.place / "ui").glob("*"):
            with (home / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # its attendant has ended

    # -- requests through the proxy ------------------------------------------------------------

    async def ask(
        self, method: str, path: str, body: Any = None, token: str = ""
    ) -> tuple[int, bytes]:
        """One request; status (0: nobody listens) and content."""
        return await asyncio.to_thread(self._ask, method, path, body, token or self.token)

    def _ask(self, method: str, path: str, body: Any, token: str) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json", "Authorization": f"token {token}"}
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with DIRECT.open(request, timeout=PATIENCE) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    async def headers(self, path: str, token: str) -> Message:
        """The headers of an answer."""
        request = urllib.request.Request(
            self.url + path, headers={"Authorization": f"token {token}"}
        )
        answer = await asyncio.to_thread(DIRECT.open, request, timeout=PATIENCE)
        headers: Message = answer.headers
        return headers

    async def call(self, method: str, path: str, body: Any = None, token: str = "") -> Any:
        """One request and the JSON it answers. AssertionError for an error."""
        status, content = await self.ask(method, path, body, token)
        assert 200 <= status < 400, f"{method} {path}: {status} {content.decode()}"
        return json.loads(content) if content else None


class Server:
    """The server of a user, begun with `options`."""

    def __init__(self, hub: Hub, user: str, name: str = "") -> None:
        self.hub = hub
        self.user = user
        self.path = f"/user/{user}/" + (f"{name}/" if name else "")
        self._api = f"/hub/api/users/{user}"
        self._server = f"{self._api}/servers/{name}" if name else f"{self._api}/server"
        self.token = ""
        self.events: list[dict[str, Any]] = []

    async def spawn(self, options: dict[str, Any] | None = None) -> Server:
        """Start it; returns when it answers. AssertionError when that fails."""
        await self.hub.ask("POST", self._api)
        asking = asyncio.create_task(self.hub.call("POST", self._server, options))
        while not asking.done() and not await self.model():
            await asyncio.sleep(0.02)  # there is no progress yet
        self.events = await self.progress()
        await asking
        assert self.events[-1].get("ready"), self.events
        return self if self.token else await self.have_token()

    async def have_token(self) -> Server:
        """Get a token of its user's."""
        self.token = (await self.hub.call("POST", f"{self._api}/tokens", {}))["token"]
        return self

    async def progress(self) -> list[dict[str, Any]]:
        """The events of a start, to its end."""
        _, content = await self.hub.ask("GET", f"{self._server}/progress")
        lines = content.decode().splitlines()
        return [json.loads(line[5:]) for line in lines if line.startswith("data:")]

    async def model(self) -> dict[str, Any] | None:
        """What the hub says of it; None: it does not run."""
        user = await self.hub.call("GET", self._api)
        name = self.path.split("/")[3]
        found: dict[str, Any] | None = user["servers"].get(name)
        return found

    async def stop(self) -> None:
        """Stop it as its user does; returns when that is done."""
        status, content = await self.hub.ask("DELETE", self._server)
        assert status in {202, 204}, content
        await self.gone()

    async def gone(self) -> None:
        """Wait until the hub says that it does not run."""
        async with asyncio.timeout(PATIENCE):
            while await self.model():
                await asyncio.sleep(0.05)

    async def last_activity(self) -> datetime:
        """As the culler sees it."""
        model = await self.model()
        assert model is not None
        return datetime.fromisoformat(model["last_activity"])

    async def active_after(self, moment: datetime) -> datetime:
        """Wait for activity after that moment; when it was."""
        async with asyncio.timeout(PATIENCE):
            while (found := await self.last_activity()) <= moment:
                await asyncio.sleep(0.05)
        return found

    async def rename(self, name: str) -> None:
        """Give the server, which is stopped, another name (JupyterHub 6)."""
        await self.hub.call("PATCH", self._server, {"name": name})

    async def delete_user(self) -> None:
        status, content = await self.hub.ask("DELETE", self._api)
        assert status == 204, content

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """The API of the UI server, through the proxy."""
        return await self.hub.call(method, self.path + path.lstrip("/"), body, self.token)

    async def status(self, path: str = "api/kernels") -> int:
        return (await self.hub.ask("GET", self.path + path, None, self.token))[0]

    async def kernel(self) -> KernelClient:
        """A new kernel, and a client to it through the proxy."""
        model = await self.call("POST", "api/kernels", {"name": "python3"})
        return await self.client(model["id"]).open()

    def client(self, kernel_id: str) -> KernelClient:
        return KernelClient(
            kernel_id, (self.hub.url + self.path.rstrip("/")).replace("http", "ws", 1), self.token
        )

    @property
    def home(self) -> Path:
        """Of its UI server."""
        (found,) = [
            one
            for one in (self.hub.place / "ui").glob("*")
            if one.name.rpartition("-")[0]
            == self.path.strip("/").removeprefix("user/").replace("/", "-")
        ]
        return found

    def attendant(self) -> int:
        return int((self.home / "lock").read_text())

    def ui(self) -> int:
        """Process id of the UI server."""
        children = Path(f"/proc/{self.attendant()}/task/{self.attendant()}/children").read_text()
        return int(children.split()[0])

    def runs(self) -> bool:
        """Whether its UI server does, or what would start it again."""
        return Path(f"/proc/{self.attendant()}").exists()

    def address(self) -> list[Any]:
        """Where its UI server listens."""
        return list(self._start()["address"])

    def environ(self) -> dict[str, str]:
        """The environment of its UI server."""
        lines = Path(f"/proc/{self.ui()}/environ").read_text().split("\0")
        return dict(line.partition("=")[::2] for line in lines if line)

    async def answers(self) -> None:
        """Wait until it does."""
        async with asyncio.timeout(PATIENCE):
            while await self.status() != 200:
                await asyncio.sleep(0.05)

    def session(self) -> str:
        """Its session's name at the gateway."""
        return str(self._start()["env"]["SESSIONKEEPER_SESSION"])

    def _start(self) -> Any:
        return json.loads((self.home / "start.json").read_text())

    async def said(self) -> dict[str, Any]:
        """What the gateway says of its session, and of its kernels."""
        name, system = self.session(), self.hub.system
        path = f"/api/sessionkeeper/sessions/{name}"
        found: dict[str, Any] = await system.call("GET", path, server="gateway")
        token = self._start()["env"]["SESSIONKEEPER_GATEWAY_TOKEN"]
        _, kernels = await asyncio.to_thread(
            system.request, "GET", "/api/kernels", server="gateway", token=token
        )
        return {**found, "kernels": json.loads(kernels)}

    async def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until what the gateway says of its session fulfils a condition."""
        async with asyncio.timeout(PATIENCE):
            while not condition(said := await self.said()):
                await asyncio.sleep(0.05)
        return said


class Visitor:
    """Asks a server again and again, as an open page does: every answer must be a good one."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.statuses: list[int] = []
        self.slowest = 0.0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Visitor:
        self._task = asyncio.create_task(self._visit())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _visit(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            self.statuses.append(await self._server.status())
            self.slowest = max(self.slowest, loop.time() - began)
            await asyncio.sleep(0.02)
