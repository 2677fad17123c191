"""A gateway with its sessions on a cluster: one for tests on this machine, or a real one.

The same tests run on both. A real one is used when `KUBECONFIG` is set: docs/kubernetes.md says
what it must have, and which variables say where its gateway is.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
from system.client import KernelClient
from system.running import free_port

from cluster.agents import Agents
from cluster.api import ApiServer
from cluster.machines import Machines, Run

SESSION = "on-pods"
OURS = "app.kubernetes.io/component=compute"


class Cluster(Protocol):
    """What tests do to a cluster; `pods` are this gateway's, by name, with their machine."""

    async def pods(self) -> dict[str, str]: ...

    async def delete(self, pod: str) -> None:
        """By force, without any grace."""

    async def drain(self, machine: str) -> None:
        """As `kubectl drain` does: cordon, then evict; the machine is taken back afterwards."""

    async def take_back(self, machine: str) -> None: ...

    async def vanish(self, machine: str) -> None:
        """It is gone without a word."""


class Gateway:
    """The gateway's API, and a cluster behind it."""

    restart: Callable[[], Awaitable[None]] | None = None
    """Ends its process, as a rollout does, and starts the next; None: not here."""

    def __init__(self, cluster: Cluster, url: str, token: str, agent_token: str = "") -> None:
        self.cluster = cluster
        self.url = url
        self.agent_token = agent_token
        self._socket = url.replace("http", "ws", 1)
        self._token = token
        headers = {
            "Authorization": f"token {token}",
            "Sessionkeeper-Session": SESSION,
        }
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=120, trust_env=False)

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self._http.request(method, path, json=body)
        assert answer.status_code < 400, answer.text
        return answer.json() if answer.content else None

    async def begin(self) -> str:
        """A session, and its token."""
        said = await self.ask("POST", "/api/sessionkeeper/sessions", {"name": SESSION})
        return str(said["token"])

    async def status(self) -> dict[str, Any]:
        said = await self.ask("GET", f"/api/sessionkeeper/sessions/{SESSION}")
        return dict(said["status"])

    async def kernel(self, token: str) -> KernelClient:
        said = await self.ask("POST", "/api/kernels", {"name": "python3"})
        return KernelClient(str(said["id"]), self._socket, token)

    async def close(self) -> None:
        await self._http.aclose()


class StandIn:
    """The cluster for tests: see `cluster.api`."""

    def __init__(self, api: ApiServer, machines: Machines) -> None:
        self.api = api
        self.machines = machines

    async def pods(self) -> dict[str, str]:
        found = self.api.objects["pods"]
        return {name: one["spec"].get("nodeName", "") for name, one in found.items()}

    async def delete(self, pod: str) -> None:
        await self.api.delete("pods", pod, grace=0)

    async def drain(self, machine: str) -> None:
        await self.machines.cordon(machine)
        for name, where in (await self.pods()).items():
            if where == machine:
                await self.api.delete("pods", name, reason="EvictionByEvictionAPI")

    async def take_back(self, machine: str) -> None:
        await self.api.update("nodes", machine, lambda one: one["spec"].update(unschedulable=False))
        await self.machines.taint(machine)

    async def vanish(self, machine: str) -> None:
        await self.machines.vanish(machine)


class Real:
    """By `kubectl`. A machine vanishes by the command in `SESSIONKEEPER_TEST_VANISH`, which is
    given its name."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    async def pods(self) -> dict[str, str]:
        said = await self._kubectl("get", "pods", "-l", OURS, "-o", "json")
        items = json.loads(said)["items"]
        return {one["metadata"]["name"]: one["spec"].get("nodeName", "") for one in items}

    async def delete(self, pod: str) -> None:
        await self._kubectl("delete", "pod", pod, "--grace-period=0", "--force")

    async def drain(self, machine: str) -> None:
        flags = ("--ignore-daemonsets", "--delete-emptydir-data", "--force")
        await self._kubectl("drain", machine, *flags, "--pod-selector", OURS)

    async def take_back(self, machine: str) -> None:
        await self._kubectl("uncordon", machine)

    async def vanish(self, machine: str) -> None:
        command = f'{os.environ["SESSIONKEEPER_TEST_VANISH"]} "$1"'
        done = await asyncio.create_subprocess_exec("sh", "-c", command, "vanish", machine)
        assert await done.wait() == 0

    async def _kubectl(self, *words: str) -> str:
        done = await asyncio.to_thread(
            subprocess.run,
            ["kubectl", "--namespace", self._namespace, *words],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        return done.stdout


@asynccontextmanager
async def gateway(
    directory: Path, run: Run | None = None, images: tuple[str, str] = ("agent", "r.io/base:1")
) -> AsyncIterator[Gateway]:
    """A gateway with one session's room, on the real cluster if there is one. `run` runs pods on
    ours, `images` are the agent's and that of sessions there.
    """
    if os.environ.get("KUBECONFIG") and run is None:
        namespace = os.environ.get("SESSIONKEEPER_TEST_NAMESPACE", "sessionkeeper")
        url, token = (os.environ[f"SESSIONKEEPER_TEST_{one}"] for one in ("URL", "TOKEN"))
        found = Gateway(Real(namespace), url, token)
        yield found
        await found.close()
        return
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(ApiServer().serve())
        machines = Machines(api, run or Agents(directory / "pods").run)
        (directory / "pods").mkdir(exist_ok=True)
        for name in ("one", "two"):
            await machines.add(name)
        await machines.start()
        stack.push_async_callback(machines.stop)
        program = Program(directory, api.url, *images)
        await program.start()
        stack.push_async_callback(program.stop)
        found = Gateway(StandIn(api, machines), program.url, program.token, program.agent_token)
        found.restart = program.restart
        stack.push_async_callback(found.close)
        yield found


class Program:
    """The gateway's process, on one port and state directory over its lives."""

    def __init__(self, directory: Path, api: str, agent: str, image: str) -> None:
        self._directory = directory
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.token, self.agent_token = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        (directory / "token").write_text(self.token)
        (directory / "agent-token").write_text(self.agent_token)
        (directory / "kubeconfig").write_text(json.dumps(_kubeconfig(api)))
        (directory / "cluster.toml").write_text(
            f'namespace = "binder"\ninstance = "hub"\ngateway_url = "{self.url}"\n'
            f'agent_image = "{agent}"\nprofile = "unprivileged"\ngrace = 20\n'
            f'default_image = "{image}"\n'
        )

    async def start(self) -> None:
        here = self._directory
        ready, told = os.pipe()
        with (here / "gateway.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "sessionkeeper", "gateway"),
                *("--state", str(here / "gateway"), "--port", str(self._port)),
                *("--store", str(here / "store"), "--master-key", str(here / "key")),
                *("--token-file", str(here / "token")),
                *("--agent-token-file", str(here / "agent-token")),
                *("--compute", "kubernetes", "--compute-config", str(here / "cluster.toml")),
                *("--compute-grace", "1s", "--ready-fd", str(told)),
                env={**os.environ, "KUBECONFIG": str(here / "kubeconfig")},
                pass_fds=(told,),
                stdout=log,
                stderr=log,
            )
        os.close(told)
        with os.fdopen(ready) as said:
            line = await asyncio.to_thread(said.readline)
        assert line, (here / "gateway.log").read_text()

    async def stop(self) -> None:
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()

    async def restart(self) -> None:
        await self.stop()
        await self.start()


def _kubeconfig(url: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "it", "cluster": {"server": url}}],
        "users": [{"name": "it", "user": {}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "current-context": "it",
    }
