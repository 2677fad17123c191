"""Images that nodes of the cluster are to have before anybody needs them there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sessionkeeper.compute.backend import ComputeFailed, ComputeRefused
from sessionkeeper.kubernetes.cluster import Cluster
from sessionkeeper.kubernetes.objects import prepull

__all__ = ["Prepulled"]

WHAT = "sessionkeeper.io/what"
TRIES = 5


class Prepulled:
    """One DaemonSet for each pool. ``ask`` is the backend's."""

    def __init__(self, cluster: Cluster, ask: Callable[..., Awaitable[Any]]) -> None:
        self._cluster = cluster
        self._ask = ask

    async def hold(
        self, images: frozenset[str], owner: Mapping[str, Any] | None, image_volumes: bool
    ) -> None:
        """The nodes of all pools are to have these; of none: nothing is left of it."""
        for tier in self._cluster.tiers:
            wanted = prepull(self._cluster, tier, sorted(images), owner, image_volumes)
            name = wanted["metadata"]["name"]
            digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]
            wanted["metadata"]["annotations"] = {WHAT: digest}
            if not images or not self._cluster.prepull:
                await self._delete(name)
            else:
                await self._put(name, wanted, digest)

    async def _put(self, name: str, wanted: dict[str, Any], digest: str) -> None:
        """Read, change, write; who was faster is read again (409)."""
        for _ in range(TRIES):
            there = await self._read(name)
            try:
                if there is None:
                    await self._call("POST", body=wanted)
                    return
                meta = there["metadata"]
                if (meta.get("annotations") or {}).get(WHAT) == digest:
                    return
                wanted["metadata"]["resourceVersion"] = meta["resourceVersion"]
                await self._call("PUT", name, wanted)
                return
            except ComputeRefused as error:
                if error.status not in (404, 409):
                    raise
                wanted["metadata"].pop("resourceVersion", None)
        raise ComputeFailed(f"{name} was changed by others again and again")

    async def _read(self, name: str) -> dict[str, Any] | None:
        try:
            there: dict[str, Any] = await self._call("GET", name)
            return there
        except ComputeRefused as error:
            if error.status != 404:
                raise
            return None

    async def _delete(self, name: str) -> None:
        try:
            await self._call("DELETE", name)
        except ComputeRefused as error:
            if error.status != 404:
                raise

    async def _call(self, method: str, name: str = "", body: dict[str, Any] | None = None) -> Any:
        path = f"/apis/apps/v1/namespaces/{self._cluster.namespace}/daemonsets"
        where = f"{path}/{name}" if name else path
        return await self._ask(method, where, "images are not pulled ahead", body)
