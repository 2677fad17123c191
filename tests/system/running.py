"""One real `sessionkeeper up`, in a state directory and on a port of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from sessionkeeper.nodes import cgroups, processes
from sessionkeeper.up.state import StateDirectory
from system.client import PATIENCE, KernelClient

Status = dict[str, Any]
PROGRAM = (sys.executable, "-m", "sessionkeeper")
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port() -> int:
    """A port with free ones above it, most likely."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class System:
    """A running `up` with a UI server, a gateway and nodes. Every wait is for an event."""

    def __init__(self, state: Path, *flags: str, environ: dict[str, str] | None = None) -> None:
        self.state = StateDirectory(state)
        self.port = free_port()
        self.flags = flags
        self.environ = {**os.environ, **(environ or {})}
        self._process: subprocess.Popen[str] | None = None

    # -- its life ------------------------------------------------------------------------------

    def start(self) -> System:
        """Start it, and wait for its URL. AssertionError with its words when it ends instead."""
        self._process = self._launch()
        if not self._process.stdout.readline().strip():
            raise AssertionError(f"up ended: {self._process.communicate()[1]}")
        return self

    def fail(self) -> tuple[int, str]:
        """Start it and wait for its end, which is expected: exit code and standard error."""
        self._process = self._launch()
        _, said = self._process.communicate(timeout=PATIENCE)
        return self._process.returncode, said

    def _launch(self) -> subprocess.Popen[str]:
        place = ("--state", str(self.state.path), "--port", str(self.port))
        return subprocess.Popen(
            [*PROGRAM, "up", *place, *self.flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environ,
        )

    def stop(self) -> None:
        """End it as Ctrl-C does."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()
        processes.end_all(lambda: processes.parts(self.state.id))

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def leftovers(self) -> dict[str, list[str]]:
        """What is still on the machine after its end; empty when nothing is."""
        name = self.state.id
        found = {
            "processes": [str(pid) for pid in processes.parts(name)],
            "cgroups": [str(p) for root in cgroups.hierarchies() for p in root.glob(f"*{name}*")],
            "mounts": [
                line
                for line in Path("/proc/self/mountinfo").read_text().splitlines()
                if str(self.state.path) in line
            ],
            "nodes": [entry.name for entry in self.state.nodes.iterdir()],
        }
        for what, command in {
            "links": ["ip", "-o", "link"],
            "nft": ["nft", "list", "tables"],
        }.items():
            said = subprocess.run(command, capture_output=True, text=True).stdout
            found[what] = [line for line in said.splitlines() if name in line]
        return {what: lines for what, lines in found.items() if lines}

    def keep(self, place: Path) -> None:
        """Copy what helps to understand a failure: logs and the newest status."""
        place.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.state.path / "logs", place / "logs", dirs_exist_ok=True)
        with suppress(Exception):
            status = self.get("/api/sessionkeeper/status", server="gateway")
            (place / "status.json").write_text(json.dumps(status, indent=1))

    def kill_part(self, part: str, how: signal.Signals = signal.SIGKILL) -> None:
        """Signal the process of a part that the supervisor started: `gateway` or `ui`."""
        pids = [pid for pid, name in processes.parts(self.state.id).items() if name == part]
        assert pids, f"there is no {part}"
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, how)

    def kill_agent(self, node: str) -> None:
        """SIGKILL to the agent on a node; the node itself and its kernels are left alone."""
        for pid, name in processes.parts(self.state.id).items():
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if name == node and words[1:4] == [b"-m", b"sessionkeeper", b"agent"]:
                os.kill(pid, signal.SIGKILL)
                return
        raise AssertionError(f"no agent runs on {node}")

    # -- its command line ----------------------------------------------------------------------

    async def command(self, *words: str) -> str:
        """Run `sessionkeeper WORDS`; what it printed. AssertionError when it fails."""
        code, out, err = await self.attempt(*words)
        assert code == 0, f"sessionkeeper {' '.join(words)}: exit code {code}: {err}"
        return out

    async def attempt(self, *words: str) -> tuple[int, str, str]:
        """Run it; exit code, standard output, standard error."""
        process = await asyncio.create_subprocess_exec(
            *PROGRAM,
            *words,
            *("--state", str(self.state.path)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environ,
        )
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def drain(self, node: str, deadline: str = "20s") -> str:
        return await self.command("node", "drain", node, "--deadline", deadline)

    async def kill(self, node: str) -> str:
        return await self.command("node", "kill", node)

    async def start_node(self, node: str) -> str:
        return await self.command("node", "start", node)

    # -- its servers ---------------------------------------------------------------------------

    def url(self, server: str = "ui") -> str:
        if server == "ui":
            return f"http://127.0.0.1:{self.port}"
        return str(self.state.running()["gateway"])

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        server: str = "ui",
        token: str | None = "",
    ) -> tuple[int, bytes]:
        """One HTTP request; status and content. `token`: None for none, empty for the right one."""
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"token {token or self.state.token(server)}"
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url(server) + path, data, headers, method=method)
        try:
            with DIRECT.open(request, timeout=PATIENCE) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def get(self, path: str, *, server: str = "ui") -> Any:
        return self._checked("GET", path, None, server)

    async def call(self, method: str, path: str, body: Any = None, *, server: str = "ui") -> Any:
        """One request and the JSON it answers. AssertionError for an error."""
        return await asyncio.to_thread(self._checked, method, path, body, server)

    def _checked(self, method: str, path: str, body: Any, server: str) -> Any:
        status, content = self.request(method, path, body, server=server)
        assert status < 400, f"{method} {path}: {status} {content.decode()}"
        return json.loads(content) if content else None

    @asynccontextmanager
    async def kernel(self, name: str = "python3", **wish: Any) -> AsyncIterator[KernelClient]:
        """A new kernel and a client to it; both are gone afterwards."""
        model = await self.call("POST", "/api/kernels", {"name": name, **wish})
        client = self.client(model["id"])
        try:
            await client.open()
            yield client
        finally:
            await client.close()
            with suppress(AssertionError, OSError):
                await self.call("DELETE", f"/api/kernels/{client.id}")

    def client(self, kernel_id: str, server: str = "ui") -> KernelClient:
        """One more client to a kernel, not yet connected."""
        where = self.url(server).replace("http", "ws", 1)
        return KernelClient(kernel_id, where, self.state.token(server))

    # -- its status ----------------------------------------------------------------------------

    async def statuses(self, server: str = "gateway") -> AsyncIterator[Status]:
        """The status and every change of it, over restarts of the server."""
        path = "/api/sessionkeeper/events" if server == "gateway" else "/sessionkeeper/events"
        url = self.url(server).replace("http", "ws", 1) + path
        headers = {"Authorization": f"token {self.state.token(server)}"}
        while True:
            with suppress(OSError, ConnectionClosed, InvalidHandshake):
                async with connect(url, additional_headers=headers, proxy=None) as feed:
                    async for text in feed:
                        yield json.loads(text)
            await asyncio.sleep(0.05)  # it is being started again

    async def until(
        self,
        condition: Callable[[Status], bool],
        timeout: float = PATIENCE,
        server: str = "gateway",
    ) -> Status:
        """Wait until a status fulfils the condition. AssertionError with the last one otherwise."""
        last: Status = {}
        feed = self.statuses(server)
        try:
            async with asyncio.timeout(timeout):
                async for last in feed:
                    if condition(last):
                        return last
        except TimeoutError:
            pass
        finally:
            await feed.aclose()
        raise AssertionError(f"waited in vain; the last status: {json.dumps(last, indent=1)}")

    async def running(self) -> Status:
        """Wait until the session runs on a node."""
        return await self.until(lambda s: s["state"] == "running")

    async def number(self) -> int:
        """Number of the newest checkpoint once none is being made."""
        return _number(await self.until(lambda s: not s["checkpointing"]))

    async def saved(self, after: int) -> Status:
        """Wait for a checkpoint newer than number `after`."""
        return await self.until(lambda s: _number(s) > after and not s["checkpointing"])

    async def cell(self, kernel: KernelClient, code: str) -> str:
        """Run a cell and have it saved; what it showed."""
        shown = await kernel.ask(code)
        await self.save(kernel)
        return shown

    async def save(self, kernel: KernelClient) -> int:
        """Have a checkpoint that began after now; its number. An empty cell asks for it."""
        now = await self.until(lambda s: True)
        await kernel.ask("")
        # One that is being made now may have begun before.
        wanted = _number(now) + (2 if now["checkpointing"] else 1)
        return _number(await self.saved(wanted - 1))

    async def lose(self, node: str | None = None) -> str:
        """Pull the plug of the node that has the session; its name."""
        name = node or (await self.running())["node"]
        await self.kill(name)
        return str(name)

    async def lost(self, node: str) -> None:
        """Wait until the gateway has given a node up; nothing announces that."""
        async with asyncio.timeout(PATIENCE):
            while await self._state_of(node) != "lost":
                await asyncio.sleep(0.05)

    async def _state_of(self, node: str) -> str:
        known = (await self.call("GET", "/api/sessionkeeper/nodes", server="gateway"))["nodes"]
        return str(next(one["state"] for one in known if one["name"] == node))

    async def recovered(self, epoch: int) -> Status:
        """Wait until the session runs in a later incarnation than `epoch`."""
        return await self.until(lambda s: s["state"] == "running" and s["epoch"] > epoch)

    async def heal(self, nodes: tuple[str, ...] = ("node-1", "node-2")) -> None:
        """Have all nodes ready again."""
        known = (await self.call("GET", "/api/sessionkeeper/nodes", server="gateway"))["nodes"]
        states = {node["name"]: node["state"] for node in known}
        for name in nodes:
            if name not in self.state.running()["nodes"] or states.get(name) == "draining":
                await self.start_node(name)

    async def clear(self) -> None:
        """End the kernels that another test has left, or had come back from a checkpoint."""
        for kernel in await self.call("GET", "/api/kernels"):
            await self.call("DELETE", f"/api/kernels/{kernel['id']}")


def _number(status: Status) -> int:
    return status["checkpoint"]["number"] if status["checkpoint"] else 0
