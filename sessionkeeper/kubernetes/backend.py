"""Compute as pods. See :class:`~sessionkeeper.compute.backend.ComputeBackend`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

from aiohttp import ClientError
from kubernetes.aio import config

# Of the client its connection alone: its types of all objects take 150 MB and seconds to import.
from kubernetes.aio.client import ApiClient, ApiException, Configuration

from sessionkeeper.compute.backend import Compute, ComputeFailed, ComputeRefused, Found
from sessionkeeper.images.errors import ImageError
from sessionkeeper.kubernetes.cluster import Cluster
from sessionkeeper.kubernetes.found import Held, found
from sessionkeeper.kubernetes.objects import INSTANCE, pod, selector
from sessionkeeper.kubernetes.prepulled import Prepulled
from sessionkeeper.kubernetes.reflector import follow

__all__ = ["KubernetesBackend", "anywhere"]

log = logging.getLogger(__name__)

IMAGE_VOLUMES_SINCE = (1, 35)
"""Enabled without being asked for (Kubernetes documentation, "Use an Image Volume With a Pod")."""

REQUEST_SECONDS = 30.0


def anywhere(settings: Any) -> None:
    """Configure the client as a pod's service account has it, else as `KUBECONFIG` has it. Raises
    :class:`ComputeRefused`.
    """
    try:
        config.load_incluster_config(settings)  # type: ignore[no-untyped-call]
        return
    except config.ConfigException:
        pass
    from kubernetes import config as plain

    try:
        plain.load_kube_config(client_configuration=settings)  # type: ignore[no-untyped-call]
    except (plain.ConfigException, OSError) as error:
        raise ComputeRefused(f"there is no cluster to be found: {error}") from None


class KubernetesBackend:
    """``configure`` sets address and credentials of the API server. Calls come from one event
    loop.
    """

    def __init__(self, cluster: Cluster, configure: Callable[[Any], None] = anywhere) -> None:
        self.tiers = {pool.tier: pool.patience for pool in cluster.pools}
        self._cluster = cluster
        self._configure = configure
        self._client: Any = None
        self._held = Held()
        self._owner: Mapping[str, Any] | None = None
        self._image_volumes = cluster.image_volumes
        self._asked = False

    async def start(self, wanted: Compute) -> None:
        owner, volumes = await self._circumstances()
        try:
            body = pod(self._cluster, wanted, owner, volumes)
        except ImageError as error:
            raise ComputeRefused(str(error), hint=error.hint) from error
        try:
            await self._ask("POST", self._pods, f"pod {wanted.name} was not created", body)
        except ComputeRefused as error:
            if error.status != 409:
                raise
            await self._is_ours(wanted.name)

    async def _is_ours(self, name: str) -> None:
        """One of that name is there. Mostly we made it, and did not live to hear of it."""
        failed = f"pod {name} is there, and cannot be read"
        body = await self._ask("GET", f"{self._pods}/{name}", failed)
        meta = body["metadata"]
        if (meta.get("labels") or {}).get(INSTANCE) != self._cluster.instance:
            raise ComputeRefused(f"pod {name} is somebody else's")
        if meta.get("deletionTimestamp"):
            raise ComputeFailed(f"pod {name} is just ending")

    async def stop(self, name: str, *, at_once: bool = False) -> None:
        grace = {"gracePeriodSeconds": "0"} if at_once else {}
        try:
            path, failed = f"{self._pods}/{name}", f"pod {name} was not deleted"
            await self._ask("DELETE", path, failed, query=grace)
        except ComputeRefused as error:
            if error.status != 404:
                raise

    async def prepare(self, images: frozenset[str]) -> None:
        owner, volumes = await self._circumstances()
        pulled = Prepulled(self._cluster, self._ask)
        await pulled.hold(images, owner, volumes)

    async def watch(self) -> AsyncGenerator[Mapping[str, Found], None]:
        ours = {"labelSelector": selector(self._cluster)}

        def pods(query: dict[str, str], wait: float) -> Awaitable[Any]:
            return self._request("GET", self._pods, {**ours, **query}, wait=wait)

        def nodes(query: dict[str, str], wait: float) -> Awaitable[Any]:
            return self._request("GET", "/api/v1/nodes", query, wait=wait)

        sources = {"pods": pods, **({"nodes": nodes} if self._cluster.watch_nodes else {})}
        seen: dict[str, dict[str, Any]] = {}
        changed = asyncio.Event()

        async def keep(kind: str) -> None:
            async for objects in follow(sources[kind]):
                seen[kind] = objects
                changed.set()

        async def keep_all(kind: str) -> None:
            try:
                await keep(kind)
            except ApiException as error:
                if kind != "nodes" or error.status not in (401, 403):
                    raise
                log.warning("nodes of the cluster may not be watched: %s", error.reason)

        tasks = [asyncio.create_task(keep_all(kind)) for kind in sources]
        for task in tasks:
            task.add_done_callback(lambda _: changed.set())
        said: Mapping[str, Found] | None = None
        try:
            while True:
                await changed.wait()
                changed.clear()
                for task in tasks:
                    if task.done():
                        await _translated(task, "the cluster's pods are not known")
                if "pods" not in seen:
                    continue
                now = found(seen["pods"], seen.get("nodes", {}), self._held)
                if now != said:
                    said = now
                    yield now
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    # -- the API server ------------------------------------------------------------------------

    @property
    def _api(self) -> Any:
        if self._client is None:
            settings = Configuration()
            self._configure(settings)
            self._client = ApiClient(settings)
        return self._client

    @property
    def _pods(self) -> str:
        return f"/api/v1/namespaces/{self._cluster.namespace}/pods"

    async def _circumstances(self) -> tuple[Mapping[str, Any] | None, bool]:
        """Who owns what we create, and whether the cluster has image volumes: asked once."""
        if self._image_volumes is None:
            version = await self._ask("GET", "/version", "the cluster's version is not known")
            # A managed cluster's minor version may be `35+`.
            minor = int("".join(filter(str.isdigit, str(version.get("minor")))) or 0)
            self._image_volumes = (int(version.get("major") or 0), minor) >= IMAGE_VOLUMES_SINCE
        if not self._asked:
            self._owner = await self._controller()
            self._asked = True
        return self._owner, self._image_volumes

    async def _controller(self) -> Mapping[str, Any] | None:
        """The object that this process's pod belongs to; None: this is no pod."""
        name = os.environ.get("POD_NAME")
        if not name:
            return None
        namespace = os.environ.get("POD_NAMESPACE") or self._cluster.namespace
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        body = await self._ask("GET", path, "the gateway's own pod cannot be read")
        owners = body["metadata"].get("ownerReferences") or []
        mine = next((dict(one) for one in owners if one.get("controller")), None)
        if mine is not None:
            # It is not controlled by it, and its deletion does not wait for ours.
            mine |= {"controller": False, "blockOwnerDeletion": False}
        return mine

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Any = None,
        wait: float = REQUEST_SECONDS,
    ) -> Any:
        """Return the answer as it comes, whatever its status. Raises what the client raises."""
        asked = await self._api.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params={"Accept": "application/json", "Content-Type": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
        )
        answer = await self._api.call_api(*asked, _request_timeout=wait)
        return answer.response

    async def _ask(
        self,
        method: str,
        path: str,
        failed: str,
        body: Any = None,
        query: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the answer's JSON. Raises :class:`ComputeFailed`, :class:`ComputeRefused` that
        begin with what ``failed``.
        """

        async def whole() -> Any:
            response = await self._request(method, path, query or {}, body)
            try:
                content = await response.read()
            finally:
                response.release()
            return response, content

        response, content = await _translated(whole(), failed)
        said = _json(content)
        if response.status < 300:
            return said
        message = said.get("message") or response.reason
        raise _failure(response.status, response.headers, f"{failed}: {message}")


async def _translated(work: Any, failed: str) -> Any:
    """Await it; what the client and its connections raise becomes :class:`ComputeFailed`."""
    try:
        return await work
    except ApiException as error:
        raise _failure(error.status or 0, error.headers, f"{failed}: {error.reason}") from None
    except (ClientError, OSError, TimeoutError) as error:
        text = f"{failed}: the Kubernetes API does not answer: {error or repr(error)}"
        raise ComputeFailed(text) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ComputeFailed(f"{failed}: the Kubernetes API answered nonsense: {error!r}") from None


def _failure(status: int, headers: Any, text: str) -> ComputeFailed:
    after = 0.0
    with contextlib.suppress(TypeError, ValueError):
        after = float((headers or {}).get("Retry-After") or 0)
    # A quota that is used up (403) has room again some time, as have rate limits (429).
    if status in (0, 408, 410, 429) or status >= 500 or (status == 403 and "quota" in text):
        return ComputeFailed(text, after=after)
    refused = ComputeRefused(text)
    refused.status = status
    return refused


def _json(body: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        said = json.loads(body)
        if isinstance(said, dict):
            return said
    return {}
