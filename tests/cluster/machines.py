"""The machines of the cluster for tests: what schedules pods, and what runs them.

`Machines` alone says that a pod runs as soon as it has a node; what `run` does is up to who makes
it (`cluster.agents` starts the agent that the pod describes).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from cluster.api import ApiServer, Object


class Running(Protocol):
    """What runs of one pod."""

    async def ended(self) -> int: ...

    def terminate(self) -> None: ...

    async def kill(self) -> None: ...


class Nothing:
    """A pod that runs until it is told not to."""

    def __init__(self) -> None:
        self._end = asyncio.Event()

    async def ended(self) -> int:
        await self._end.wait()
        return 0

    def terminate(self) -> None:
        self._end.set()

    async def kill(self) -> None:
        self._end.set()


Run = Callable[[Object], Any]


class Machines:
    """Scheduler and kubelets."""

    def __init__(self, api: ApiServer, run: Run | None = None) -> None:
        self.api = api
        self._run = run
        self.running: dict[str, tuple[str, Running]] = {}
        self.vanished: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._loop: asyncio.Task[None] | None = None

    async def add(self, name: str, labels: dict[str, str] | None = None, *taints: str) -> None:
        """One more; `taints` are keys, with the effect NoSchedule."""
        spec = {"taints": [{"key": key, "effect": "NoSchedule"} for key in taints]}
        hostname = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
        meta = {"name": name, "labels": {**hostname, **(labels or {})}}
        await self.api.create("nodes", {"kind": "Node", "metadata": meta, "spec": spec})

    async def taint(self, name: str, *keys: str) -> None:
        taints = [{"key": key, "effect": "NoSchedule"} for key in keys]
        await self.api.update("nodes", name, lambda node: node["spec"].update(taints=taints))

    async def cordon(self, name: str) -> None:
        await self.api.update("nodes", name, lambda node: node["spec"].update(unschedulable=True))
        await self.taint(name, "node.kubernetes.io/unschedulable")

    async def vanish(self, name: str) -> None:
        """The machine is gone without a word: all that it ran, and nobody tells the API."""
        self.vanished.add(name)
        for pod, (machine, running) in list(self.running.items()):
            if machine == name:
                self._tasks.pop(pod).cancel()
                del self.running[pod]
                await running.kill()

    async def start(self) -> None:
        self._loop = asyncio.create_task(self._look())

    async def stop(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for _, running in self.running.values():
            await running.kill()

    async def _look(self) -> None:
        seen = -1
        while True:
            async with self.api.changed:
                await self.api.changed.wait_for(lambda at=seen: self.api.version != at)
                seen = self.api.version
            for pod in list(self.api.objects["pods"].values()):
                await self._schedule(pod)
            for name in list(self._tasks):
                if name not in self.api.objects["pods"]:  # deleted at once
                    self._tasks.pop(name).cancel()
                    _, running = self.running.pop(name, ("", Nothing()))
                    await running.kill()

    async def _schedule(self, pod: Object) -> None:
        name = pod["metadata"]["name"]
        machine = pod["spec"].get("nodeName")
        if machine is None:
            machine = self._fitting(pod)
            if machine is None:
                await self._unschedulable(pod)
                return

            def bound(one: Object, machine: str = machine) -> None:
                one["spec"]["nodeName"] = machine
                one["status"]["conditions"] = [{"type": "PodScheduled", "status": "True"}]

            pod = await self.api.update("pods", name, bound)
        if name not in self._tasks and machine not in self.vanished and _lives(pod):
            self._tasks[name] = asyncio.create_task(self._kubelet(pod, machine))

    async def _unschedulable(self, pod: Object) -> None:
        if pod["status"].get("conditions"):
            return
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": f"0/{len(self.api.objects['nodes'])} nodes are available",
        }
        name = pod["metadata"]["name"]
        await self.api.update(
            "pods", name, lambda one: one["status"].update(conditions=[condition])
        )

    def _fitting(self, pod: Object) -> str | None:
        wanted = pod["spec"].get("nodeSelector") or {}
        load = [machine for machine, _ in self.running.values()]
        fit = [
            name
            for name, node in self.api.objects["nodes"].items()
            if wanted.items() <= node["metadata"]["labels"].items()
            and not node["spec"].get("unschedulable")
            and name not in self.vanished
            and all(_tolerates(pod, taint) for taint in node["spec"].get("taints") or [])
        ]
        return min(fit, key=lambda name: (load.count(name), name), default=None)

    async def _kubelet(self, pod: Object, machine: str) -> None:
        name = pod["metadata"]["name"]
        running: Running = await self._run(pod) if self._run else Nothing()
        self.running[name] = machine, running
        await self._status(name, {"phase": "Running"})
        ended = asyncio.create_task(running.ended())
        over = asyncio.create_task(self._over(name))
        try:
            await asyncio.wait({ended, over}, return_when="FIRST_COMPLETED")
        finally:
            over.cancel()
            ended.cancel()
        if not ended.done() or ended.cancelled():
            await running.kill()
        self.running.pop(name, None)
        if self._pod(name) is not None and not _lives(self._pod(name)):
            self._tasks.pop(name, None)
            await self.api.remove("pods", name)
            return
        code = ended.result() if ended.done() and not ended.cancelled() else 137
        await self._status(name, {"phase": "Failed" if code else "Succeeded"})

    async def _over(self, name: str) -> None:
        """SIGTERM when the pod is deleted; done when its grace has passed."""
        async with self.api.changed:
            await self.api.changed.wait_for(lambda: not _lives(self._pod(name)))
        pod = self._pod(name)
        if pod is None:
            return
        if name in self.running:
            self.running[name][1].terminate()
        await asyncio.sleep(float(pod["metadata"].get("deletionGracePeriodSeconds", 30)))

    def _pod(self, name: str) -> Object | None:
        return self.api.objects["pods"].get(name)

    async def _status(self, name: str, change: Object) -> None:
        if self._pod(name) is not None:
            await self.api.update("pods", name, lambda one: one["status"].update(change))


def _lives(pod: Object | None) -> bool:
    return pod is not None and "deletionTimestamp" not in pod["metadata"]


def _tolerates(pod: Object, taint: Object) -> bool:
    if taint["effect"] not in ("NoSchedule", "NoExecute"):
        return True
    return any(
        one.get("key") in (None, taint["key"])
        and (one.get("operator") == "Exists" or one.get("value", "") == taint.get("value", ""))
        for one in pod["spec"].get("tolerations") or []
    )
