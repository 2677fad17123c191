"""The objects that are created in the cluster, as plain JSON. Pure.

A session's pod has one container that matters, `agent`, whose PID 1
(:mod:`sessionkeeper.kubernetes.entry`) keeps the agent running. What differs is where kernels run:

* `criu`: the container is of the agent's image and root in it; each kernel is in a container of its
  own below it (runc), with no capability, a seccomp profile and its own user id. The session's
  image is a read-only volume, where the cluster has image volumes; else the agent pulls it.
* `unprivileged`: the container is of the session's image; the agent, with its own Python, is copied
  in by an init container. It asks for nothing that the *restricted* Pod Security Standard forbids.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from sessionkeeper.compute.backend import Compute, ComputeRefused
from sessionkeeper.images.reference import parse
from sessionkeeper.kubernetes.cluster import Cluster
from sessionkeeper.values import LEAST_MEMORY

__all__ = [
    "COMPONENT",
    "INSTANCE",
    "SESSION",
    "TIER",
    "pod",
    "prepull",
    "selector",
]

INSTANCE = "app.kubernetes.io/instance"
COMPONENT = "app.kubernetes.io/component"
SESSION = "sessionkeeper.io/session"
TIER = "sessionkeeper.io/tier"
IMAGE = "sessionkeeper.io/image"

HOME = "/opt/sessionkeeper"
"""Where the agent's image has the agent with its own Python, which needs nothing outside of it."""

DATA = "/var/lib/sessionkeeper"
ROOT_OF_IMAGE = "/image"
SPARE_SECONDS = 5
"""Between the end of an agent's own grace and SIGKILL."""

AGENT_DISK = 2 << 30
"""Bytes for the agent's own copy in an unprivileged pod, and for its log."""

MOST_PREPULLED = 16

CAPABILITIES = {
    "SYS_ADMIN": "mounts, namespaces and control groups of the kernels' containers",
    "SYS_PTRACE": "CRIU stops processes and reads and writes their memory",
    "CHECKPOINT_RESTORE": "CRIU restores processes under the ids they had (Linux 5.9)",
    "SYS_CHROOT": "runc and CRIU enter the kernels' root file systems",
    "SYS_RESOURCE": "CRIU restores limits, and marks of /proc such as oom_score_adj",
    "NET_ADMIN": "a network namespace with a line to the outside for each session",
    "NET_RAW": "the rules of that line are set with nft, and CRIU restores raw sockets",
    "SETUID": "kernels run under a user id of their own",
    "SETGID": "and a group id",
    "SETPCAP": "runc takes all capabilities away from them",
    "KILL": "their processes are ended, which belong to another user",
    "CHOWN": "files of the workspace get their owner back",
    "FOWNER": "and their modes and times",
    "FSETID": "and their set-id bits",
    "DAC_OVERRIDE": "they are read and written whatever their modes are",
    "DAC_READ_SEARCH": "CRIU finds open files by their handles",
    "SETFCAP": "programs in an image keep their file capabilities when it is unpacked",
    "MKNOD": "an image's layers mark deleted files with devices; containers have /dev/null",
}
"""What the agent of the profile `criu` needs, and what for. A kernel's container has none."""


def selector(cluster: Cluster) -> str:
    """Return the label selector of this gateway's pods."""
    return f"{INSTANCE}={cluster.instance},{COMPONENT}=compute"


def pod(
    cluster: Cluster, wanted: Compute, owner: Mapping[str, Any] | None, image_volumes: bool
) -> dict[str, Any]:
    """Return the pod of a session's compute. ``owner`` is an owner reference: the pod goes when
    that object does. Raises :class:`ComputeRefused`, ``BadReference``.
    """
    pool = cluster.pool(wanted.tier)
    criu = cluster.profile == "criu"
    # Without one, kernels of `criu` have the agent's own root as theirs.
    image = wanted.image or ("" if criu else cluster.default_image)
    if not criu and not in_registry(image):
        raise ComputeRefused(
            f"the image {image} is kept by the gateway, where no kubelet gets it from",
            hint="the profile `unprivileged` needs images in a registry, HOST/NAME:TAG",
        )
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": math.ceil(cluster.grace) + SPARE_SECONDS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "nodeSelector": {"kubernetes.io/os": "linux", **pool.node_selector},
        "tolerations": [dict(one) for one in pool.tolerations],
        **(_criu if criu else _unprivileged)(cluster, wanted, image, image_volumes),
    }
    if pool.priority_class:
        spec["priorityClassName"] = pool.priority_class
    if cluster.service_account:
        spec["serviceAccountName"] = cluster.service_account
    if cluster.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in cluster.pull_secrets]
    metadata: dict[str, Any] = {
        "name": wanted.name,
        "namespace": cluster.namespace,
        "labels": {**_labels(cluster, "compute"), TIER: wanted.tier},
        # A session's name may be longer than a label, an image has colons.
        "annotations": {
            # The autoscaler may take the node: the session moves.
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "true",
            **cluster.annotations,
            SESSION: wanted.session,
            **({IMAGE: image} if image else {}),
        },
    }
    if owner is not None:
        metadata["ownerReferences"] = [dict(owner)]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def in_registry(image: str) -> bool:
    """Whether a kubelet can pull it: without a host it is one that the gateway keeps, and would be
    taken for somebody else's of that name.
    """
    return bool(image) and bool(parse(image).host)


