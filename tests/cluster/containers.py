"""Runs what a pod describes in containers, by podman: its init containers, then the `agent`.

Image, command, environment, user, capabilities, privilege escalation and volumes are the pod's;
seccomp is podman's default profile, as RuntimeDefault is; and beyond what a pod asks for its root
file system is read-only. Limits are not looked at, and the network is that of this machine.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from cluster.api import Object


class Containers:
    """`directory` has the volumes of each pod; `environ` is what podman is told."""

    def __init__(self, directory: Path, environ: dict[str, str]) -> None:
        self._directory = directory
        self._environ = {**os.environ, **environ}

    async def run(self, pod: Object) -> RunningContainer:
        name = f"{pod['metadata']['name']}-{pod['metadata']['uid'][:8]}"
        for one in pod["spec"].get("initContainers", []):
            await self._podman("run", "--rm", *self._flags(pod, one, name))
        [agent] = [one for one in pod["spec"]["containers"] if one["name"] == "agent"]
        with (self._directory / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *("podman", "run", "--rm", "--name", name, *self._flags(pod, agent, name)),
                env=self._environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return RunningContainer(name, process, self._podman)

    def _flags(self, pod: Object, container: Any, name: str) -> list[str]:
        said = {**pod["spec"].get("securityContext", {}), **container["securityContext"]}
        assert said["seccompProfile"] == {"type": "RuntimeDefault"}
        flags = ["--read-only", "--read-only-tmpfs=false", "--network", "host", "--pull", "never"]
        flags += ["--user", f"{said['runAsUser']}:{said['runAsGroup']}"]
        flags += [f"--cap-drop={one}" for one in said["capabilities"]["drop"]]
        if not said["allowPrivilegeEscalation"]:
            flags.append("--security-opt=no-new-privileges")
        for mount in container["volumeMounts"]:
            there = self._directory / name / mount["name"]
            if not there.exists():
                there.mkdir(parents=True)
                # As a kubelet makes an emptyDir: root's, with the group of the pod.
                there.chmod(0o2777)
                os.chown(there, 0, said["fsGroup"])
            flags += ["--volume", f"{there}:{mount['mountPath']}"]
        for one in container.get("env", []):
            flags += ["--env", f"{one['name']}={one['value']}"]
        command, *words = container["command"]
        return [*flags, "--entrypoint", json.dumps([command]), container["image"], *words]

    async def _podman(self, *words: str) -> None:
        process = await asyncio.create_subprocess_exec(
            *("podman", *words),
            env=self._environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        assert process.returncode == 0, said.decode()


class RunningContainer:
    def __init__(self, name: str, process: Any, podman: Any) -> None:
        self._name = name
        self._process = process
        self._podman = podman
        self._told: asyncio.Task[None] | None = None

    async def ended(self) -> int:
        return int(await self._process.wait())

    def terminate(self) -> None:
        self._told = asyncio.ensure_future(self._podman("kill", "--signal", "TERM", self._name))

    async def kill(self) -> None:
        if self._process.returncode is None:
            await self._podman("rm", "--force", "--time", "0", "--ignore", self._name)
        await self._process.wait()
