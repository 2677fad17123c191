"""A gateway with TLS that machines join, each a process of its own behind an HTTP proxy.

Nobody but the proxy knows where `gateway.invalid` is: what reaches the gateway came through it.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from certificates import Authority
from system.client import PATIENCE, KernelClient
from system.running import free_port
from websockets.asyncio.client import connect

SELF = (sys.executable, "-m", "sessionkeeper")
HOST = "gateway.invalid"
LEASE = 1.5
LET_IN = "has let this node in"


class Proxy(socketserver.ThreadingTCPServer):
    """Takes `CONNECT` alone. `tunnels` counts them."""

    allow_reuse_address = daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.tunnels = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Tunnel(socketserver.StreamRequestHandler):
    server: Proxy

    def handle(self) -> None:
        method, where, _ = self.rfile.readline().decode().split()
        while self.rfile.readline().strip():
            pass
        host, _, port = where.rpartition(":")
        if method != "CONNECT" or host != HOST:
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            return
        self.server.tunnels += 1
        with socket.create_connection(("127.0.0.1", int(port))) as gateway, suppress(OSError):
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            ways = {self.connection: gateway, gateway: self.connection}
            while True:
                for one in select.select(list(ways), [], [])[0]:
                    data = one.recv(1 << 16)
                    if not data:
                        return
                    ways[one].sendall(data)


class Machine:
    """A machine that joins, or has: `sessionkeeper node join` in the foreground."""

    def __init__(self, site: Site, name: str) -> None:
        self.site = site
        self.name = name
        self.home = site.folder / name
        self.said = ""
        self.process: subprocess.Popen[str] | None = None

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command on that machine, to its end."""
        return subprocess.run(
            [*SELF, "node", *words, "--dir", str(self.home)],
            env=self._environ(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def _environ(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        ours = {"HTTPS_PROXY": self.site.proxy.url, "SSL_CERT_FILE": self.site.authority.file}
        return {**kept, **ours}

    def join(self, token: str | None = None, *flags: str) -> Machine:
        """Start it, and wait until the gateway has let it in."""
        shown = (self.site.place, "--token", token) if token else ()
        how = ("--name", self.name, "--dir", str(self.home), "--runtime", "process")
        self.process = subprocess.Popen(
            [*SELF, "node", "join", *shown, *how, *flags],
            env=self._environ(),
            stderr=subprocess.PIPE,
            text=True,
        )
        self.until(LET_IN)
        return self

    def until(self, words: str) -> None:
        """Read what it says until a line has `words`."""
        assert self.process is not None
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line
            if words in line:
                return
        raise AssertionError(f"{self.name} never said {words!r}:\n{self.said}")

    def end(self) -> int:
        """Wait for its end; the exit code."""
        assert self.process is not None
        assert self.process.stderr is not None
        self.said += self.process.stderr.read()
        return self.process.wait(PATIENCE)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kernels(self) -> list[int]:
        """Processes that it runs for sessions."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdecimal() and str(self.home).encode() in (
                    entry / "cmdline"
                ).read_bytes().replace(b"\0", b" "):
                    found.append(int(entry.name))
        mine = self.process.pid if self.process else 0
        return [pid for pid in found if pid != mine]


class Site:
    """The gateway, its proxy, and what its operator asks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder, "ours")
        self.proxy = Proxy()
        self.port = free_port()
        self.place = f"https://{HOST}:{self.port}"
        self._context = ssl.create_default_context(cafile=self.authority.file)
        self._certificate = self.authority.issue("gateway", HOST)
        self.machines: dict[str, Machine] = {}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Site:
        (self.folder / "agents").write_text("the-agents-token")
        readable, writable = os.pipe()
        said = {
            "KG_CERTFILE": self._certificate[0],
            "KG_KEYFILE": self._certificate[1],
            "KG_PORT": str(self.port),
            "KG_AUTH_TOKEN": "operators",
        }
        with open(self.folder / "gateway.log", "ab") as log:
            self.process = subprocess.Popen(
                [
                    *(*SELF, "gateway"),
                    *("--state", str(self.folder / "gateway")),
                    *("--agent-token-file", str(self.folder / "agents")),
                    *("--store", str(self.folder / "store")),
                    *("--master-key", str(self.folder / "master.key")),
                    *("--lease-seconds", f"20s,volunteer={LEASE}"),
                    *("--ready-fd", str(writable)),
                ],
                env={**os.environ, **said},
                pass_fds=(writable,),
                stderr=log,
            )
        os.close(writable)
        with os.fdopen(readable) as ready:
            assert ready.readline(), (self.folder / "gateway.log").read_text()
        return self

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(PATIENCE)

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()  # nothing of it is wanted any more
        for machine in self.machines.values():
            if machine.process is not None and machine.process.poll() is None:
                machine.process.kill()
                machine.process.wait()
            for pid in machine.kernels():
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
        self.stop()
        self.proxy.shutdown()
        self.proxy.server_close()

    def machine(self, name: str) -> Machine:
        return self.machines.setdefault(name, Machine(self, name))

    def ask(
        self, method: str, path: str, body: Any = None, token: str | None = "operators"
    ) -> tuple[int, Any]:
        """One request, straight to the gateway; status and what it says."""
        url = f"https://127.0.0.1:{self.port}{path}"
        headers = {"Authorization": f"token {token}"} if token else {}
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE, context=self._context) as answer:
                content = answer.read()
                return answer.status, json.loads(content) if content else None
        except urllib.error.HTTPError as error:
            said = error.read().decode()
            return error.code, json.loads(said) if said.startswith("{") else said

    def operate(self, method: str, path: str, body: Any = None) -> Any:
        status, said = self.ask(method, f"/api/sessionkeeper/{path}", body)
        assert status < 400, said
        return said

    def token(self, **how: Any) -> str:
        return str(self.operate("POST", "join-tokens", how)["token"])

    def nodes(self) -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in self.operate("GET", "nodes")["nodes"]}

    async def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until the status of the session fulfils it; whatever changes there is told."""
        last: dict[str, Any] = {}
        url = f"wss://127.0.0.1:{self.port}/api/sessionkeeper/events"
        how: dict[str, Any] = {"ssl": self._context, "proxy": None}
        headers = {"Authorization": "token operators"}
        try:
            async with (
                asyncio.timeout(PATIENCE),
                connect(url, additional_headers=headers, **how) as feed,
            ):
                async for text in feed:
                    last = json.loads(text)
                    if condition(last):
                        return last
        except TimeoutError:
            pass
        raise AssertionError(f"waited in vain: {json.dumps(last, indent=1)}")

    @asynccontextmanager
    async def kernel(self) -> AsyncIterator[KernelClient]:
        """A new kernel and a client; gone afterwards."""
        status, model = self.ask("POST", "/api/kernels", {"name": "python3"})
        assert status == 201, model
        where = f"wss://127.0.0.1:{self.port}"
        client = KernelClient(model["id"], where, "operators", self._context)
        try:
            await client.open()
            yield client
        finally:
            await client.close()
            self.ask("DELETE", f"/api/kernels/{model['id']}")
