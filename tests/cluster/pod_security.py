"""The *restricted* Pod Security Standard, as rules on a pod.

After the Kubernetes documentation, "Pod Security Standards": what *baseline* and *restricted* say
of each field, for Linux. Fields that are not set count as they are by default.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
}
SELINUX = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}


def violations(pod: dict[str, Any]) -> set[str]:
    """Return the controls of the standard that the pod breaks, by their names there."""
    return {*_of_pod(pod), *(name for one in _containers(pod) for name in _of_container(pod, one))}


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    kinds = ("containers", "initContainers", "ephemeralContainers")
    return [one for kind in kinds for one in pod["spec"].get(kind) or []]


def _of_pod(pod: dict[str, Any]) -> Iterator[str]:
    spec = pod["spec"]
    security = spec.get("securityContext") or {}
    if (security.get("windowsOptions") or {}).get("hostProcess"):
        yield "HostProcess"
    if any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
        yield "Host Namespaces"
    for volume in spec.get("volumes") or []:
        if "hostPath" in volume:
            yield "HostPath Volumes"
        if not (set(volume) - {"name"}) <= VOLUMES:
            yield "Volume Types"
    if not {one["name"] for one in security.get("sysctls") or []} <= SYSCTLS:
        yield "Sysctls"
    annotations = pod["metadata"].get("annotations") or {}
    for name, value in annotations.items():
        confined = value == "runtime/default" or value.startswith("localhost/")
        if name.startswith("container.apparmor.security.beta.kubernetes.io/") and not confined:
            yield "AppArmor"


def _of_container(pod: dict[str, Any], container: dict[str, Any]) -> Iterator[str]:
    whole = pod["spec"].get("securityContext") or {}
    own = container.get("securityContext") or {}
    given = {**whole, **own}
    if own.get("privileged"):
        yield "Privileged Containers"
    if any(port.get("hostPort") for port in container.get("ports") or []):
        yield "Host Ports"
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        said = container.get(probe) or {}
        if any((said.get(how) or {}).get("host") for how in ("httpGet", "tcpSocket")):
            yield "Host Probes / Lifecycle Hooks"
    for place in (whole, own):
        options = place.get("seLinuxOptions") or {}
        if options.get("type", "") not in SELINUX or options.get("user") or options.get("role"):
            yield "SELinux"
        kind = (place.get("appArmorProfile") or {}).get("type", "RuntimeDefault")
        if kind not in ("RuntimeDefault", "Localhost"):
            yield "AppArmor"
    if own.get("procMount", "Default") != "Default":
        yield "/proc Mount Type"
    if own.get("allowPrivilegeEscalation", True) is not False:
        yield "Privilege Escalation"
    if given.get("runAsNonRoot") is not True:
        yield "Running as Non-root"
    if 0 in (whole.get("runAsUser"), own.get("runAsUser")):
        yield "Running as Non-root user"
    if (given.get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "Seccomp"
    capabilities = own.get("capabilities") or {}
    added = set(capabilities.get("add") or [])
    if "ALL" not in (capabilities.get("drop") or []) or not added <= {"NET_BIND_SERVICE"}:
        yield "Capabilities"
