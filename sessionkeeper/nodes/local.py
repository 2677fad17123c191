"""A node on this machine: started, stopped, or its plug pulled."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sessionkeeper.nodes import cgroups
from sessionkeeper.nodes.bridged import BridgedNetwork
from sessionkeeper.nodes.network import NetworkError, nameservers
from sessionkeeper.nodes.processes import children_of, descendants, end_all, part_of, parts
from sessionkeeper.up.child import Child

__all__ = ["NamespaceNode", "NodePlan", "ProcessNode", "cgroup_of", "erase"]

_START_SECONDS = 20.0
_THAW_SECONDS = 0.05


def cgroup_of(instance: str, node: str = "") -> str:
    """The cgroup of a node, or of all nodes of an instance, in each hierarchy."""
    return f"/sessionkeeper-{instance}/{node}".rstrip("/")


@dataclass(frozen=True)
class NodePlan:
    """What a node is to be. `agent`: its argv, in which `{ready_fd}` stands for a descriptor.
    `hide`: a directory that a node with a file system view of its own does not see, except for
    `data` and what is in `keep`. `token`: goes to the file `token` in `data`, 0600."""

    instance: str
    name: str
    index: int
    data: Path
    log: Path
    agent: Sequence[str]
    environ: Mapping[str, str]
    hide: Path | None = None
    keep: Sequence[Path] = ()
    token: str = field(default="", repr=False)


class ProcessNode:
    """A node without root: a process and everything that descends from it. Cut off from nothing,
    but it can be killed like one."""

    def __init__(self, plan: NodePlan) -> None:
        self.plan = plan
        self._child: Child | None = None

    async def start(self) -> Child:
        """Start it, empty. The child says "ready" when its agent does; its end is the node's."""
        await self.pull_plug()  # of what it was before
        self.plan.data.mkdir(parents=True, mode=0o700)
        handle = os.open(self.plan.data / "token", os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(self.plan.token)
        marked = {**self.plan.environ, **part_of(self.plan.instance, self.plan.name)}
        self._child = await Child.start(
            self.plan.name,
            self._command(),
            log=self.plan.log,
            environ=marked,
            waits_for_go=True,
        )
        try:
            await self._child.said("started", _START_SECONDS)
            await self._connect(self._child)
        except BaseException:
            await self.pull_plug()
            raise
        self._child.go()
        return self._child

    async def stop(self, grace: float, hurry: asyncio.Event) -> None:
        """Let the agent end in order; pull the plug after `grace` seconds or once `hurry` is set.
        Nothing of the node is left."""
        if self._child is not None and self._child.returncode is None:
            self._terminate(self._child)
            ended = asyncio.create_task(self._child.ended())
            hurried = asyncio.create_task(hurry.wait())
            await asyncio.wait((ended, hurried), timeout=grace, return_when="FIRST_COMPLETED")
            ended.cancel()
            hurried.cancel()
        await self.pull_plug()

    async def pull_plug(self) -> None:
        """What a power cut does: everything on it dies at once, its data is gone."""
        if self._child is not None:
            await self._kill(self._child)
            await self._child.ended()
        await asyncio.to_thread(erase, self.plan.data)

    def _command(self) -> list[str]:
        init = [sys.executable, "-m", "sessionkeeper.nodes.init", "--ready-fd", "{ready_fd}"]
        return [*init, *self._view(), "--", *self.plan.agent]

    def _view(self) -> list[str]:
        return []

    async def _connect(self, child: Child) -> None:
        pass

    def _terminate(self, child: Child) -> None:
        child.signal(signal.SIGTERM)

    async def _kill(self, child: Child) -> None:
        name, instance = self.plan.name, self.plan.instance

        def everything() -> set[int]:
            marked = {pid for pid, part in parts(instance).items() if part == name}
            alive = child.returncode is None
            return marked | ({child.pid} | descendants(child.pid) if alive else set())

        await asyncio.to_thread(end_all, everything)


class NamespaceNode(ProcessNode):
    """A node with root: namespaces and an address of its own. Whatever runs in it, however it
    daemonised, dies with PID 1 of its PID namespace (pid_namespaces(7)), and its mounts and
    network namespace with the last process."""

    def __init__(self, plan: NodePlan, network: BridgedNetwork) -> None:
        super().__init__(plan)
        self._network = network
        self._init: int | None = None

    @property
    def init_pid(self) -> int | None:
        """PID 1 of the node, as seen from outside; its namespaces are in /proc/<pid>/ns."""
        return self._init

    async def pull_plug(self) -> None:
        """As above; the link goes down first, so that no connection is closed in order."""
        with suppress(NetworkError):  # There is no link when it was never connected.
            await asyncio.to_thread(self._network.cut, self.plan.index)
        await super().pull_plug()
        await asyncio.to_thread(self._network.disconnect, self.plan.index)
        await asyncio.to_thread(cgroups.remove, self._cgroup)

    @property
    def _cgroup(self) -> str:
        return cgroup_of(self.plan.instance, self.plan.name)

    def _command(self) -> list[str]:
        flags = ("--net", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc")
        return ["unshare", *flags, "--", *super()._command()]

    def _view(self) -> list[str]:
        view = [word for one in nameservers() for word in ("--nameserver", one)]
        if self.plan.hide is not None:
            kept = (self.plan.data, *self.plan.keep)
            view += ["--hide", str(self.plan.hide)]
            view += [word for path in kept for word in ("--keep", str(path))]
        return view

    async def _connect(self, child: Child) -> None:
        self._init = next(iter(children_of(child.pid)), None)
        if self._init is not None:  # else it died meanwhile, which its watcher sees
            await asyncio.to_thread(self._network.connect, self.plan.index, self._init)

    def _terminate(self, child: Child) -> None:
        # `unshare`, the direct child, passes no signal on.
        if self._init is not None:
            with suppress(ProcessLookupError):
                os.kill(self._init, signal.SIGTERM)

    async def _kill(self, child: Child) -> None:
        init, self._init = self._init, None
        if child.returncode is None:
            # Not to `unshare`, which is to collect PID 1 of the node.
            os.kill(init or child.pid, signal.SIGKILL)
        while child.returncode is None:
            # What a checkpoint has frozen does not die before it is thawed.
            await asyncio.to_thread(cgroups.thaw, self._cgroup)
            with suppress(TimeoutError):
                await asyncio.wait_for(child.ended(), _THAW_SECONDS)


def erase(path: Path) -> None:
    """Remove a directory, whatever permissions user code gave to what is in it. Idempotent."""
    if not path.exists():
        return
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        for directory, names, _ in os.walk(path):
            for name in names:
                with suppress(OSError):
                    os.chmod(os.path.join(directory, name), 0o700, follow_symlinks=False)
        shutil.rmtree(path)
