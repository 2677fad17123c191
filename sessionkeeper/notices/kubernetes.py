"""Notices of Kubernetes: of the pod that the agent runs in, and of the node below it.

A pod that is to go has a ``deletionTimestamp``, its grace included, and mostly a condition
``DisruptionTarget`` (with ``TerminationByKubelet`` at a graceful node shutdown). A node that is to
go is tainted by who takes it away. Both are watched; a watch ends after a while, or with 410
(Gone), and begins anew without a version: then it tells first what there is.

Sources: Kubernetes documentation, "Pod Lifecycle", "Disruptions", "Well-Known Labels, Annotations
and Taints", "Node Shutdowns", "API Concepts"; cluster-autoscaler FAQ; karpenter.sh, "Disruption";
aws-node-termination-handler; GKE, "Graceful node shutdown".
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import Any, Literal

from aiohttp import ClientError
from kubernetes.aio import client, config, watch

from sessionkeeper.agent.ledger import clock
from sessionkeeper.notices.metadata import instant
from sessionkeeper.notices.notice import Notice, SourceFailed

__all__ = ["Here", "KubernetesWatch", "here", "of_node", "of_pod"]

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
WATCH_SECONDS = 60
SLACK_SECONDS = 15
EVICTED_SECONDS = 30.0
"""What a pod has when nobody says how long: Kubernetes' own default grace period."""

Kind = Literal["pod", "node"]

TAINTS: dict[str, tuple[str, float | None]] = {
    "ToBeDeletedByClusterAutoscaler": ("the cluster autoscaler removes it", EVICTED_SECONDS),
    "DeletionCandidateOfClusterAutoscaler": ("the cluster autoscaler may remove it", None),
    "karpenter.sh/disrupted": ("Karpenter removes it", EVICTED_SECONDS),
    "karpenter.sh/disruption": ("Karpenter removes it", EVICTED_SECONDS),
    "aws-node-termination-handler/spot-itn": ("AWS takes the spot instance back", 120.0),
    "aws-node-termination-handler/asg-lifecycle-termination": ("AWS ends the instance", 120.0),
    "aws-node-termination-handler/rebalance-recommendation": (
        "AWS expects to take the spot instance back",
        None,
    ),
    "aws-node-termination-handler/scheduled-maintenance": ("AWS has planned maintenance", None),
    "cloud.google.com/impending-node-termination": ("Google takes the VM back", EVICTED_SECONDS),
    "node.cloudprovider.kubernetes.io/shutdown": ("its machine was switched off", 0.0),
    "node.kubernetes.io/out-of-service": ("it was taken out of service", 0.0),
    "node.kubernetes.io/not-ready": ("Kubernetes says that it is not ready", EVICTED_SECONDS),
    "node.kubernetes.io/unreachable": ("Kubernetes does not reach it", EVICTED_SECONDS),
    "node.kubernetes.io/unschedulable": ("it was cordoned in Kubernetes", None),
    "node.kubernetes.io/memory-pressure": ("it is short of memory", None),
    "node.kubernetes.io/disk-pressure": ("its disk is nearly full", None),
    "node.kubernetes.io/pid-pressure": ("it is short of process ids", None),
}
"""Key of a taint: what it means, and how many seconds there are from when it is seen."""

_WHY = {
    "PreemptionByScheduler": "its pod makes room for another one",
    "DeletionByTaintManager": "its pod is evicted: the node was tainted",
    "EvictionByEvictionAPI": "its pod is evicted",
    "DeletionByPodGC": "the node of its pod is gone",
    "TerminationByKubelet": "the node of its pod shuts down",
}


@dataclass(frozen=True)
class Here:
    """The pod that this process runs in, and the API server it sees."""

    pod: str
    namespace: str
    node: str | None = None
    configure: Callable[[Any], None] | None = field(default=None, compare=False)
    """Sets address and credentials; None: as those of the pod's service account."""


def here(environ: Mapping[str, str] = os.environ, account: Path = ACCOUNT) -> Here:
    """Return where this process runs; ``POD_NAME`` and ``NODE_NAME`` may say so.

    Raises :class:`SourceFailed` outside a pod.
    """
    try:
        namespace = (account / "namespace").read_text().strip()
    except OSError:
        raise SourceFailed("this is no Kubernetes pod, or it has no service account") from None
    pod = environ.get("POD_NAME") or environ.get("HOSTNAME") or os.uname().nodename
    return Here(pod, namespace, environ.get("NODE_NAME"))


