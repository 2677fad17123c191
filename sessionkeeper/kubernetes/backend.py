"""Compute as pods. See :class:`~sessionkeeper.compute.backend.ComputeBackend`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from aiohttp import ClientError
from kubernetes.aio import config

# By their names: the client imports what is asked of it later, for seconds, in mid-loop.
from kubernetes.aio.client import (
    ApiClient,
    ApiException,
    AppsV1Api,
    Configuration,
    CoreV1Api,
    VersionApi,
)

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
            await self._ask(
                self._core.create_namespaced_pod_without_preload_content(
                    self._cluster.namespace, body, _request_timeout=REQUEST_SECONDS
                ),
                f"pod {wanted.name} was not created",
            )
        except ComputeRefused as error:
            if error.status != 409:
                raise
            await self._is_ours(wanted.name)

    async def _is_ours(self, name: str) -> None:
        """One of that name is there. Mostly we made it, and did not live to hear of it."""
        body = await self._ask(
            self._core.read_namespaced_pod_without_preload_content(
                name, self._cluster.namespace, _request_timeout=REQUEST_SECONDS
            ),
            f"pod {name} is there, and cannot be read",
        )
        meta = body["metadata"]
        if (meta.get("labels") or {}).get(INSTANCE) != self._cluster.instance:
            raise ComputeRefused(f"pod {name} is somebody else's")
        if meta.get("deletionTimestamp"):
            raise ComputeFailed(f"pod {name} is just ending")

    async def stop(self, name: str, *, at_once: bool = False) -> None:
        grace: dict[str, Any] = {"grace_period_seconds": 0} if at_once else {}
        try:
            await self._ask(
                self._core.delete_namespaced_pod_without_preload_content(
                    name, self._cluster.namespace, **grace, _request_timeout=REQUEST_SECONDS
                ),
                f"pod {name} was not deleted",
            )
        except ComputeRefused as error:
            if error.status != 404:
                raise

    async def prepare(self, images: frozenset[str]) -> None:
        owner, volumes = await self._circumstances()
        pulled = Prepulled(self._cluster, AppsV1Api(self._api), self._ask)
        await pulled.hold(images, owner, volumes)

    async def watch(self) -> AsyncGenerator[Mapping[str, Found], None]:
        pods = partial(
            self._core.list_namespaced_pod_without_preload_content,
            self._cluster.namespace,
            label_selector=selector(self._cluster),
        )
        sources = {"pods": pods}
        if self._cluster.watch_nodes:
            sources["nodes"] = self._core.list_node_without_preload_content
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
    def _core(self) -> Any:
        return CoreV1Api(self._api)

    async def _circumstances(self) -> tuple[Mapping[str, Any] | None, bool]:
        """Who owns what we create, and whether the cluster has image volumes: asked once."""
        if self._image_volumes is None:
            version = await _translated(
                VersionApi(self._api).get_code(_request_timeout=REQUEST_SECONDS),
                "the cluster's version is not known",
            )
            # A managed cluster's minor version may be `35+`.
            minor = int("".join(filter(str.isdigit, version.minor)) or 0)
            self._image_volumes = (int(version.major), minor) >= IMAGE_VOLUMES_SINCE
        if not self._asked:
            self._owner = await self._controller()
            self._asked = True
        return self._owner, self._image_volumes

    async def _controller(self) -> Mapping[str, Any] | None:
        """The object that this process's pod belongs to; None: this is no pod."""
        name = os.environ.get("POD_NAME")
        if not name:
            return None
        body = await self._ask(
            self._core.read_namespaced_pod_without_preload_content(
                name,
                os.environ.get("POD_NAMESPACE") or self._cluster.namespace,
                _request_timeout=REQUEST_SECONDS,
            ),
            "the gateway's own pod cannot be read",
        )
        owners = body["metadata"].get("ownerReferences") or []
        mine = next((dict(one) for one in owners if one.get("controller")), None)
        if mine is not None:
            # It is not controlled by it, and its deletion does not wait for ours.
            mine |= {"controller": False, "blockOwnerDeletion": False}
        return mine

    async def _ask(self, asked: Coroutine[Any, Any, Any], failed: str) -> Any:
        """Return the answer's JSON. Raises :class:`ComputeFailed`, :class:`ComputeRefused`."""

        async def whole() -> Any:
            response = await asked
            try:
                body = await response.read()
            finally:
                response.release()
            return response, body

        response, body = await _translated(whole(), failed)
        said = _json(body)
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