def _criu(cluster: Cluster, wanted: Compute, image: str, image_volumes: bool) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [
        {"name": "data", "emptyDir": {"sizeLimit": str(cluster.resources.disk)}},
        {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "data", "mountPath": DATA},
        {"name": "run", "mountPath": "/run"},
    ]
    known = {}
    if image_volumes and in_registry(image):
        known = {
            "SESSIONKEEPER_MOUNTED_IMAGE": image,
            "SESSIONKEEPER_MOUNTED_AT": ROOT_OF_IMAGE,
        }
        volumes.append(
            {"name": "image", "image": {"reference": image, "pullPolicy": cluster.pull_policy}}
        )
        mounts.append({"name": "image", "mountPath": ROOT_OF_IMAGE, "readOnly": True})
    container = _agent(cluster, wanted, cluster.agent_image, "container", mounts, known)
    container["securityContext"] = _mighty(cluster)
    return {"containers": [container], "volumes": volumes}


def _mighty(cluster: Cluster) -> dict[str, Any]:
    if cluster.privileged:
        return {"privileged": True, "runAsUser": 0}
    # RuntimeDefault would keep from the agent what it keeps from the kernels itself: theirs is a
    # seccomp profile of their own. The default AppArmor profile forbids all mounts.
    return {
        "runAsUser": 0,
        "capabilities": {"drop": ["ALL"], "add": list(CAPABILITIES)},
        "seccompProfile": {"type": "Unconfined"},
        "appArmorProfile": {"type": "Unconfined"},
    }


def _unprivileged(
    cluster: Cluster, wanted: Compute, image: str, image_volumes: bool
) -> dict[str, Any]:
    mounts = [
        {"name": "agent", "mountPath": HOME},
        {"name": "data", "mountPath": DATA},
        # Where a policy of the cluster has the image's own file system read-only.
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
    ]
    inside = {"SESSIONKEEPER_INSIDE": image}
    container = _agent(cluster, wanted, image, "process", mounts, inside)
    container["securityContext"] = _meek()
    lending = {
        "name": "lend-agent",
        "image": cluster.agent_image,
        "imagePullPolicy": cluster.pull_policy,
        # Without modes and times of the directory itself, which belongs to root.
        "command": ["/bin/cp", "-RP", f"{HOME}/.", "/lent/"],
        "volumeMounts": [{"name": "agent", "mountPath": "/lent"}],
        "resources": {
            "requests": {"cpu": "50m", "memory": "64Mi"},
            "limits": {"memory": "256Mi"},
        },
        "securityContext": _meek(),
    }
    return {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": cluster.user,
            "runAsGroup": cluster.group,
            "fsGroup": cluster.group,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [lending],
        "containers": [container],
        "volumes": [
            {"name": "agent", "emptyDir": {"sizeLimit": str(AGENT_DISK)}},
            {"name": "data", "emptyDir": {"sizeLimit": str(cluster.resources.disk)}},
            {"name": "tmp", "emptyDir": {"sizeLimit": str(cluster.resources.disk)}},
        ],
    }


