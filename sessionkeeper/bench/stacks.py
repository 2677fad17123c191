"""The servers that are measured: a whole sessionkeeper, and the two stock ones beside it.

Each lives in a temporary directory and on free ports of its own, and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sessionkeeper.bench.client import Server
from sessionkeeper.bench.errors import RunFailed, StackFailed
from sessionkeeper.nodes.processes import descendants, end_all
from sessionkeeper.up import control
from sessionkeeper.up.state import StateDirectory
from sessionkeeper.up.terminal import Terminal

__all__ = ["PEERS", "Stack", "System", "kernel_gateway", "plain_server", "sessionkeeper_system"]

READY_SECONDS = 120.0
STOP_SECONDS = 60.0
REST_SECONDS = 15.0

_REST_WINDOW = 0.4
_REST_SHARE = 0.05
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Stack:
    """A running server: what the browser speaks to, and its process."""

    server: Server
    pid: int

    async def rest(self) -> None:
        """Wait until its processes, kernels included, have hardly used the CPU for a moment; for
        `REST_SECONDS` at most."""
        deadline = time.monotonic() + REST_SECONDS
        before = self._cpu_seconds()
        while time.monotonic() < deadline:
            await asyncio.sleep(_REST_WINDOW)
            now = self._cpu_seconds()
            used = sum(now[pid] - before.get(pid, 0.0) for pid in now)
            if used < _REST_SHARE * _REST_WINDOW:
                return
            before = now

    def _cpu_seconds(self) -> dict[int, float]:
        found = {}
        for pid in {self.pid} | descendants(self.pid):
            with suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                found[pid] = (int(fields[11]) + int(fields[12])) / _TICK
        return found


@dataclass(frozen=True)
class System(Stack):
    """A sessionkeeper that runs, and what its operator can do."""

    state: StateDirectory
    gateway: Server
    runtime: str

    async def drain(self, node: str, deadline: float) -> dict[str, Any]:
        """Give notice; returns when the session has moved, or the deadline has passed."""
        path = f"/api/sessionkeeper/nodes/{node}/drain"
        answer: dict[str, Any] = await self.gateway.ask(
            "POST", path, {"deadline": deadline}, deadline + 120
        )
        return answer

    async def uncordon(self, node: str) -> None:
        """Take the notice back."""
        await self.gateway.ask("POST", f"/api/sessionkeeper/nodes/{node}/uncordon", {})

    async def kill(self, node: str) -> None:
        """Pull the plug, as `sessionkeeper node kill` does."""
        await asyncio.to_thread(control.request, self.state, "kill", node=node)

    async def close_ui(self, session: str) -> None:
        """End the UI server of a launched session."""
        await asyncio.to_thread(control.request, self.state, "close_ui", session=session)

    async def start(self, node: str) -> None:
        """Start a node again; returns when the gateway has it."""
        await asyncio.to_thread(control.request, self.state, "start", node=node)


@asynccontextmanager
async def sessionkeeper_system(terminal: Terminal, *flags: str) -> AsyncIterator[System]:
    """`sessionkeeper up` with two nodes and these flags, in a process of its own. Raises
    StackFailed with what it said when it does not come up."""
    with tempfile.TemporaryDirectory(prefix="sessionkeeper-bench-") as name:
        state = StateDirectory(Path(name, "state"))
        port = free_port()
        command = ["-m", "sessionkeeper", "up", "--nodes", "2", "--port", str(port)]
        command += ["--state", str(state.path), *flags]
        log = Path(name, "up.log")
        process = await spawn(command, {}, log)
        try:
            with terminal.step("starting sessionkeeper with two nodes"):
                await until(process, log, lambda: _record(state))
            record = state.running()
            yield System(
                server=Server(f"http://127.0.0.1:{port}", state.token("ui")),
                pid=process.pid,
                state=state,
                gateway=Server(record["gateway"], state.token("gateway")),
                runtime=record["runtime"],
            )
        finally:
            with terminal.step("stopping sessionkeeper"):
                await stop(process)
            if process.returncode != 0:
                terminal.say(f"sessionkeeper ended with {process.returncode}: {_said(log)}")
                down = [sys.executable, "-m", "sessionkeeper", "down", "--state", str(state.path)]
                await asyncio.to_thread(subprocess.run, down, check=False, capture_output=True)


class PeerStack(Protocol):
    """Starts a peer."""

    def __call__(self, terminal: Terminal) -> AbstractAsyncContextManager[Stack]: ...


@asynccontextmanager
async def plain_server(terminal: Terminal) -> AsyncIterator[Stack]:
    """A stock jupyter-server with local kernels."""
    async with _jupyter(terminal, "jupyter-server", [], {}) as stack:
        yield stack


@asynccontextmanager
async def lab_server(terminal: Terminal) -> AsyncIterator[Stack]:
    """A stock jupyter-server with JupyterLab."""
    more = ["--ServerApp.jpserver_extensions={'jupyterlab': True}"]
    async with _jupyter(terminal, "JupyterLab", more, {}) as stack:
        yield stack


@asynccontextmanager
async def kernel_gateway(terminal: Terminal) -> AsyncIterator[Stack]:
    """A stock jupyter-server whose kernels are a stock jupyter-kernel-gateway's."""
    port, token = free_port(), secrets.token_hex(16)
    url = f"http://127.0.0.1:{port}"
    words = ["-m", "kernel_gateway", "--KernelGatewayApp.ip=127.0.0.1"]
    words += [f"--KernelGatewayApp.port={port}", "--KernelGatewayApp.port_retries=0"]
    environ = {"KG_AUTH_TOKEN": token}
    async with _process(terminal, "jupyter-kernel-gateway", words, environ, Server(url, token)):
        more = [f"--GatewayClient.url={url}"]
        secret = {"JUPYTER_GATEWAY_AUTH_TOKEN": token}
        async with _jupyter(terminal, "jupyter-server before it", more, secret) as stack:
            yield stack