def of_pod(pod: Mapping[str, Any], deadline: Callable[[float], float]) -> dict[str, Notice]:
    """Return the notices that a Pod object is, by what makes them. ``deadline`` turns Unix seconds
    into :func:`clock`'s.
    """
    meta, status = pod.get("metadata") or {}, pod.get("status") or {}
    conditions = status.get("conditions") or []
    why = next(
        (
            _WHY.get(str(one.get("reason")), "its pod is disrupted")
            for one in conditions
            if one.get("type") == "DisruptionTarget" and one.get("status") == "True"
        ),
        None,
    )
    if meta.get("deletionTimestamp"):
        until = deadline(instant(meta["deletionTimestamp"]))
        return {"deleted": Notice("kubernetes pod", why or "its pod is deleted", until)}
    if why is None:
        return {}
    spec = pod.get("spec") or {}
    grace = float(spec.get("terminationGracePeriodSeconds") or EVICTED_SECONDS)
    return {why: Notice("kubernetes pod", why, clock() + grace)}


def of_node(node: Mapping[str, Any]) -> dict[str, Notice]:
    """Return the notices that the taints of a Node object are, by their keys."""
    taints = (node.get("spec") or {}).get("taints") or []
    found = {}
    for key in (str(one.get("key")) for one in taints):
        if key in TAINTS:
            reason, seconds = TAINTS[key]
            until = None if seconds is None else clock() + seconds
            found[key] = Notice("kubernetes node", reason, until)
    return found


class KubernetesWatch:
    """Watches the pod, or the node. The service account must be allowed to watch it."""

    def __init__(self, kind: Kind, place: Callable[[], Here] = here) -> None:
        self.name = f"kubernetes {kind}"
        self._kind = kind
        self._place = place
        self._held: dict[str, Notice] = {}

    async def watch(self) -> AsyncIterator[frozenset[Notice]]:
        place = self._place()
        settings = client.Configuration()
        try:
            (place.configure or config.load_incluster_config)(settings)
        except config.ConfigException as error:
            raise SourceFailed(f"this is no Kubernetes pod: {error}") from None
        said = None
        try:
            async with client.ApiClient(settings) as api:
                core = client.CoreV1Api(api)
                name = place.pod if self._kind == "pod" else place.node
                if name is None:
                    pod = await core.read_namespaced_pod(place.pod, place.namespace)
                    name = str(pod.spec.node_name if pod.spec else None)
                async for found in self._objects(core, name, place.namespace):
                    # The deadline counts from when a notice was first seen.
                    self._held = {
                        key: self._held[key] if self._same(key, one) else one
                        for key, one in self._notices(found).items()
                    }
                    now = frozenset(self._held.values())
                    if now != said:
                        said = now
                        yield now
        except client.ApiException as error:
            hint = f"its service account needs `get` and `watch` for {self._kind}s"
            text = f"the Kubernetes API answered {error.status} ({error.reason})"
            raise SourceFailed(text, hint=hint if error.status in (401, 403) else None) from None
        except (ClientError, OSError, TimeoutError) as error:
            raise SourceFailed(
                f"the Kubernetes API does not answer: {error or repr(error)}"
            ) from None
        except SourceFailed:
            raise
        except Exception as error:  # the client has no error of its own for what it cannot read
            raise SourceFailed(f"the Kubernetes API answered nonsense: {error!r}") from None

    async def drained(self) -> None:
        """Whoever deletes a pod waits for its end, which is the :class:`Signal`'s."""

    async def _objects(
        self, core: Any, name: str, namespace: str
    ) -> AsyncIterator[Mapping[str, Any]]:
        asking = {
            "field_selector": f"metadata.name={name}",
            "timeout_seconds": WATCH_SECONDS,
            "_request_timeout": WATCH_SECONDS + SLACK_SECONDS,
        }
        barren = False
        while True:
            heard = False
            async with watch.Watch() as stream:  # type: ignore[no-untyped-call]
                if self._kind == "pod":
                    events = stream.stream(core.list_namespaced_pod, namespace, **asking)
                else:
                    events = stream.stream(core.list_node, **asking)
                try:
                    async for event in events:
                        heard = True
                        if event["type"] in ("ADDED", "MODIFIED"):
                            yield event["raw_object"]
                except client.ApiException as error:
                    if error.status != 410:
                        raise
            if barren and not heard:  # each begins with what there is: 410 comes once in a while
                raise SourceFailed(f"the Kubernetes API says nothing of {self._kind} {name}")
            barren = not heard

    def _notices(self, found: Mapping[str, Any]) -> dict[str, Notice]:
        return of_pod(found, _unix_to_clock) if self._kind == "pod" else of_node(found)

    def _same(self, key: str, new: Notice) -> bool:
        old = self._held.get(key)
        # A later word of the same end may be earlier: a grace period can be shortened.
        earlier = old and old.deadline and new.deadline and new.deadline < old.deadline - 1
        return old is not None and old.reason == new.reason and not earlier


def _unix_to_clock(when: float) -> float:
    return when + clock() - time()
