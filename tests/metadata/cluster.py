"""A Kubernetes API server, as far as one pod and one node are watched: see `service`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from copy import deepcopy
from datetime import timedelta
from typing import Any

from metadata.service import Reply, Request, Service
from sessionkeeper.notices.kubernetes import Here

POD, NAMESPACE, NODE = "agent-7d4f", "binder", "spot-3"


class ClusterService(Service):
    """`gone`: how many watches more are answered with 410; `cut`: how many end at once."""

    def __init__(self) -> None:
        super().__init__()
        self.version = 100
        self.gone = 0
        self.cut = 0
        self.lines: list[str] = []
        """Sent in place of events, when there are any."""
        spec = {"containers": [], "nodeName": NODE, "terminationGracePeriodSeconds": 20}
        self.pod: dict[str, Any] = _object("Pod", POD, spec, namespace=NAMESPACE)
        self.node: dict[str, Any] = _object("Node", NODE, {"taints": []})

    def place(self, node: str | None = NODE) -> Here:
        """For the source: this server in place of the service account's."""

        def configure(settings: Any) -> None:
            settings.host = self.url

        return Here(POD, NAMESPACE, node, configure)

    async def answer(self, request: Request) -> Reply:
        pods = f"/api/v1/namespaces/{NAMESPACE}/pods"
        if request.path == f"{pods}/{POD}":
            return Reply(200, json.dumps(self.pod), {"Content-Type": "application/json"})
        kinds = {pods: ("pod", POD), "/api/v1/nodes": ("node", NODE)}
        if request.path not in kinds or request.query.get("watch") not in ("true", "True"):
            return Reply(404, json.dumps({"kind": "Status", "code": 404}))
        kind, name = kinds[request.path]
        if request.query.get("fieldSelector") != f"metadata.name={name}":
            return Reply(400, json.dumps({"kind": "Status", "code": 400}))
        return Reply(lines=self._watch(kind))

    async def _watch(self, kind: str) -> AsyncIterator[str]:
        if self.lines:
            for line in self.lines:
                yield line
            return
        if self.gone > 0:
            self.gone -= 1
            status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
            yield json.dumps({"type": "ERROR", "object": status})
            return
        word, sent = "ADDED", None
        while self.broken is None:
            now = deepcopy(getattr(self, kind))
            if now != sent:
                yield json.dumps({"type": word, "object": now})
                word, sent = "MODIFIED", now
            if self.cut > 0:
                self.cut -= 1
                return
            async with self.changed:
                await self.changed.wait_for(
                    lambda now=now, kind=kind: getattr(self, kind) != now or self.broken or self.cut
                )

    async def taint(self, *keys: str) -> None:
        self.node["spec"]["taints"] = [{"key": one, "effect": "NoSchedule"} for one in keys]
        await self._touch(self.node)

    async def delete_pod(self, seconds: float, reason: str | None = None) -> None:
        """It is asked to end, in so many seconds."""
        when = self.now() + timedelta(seconds=seconds)
        self.pod["metadata"]["deletionTimestamp"] = when.strftime("%Y-%m-%dT%H:%M:%SZ")
        if reason:
            await self.disrupt(reason)
        await self._touch(self.pod)

    async def disrupt(self, reason: str) -> None:
        condition = {"type": "DisruptionTarget", "status": "True", "reason": reason}
        self.pod["status"]["conditions"] = [condition]
        await self._touch(self.pod)

    async def _touch(self, it: dict[str, Any]) -> None:
        self.version += 1
        it["metadata"]["resourceVersion"] = str(self.version)
        await self.tell()


class NodeOfCluster(ClusterService):
    """Notice is given by a taint."""

    async def give(self, seconds: float) -> None:
        await self.taint("ToBeDeletedByClusterAutoscaler")

    async def withdraw(self) -> None:
        await self.taint()


class PodOfCluster(ClusterService):
    """Notice is given by a disruption."""

    async def give(self, seconds: float) -> None:
        await self.disrupt("EvictionByEvictionAPI")

    async def withdraw(self) -> None:
        self.pod["status"]["conditions"] = []
        await self._touch(self.pod)


def _object(kind: str, name: str, spec: dict[str, Any], **meta: Any) -> dict[str, Any]:
    metadata = {"name": name, "resourceVersion": "100", **meta}
    head = {"apiVersion": "v1", "kind": kind}
    return {**head, "metadata": metadata, "spec": spec, "status": {"conditions": []}}