PEERS: Mapping[str, PeerStack] = {
    "jupyter-server": plain_server,
    "jupyter-kernel-gateway": kernel_gateway,
}
"""What is measured beside sessionkeeper; the second behind a jupyter-server of its own."""


@asynccontextmanager
async def _jupyter(
    terminal: Terminal, name: str, more: Sequence[str], environ: Mapping[str, str]
) -> AsyncIterator[Stack]:
    port, token = free_port(), secrets.token_hex(16)
    words = ["-m", "jupyter_server", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    words += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", *more]
    server = Server(f"http://127.0.0.1:{port}", token)
    async with _process(terminal, name, words, {"JUPYTER_TOKEN": token, **environ}, server) as one:
        yield one


@asynccontextmanager
async def _process(
    terminal: Terminal, name: str, words: list[str], environ: Mapping[str, str], server: Server
) -> AsyncIterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="sessionkeeper-bench-") as directory:
        # As installed: no configuration of the user's makes it faster or slower.
        own = {
            "JUPYTER_NO_CONFIG": "1",
            "TMPDIR": directory,
            "JUPYTER_RUNTIME_DIR": str(Path(directory, "runtime")),
            "JUPYTER_DATA_DIR": str(Path(directory, "data")),
            "IPYTHONDIR": str(Path(directory, "ipython")),
        }
        log = Path(directory, "log")
        process = await spawn(words, {**own, **environ}, log, directory)
        try:
            with terminal.step(f"starting {name}"):
                await until(process, log, lambda: answers(server))
            yield Stack(server, process.pid)
        finally:
            await stop(process)


async def spawn(
    words: Sequence[str], environ: Mapping[str, str], log: Path, directory: str | None = None
) -> asyncio.subprocess.Process:
    output = os.open(log, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environ},
            cwd=directory,
            start_new_session=True,  # Ctrl-C is for us to pass on
        )
    finally:
        os.close(output)


async def until(process: asyncio.subprocess.Process, log: Path, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not await asyncio.to_thread(ready):
        if process.returncode is not None:
            raise StackFailed(f"it ended with exit status {process.returncode}: {_said(log)}")
        if time.monotonic() > deadline:
            raise StackFailed(f"it was not ready in {READY_SECONDS:.0f} s: {_said(log)}")
        await asyncio.sleep(0.05)


async def stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
    if process.returncode is None:
        pid = process.pid
        await asyncio.to_thread(end_all, lambda: {pid} | descendants(pid))
        await process.wait()


def _record(state: StateDirectory) -> bool:
    return state.read_record() is not None


def answers(server: Server) -> bool:
    try:
        server.call("GET", "/api/kernelspecs", seconds=5.0)
    except (OSError, RunFailed):
        return False
    return True


def _said(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:].strip()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
