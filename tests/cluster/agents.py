"""Runs what a pod describes: its `agent` container, as a process of this machine.

Command and environment are the pod's, but for PATH: the Python of the tests is that of every image.
What is elsewhere in a container is found under a directory of the pod here: the places of its
volumes, and the Python that the agent's image has. It is a process group with no wall around it;
images, init containers, security contexts and limits are not looked at, and signals reach its PID 1
as a kubelet's do. `cluster.containers` looks at these.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from cluster.api import Object
from sessionkeeper.nodes.processes import descendants, end_all

PYTHON = "/opt/sessionkeeper/bin/python"


class Agents:
    """`directory` has a directory for each pod; `reached` is the gateway, as agents see it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def run(self, pod: Object) -> AgentProcess:
        name = f"{pod['metadata']['name']}-{pod['metadata']['uid'][:8]}"
        [container] = [one for one in pod["spec"]["containers"] if one["name"] == "agent"]
        places = {PYTHON: sys.executable}
        for mount in container["volumeMounts"]:
            there = self._directory / name / mount["name"]
            there.mkdir(parents=True, exist_ok=True)
            places.setdefault(mount["mountPath"], str(there))

        def here(text: str) -> str:
            for place, path in places.items():
                if text == place or text.startswith(f"{place}/"):
                    return path + text.removeprefix(place)
            return text

        environ = {one["name"]: here(one["value"]) for one in container["env"]}
        kept = {n: v for n, v in os.environ.items() if not n.startswith("SESSIONKEEPER_")}
        kept["PATH"] = f"{sys.prefix}/bin:{kept['PATH']}"
        with (self._directory / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *map(here, container["command"]),
                env={**kept, **environ},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return AgentProcess(process)


class AgentProcess:
    def __init__(self, process: Any) -> None:
        self._process = process

    async def ended(self) -> int:
        return int(await self._process.wait())

    def terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    async def kill(self) -> None:
        pid = self._process.pid
        if self._process.returncode is None:
            await asyncio.to_thread(end_all, lambda: {pid} | descendants(pid))
        await self._process.wait()
