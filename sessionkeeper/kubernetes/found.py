"""What pods and nodes of the cluster say of the compute that there is. Pure, but for clocks."""

from __future__ import annotations

from collections.abc import Mapping
from time import time
from typing import Any

from sessionkeeper.agent.ledger import clock
from sessionkeeper.compute.backend import Found, Phase
from sessionkeeper.kubernetes.objects import SESSION, TIER
from sessionkeeper.notices.kubernetes import of_node, of_pod
from sessionkeeper.notices.notice import Notice, what_counts

__all__ = ["Held", "found"]

Object = Mapping[str, Any]


class Held:
    """Notices as they were first seen: their deadline counts from then."""

    def __init__(self) -> None:
        self._held: dict[str, Notice] = {}

    def update(self, notices: Mapping[str, Notice]) -> dict[str, Notice]:
        """Return ``notices``, those that were known with their first deadline, unless it came
        nearer; what is missing is forgotten.
        """
        self._held = {name: self._first(name, new) for name, new in notices.items()}
        return self._held

    def _first(self, name: str, new: Notice) -> Notice:
        old = self._held.get(name)
        if old is None or old.reason != new.reason or (old.deadline is None) != (not new.deadline):
            return new
        nearer = old.deadline and new.deadline and new.deadline < old.deadline - 1
        return new if nearer else old


def found(pods: Mapping[str, Object], nodes: Mapping[str, Object], held: Held) -> dict[str, Found]:
    """Return the compute that there is, by name."""
    told: dict[str, Notice] = {}
    for name, pod in pods.items():
        here = {f"{name}/{key}": one for key, one in of_pod(pod, _unix_to_clock).items()}
        machine = nodes.get((pod.get("spec") or {}).get("nodeName") or "", {})
        here |= {f"{name}/{key}": one for key, one in of_node(machine).items()}
        told |= here
    known = held.update(told)
    return {
        name: _found(
            name, pod, what_counts(one for key, one in known.items() if key.startswith(f"{name}/"))
        )
        for name, pod in pods.items()
    }


def _found(name: str, pod: Object, notice: Notice | None) -> Found:
    meta, status = pod["metadata"], pod.get("status") or {}
    annotations, labels = meta.get("annotations") or {}, meta.get("labels") or {}
    phase = _phase(pod)
    return Found(
        name,
        str(annotations.get(SESSION, "")),
        str(labels.get(TIER, "on-demand")),
        phase,
        "" if phase == "running" else _why(status),
        (pod.get("spec") or {}).get("nodeName"),
        notice,
    )


def _phase(pod: Object) -> Phase:
    if pod["metadata"].get("deletionTimestamp"):
        return "ending"
    said = (pod.get("status") or {}).get("phase")
    if said in ("Succeeded", "Failed"):
        return "ended"
    return "running" if said in ("Running", "Unknown") else "starting"


def _why(status: Object) -> str:
    """In the cluster's words, one line."""
    said = [status.get("reason"), status.get("message")]
    containers = [
        *(status.get("initContainerStatuses") or []),
        *(status.get("containerStatuses") or []),
    ]
    for one in containers:
        state = one.get("state") or {}
        for name in ("waiting", "terminated"):
            if detail := state.get(name):
                said += [detail.get("reason"), detail.get("message")]
                if detail.get("exitCode"):
                    said.append(f"exit code {detail['exitCode']}")
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            said += [condition.get("reason"), condition.get("message")]
    words = ": ".join(dict.fromkeys(str(one) for one in said if one))
    return " ".join(words.split())[:300]


def _unix_to_clock(when: float) -> float:
    return when + clock() - time()