def _meek() -> dict[str, Any]:
    """What the restricted Pod Security Standard wants of a container."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _agent(
    cluster: Cluster,
    wanted: Compute,
    image: str,
    runtime: str,
    mounts: Sequence[Mapping[str, Any]],
    more: Mapping[str, str],
) -> dict[str, Any]:
    limit = max(wanted.limit or cluster.resources.limit, wanted.guarantee, LEAST_MEMORY)
    environment = {
        "SESSIONKEEPER_GATEWAY_URL": cluster.gateway_url,
        "SESSIONKEEPER_NODE": wanted.name,
        # Good for this node's name alone, and worth nothing once the pod is gone.
        "SESSIONKEEPER_TOKEN": wanted.token,
        "SESSIONKEEPER_TIER": wanted.tier,
        "SESSIONKEEPER_RUNTIME": runtime,
        "SESSIONKEEPER_DATA": f"{DATA}/agent",
        "SESSIONKEEPER_NOTICES": "signal",
        "SESSIONKEEPER_GRACE": f"{cluster.grace:g}s",
        "SESSIONKEEPER_MEMORY_BYTES": str(limit),
        **more,
    }
    return {
        "name": "agent",
        "image": image,
        "imagePullPolicy": cluster.pull_policy,
        "command": [f"{HOME}/bin/python", "-I", "-m", "sessionkeeper.kubernetes.entry"],
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "volumeMounts": list(mounts),
        "resources": _resources(cluster, wanted, limit),
    }


def _resources(cluster: Cluster, wanted: Compute, limit: int) -> dict[str, Any]:
    said = cluster.resources
    guarantee = wanted.guarantee or min(said.guarantee, limit)
    # Images of processes on their way are in memory, and count: as much again as the kernels have.
    images = limit if cluster.profile == "criu" else 0
    limits = {
        "memory": str(limit + images + said.agent),
        "ephemeral-storage": str(said.disk + AGENT_DISK),
    }
    if said.cpu_limit:
        limits["cpu"] = _cores(said.cpu_limit)
    return {
        "requests": {
            "cpu": _cores(said.cpu_request),
            "memory": str(guarantee + said.agent),
            "ephemeral-storage": str(min(said.disk, 1 << 30)),
        },
        "limits": limits,
    }


def _cores(cores: float) -> str:
    return f"{round(cores * 1000)}m"


def _labels(cluster: Cluster, component: str) -> dict[str, str]:
    return {
        **cluster.labels,
        "app.kubernetes.io/name": "sessionkeeper",
        "app.kubernetes.io/managed-by": "sessionkeeper",
        INSTANCE: cluster.instance,
        COMPONENT: component,
    }


def prepull(
    cluster: Cluster,
    tier: str,
    images: Sequence[str],
    owner: Mapping[str, Any] | None,
    image_volumes: bool,
) -> dict[str, Any]:
    """Return the DaemonSet that has the nodes of a tier pull the images that sessions would need
    there, and the agent's: so one that takes over need not wait for that.
    """
    pool = cluster.pool(tier)
    # An agent that fetches images by itself has nothing of those that the kubelet has.
    wanted = {*images} if image_volumes or cluster.profile == "unprivileged" else set()
    chosen = sorted(filter(in_registry, wanted))[:MOST_PREPULLED]
    small = {"requests": {"cpu": "1m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}}
    waits = [f"{HOME}/bin/python", "-I", "-c", "import signal; signal.pause()"]
    container: dict[str, Any] = {
        "name": "images",
        "image": cluster.agent_image,
        "imagePullPolicy": cluster.pull_policy,
        "command": waits,
        "resources": small,
        "securityContext": _meek(),
    }
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 0,
        "nodeSelector": {"kubernetes.io/os": "linux", **pool.node_selector},
        "tolerations": [dict(one) for one in pool.tolerations],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": cluster.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }
    names = [f"image-{hashlib.sha256(one.encode()).hexdigest()[:8]}" for one in chosen]
    if image_volumes and cluster.profile == "criu":
        policy = cluster.pull_policy
        spec["volumes"] = [
            {"name": name, "image": {"reference": image, "pullPolicy": policy}}
            for name, image in zip(names, chosen, strict=True)
        ]
    else:
        spec["initContainers"] = [
            {
                **container,
                "name": name,
                "image": image,
                "command": ["/bin/sh", "-c", "exit 0"],
            }
            for name, image in zip(names, chosen, strict=True)
        ]
    if cluster.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in cluster.pull_secrets]
    labels = {**_labels(cluster, "prepull"), TIER: tier}
    metadata: dict[str, Any] = {
        "name": f"{cluster.instance}-prepull-{tier}",
        "namespace": cluster.namespace,
        "labels": labels,
    }
    if owner is not None:
        metadata["ownerReferences"] = [dict(owner)]
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": metadata,
        "spec": {
            "selector": {"matchLabels": labels},
            "updateStrategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": "100%"},
            },
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }
