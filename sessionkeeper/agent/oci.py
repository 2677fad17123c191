"""What a kernel's container is: a pure function to an OCI runtime configuration.

User code runs as an ordinary user without any capability, with no way to gain one
(``noNewPrivileges``), behind a seccomp filter and a memory limit. The mount points are the same
on every node, because CRIU looks mounts up by them.

Source: OCI runtime specification 1.0.2 (config.md, config-linux.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

USER_ID = 61000
USER_NAME = "jovyan"
HOME = "/home/jovyan"

OWN_PACKAGES = f"{HOME}/.local/lib/packages"
"""In the container: where the user's ``pip install`` puts packages."""

CONTROL_DIR = "/run/sessionkeeper"
"""In the container: the shim, its configuration and the epoch. Read-only."""

IPC_DIR = "/run/kernel"
"""In the container: the sockets between shim and kernel."""

# A filter by name: everything an unprivileged program needs is left, what reaches into the
# kernel's or other tenants' business is refused. io_uring is among them also because CRIU
# cannot dump it.
REFUSED_SYSCALLS = """
    acct add_key bpf clock_adjtime clock_adjtime64 clock_settime clock_settime64
    create_module delete_module finit_module fsconfig fsmount fsopen fspick init_module
    io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load
    kexec_load keyctl lookup_dcookie mount mount_setattr move_mount name_to_handle_at
    nfsservctl open_by_handle_at open_tree perf_event_open pivot_root process_madvise
    query_module quotactl quotactl_fd reboot request_key setdomainname sethostname setns
    settimeofday stime swapoff swapon sysfs syslog umount umount2 unshare uselib
    userfaultfd ustat vhangup vm86 vm86old
""".split()  # noqa: SIM905
MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/sys/firmware",
)
"""What of the machine a container does not see."""

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/random", "/dev/urandom")
"""What the specification gives every container."""

CLONE_NEW_NAMESPACES = 0x7E020000
EPERM, ENOSYS = 1, 38


@dataclass(frozen=True)
class Bind:
    """A directory of the node shown in the container at ``target``."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True)
class Container:
    """Everything that distinguishes one kernel's container from another's.

    ``memory`` is in bytes; ``network`` is the path of a network namespace; ``criu_config`` a
    CRIU configuration file.
    """

    name: str
    rootfs: Path
    network: Path
    cgroup: str
    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    binds: tuple[Bind, ...] = ()
    memory: int | None = None
    criu_config: Path = Path("/dev/null")
    user: int = USER_ID
    group: int = USER_ID
    user_name: str = USER_NAME
    home: str = HOME
    cwd: str = HOME


def seccomp() -> dict[str, Any]:
    """Return the seccomp section: refused calls get EPERM; ``clone3`` ENOSYS so that libc falls
    back to ``clone``,

    whose flags a filter can see: no new namespaces, a user namespace above all.
    """
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": REFUSED_SYSCALLS, "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS},
            *(
                {
                    "names": ["clone"],
                    "action": "SCMP_ACT_ERRNO",
                    "errnoRet": EPERM,
                    "args": [
                        {"index": 0, "value": bit, "valueTwo": bit, "op": "SCMP_CMP_MASKED_EQ"}
                    ],
                }
                for bit in _bits(CLONE_NEW_NAMESPACES)
            ),
        ],
    }


def config(container: Container) -> dict[str, Any]:
    """Return the ``config.json`` of ``container``."""
    env = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": container.home,
        "USER": container.user_name,
        **container.env,
    }
    linux: dict[str, Any] = {
        "namespaces": [
            {"type": "pid"},
            {"type": "mount"},
            {"type": "ipc"},
            {"type": "uts"},
            {"type": "network", "path": str(container.network)},
        ],
        "cgroupsPath": container.cgroup,
        "seccomp": seccomp(),
        "maskedPaths": list(MASKED),
        "readonlyPaths": [
            "/proc/bus",
            "/proc/fs",
            "/proc/irq",
            "/proc/sys",
            "/proc/sysrq-trigger",
        ],
        "resources": {
            "devices": [{"allow": False, "access": "rwm"}],
            **({"memory": {"limit": container.memory}} if container.memory else {}),
        },
    }
    return {
        "ociVersion": "1.0.2",
        "hostname": "session",
        "root": {"path": str(container.rootfs), "readonly": False},
        "process": {
            "terminal": False,
            "user": {"uid": container.user, "gid": container.group, "umask": 0o022},
            "args": list(container.argv),
            "env": [f"{k}={v}" for k, v in sorted(env.items())],
            "cwd": container.cwd,
            "noNewPrivileges": True,
            "capabilities": {
                kind: []
                for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
            },
        },
        "mounts": [*_system_mounts(), *(_bind_mount(b) for b in container.binds)],
        "annotations": {"org.criu.config": str(container.criu_config)},
        "linux": linux,
    }


def _system_mounts() -> list[dict[str, Any]]:
    def mount(target: str, kind: str, *options: str) -> dict[str, Any]:
        return {
            "destination": target,
            "type": kind,
            "source": kind,
            "options": ["nosuid", *options],
        }

    return [
        mount("/proc", "proc", "noexec", "nodev"),
        mount("/dev", "tmpfs", "strictatime", "mode=755", "size=65536k"),
        mount("/dev/pts", "devpts", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
        mount("/dev/shm", "tmpfs", "nodev", "mode=1777", "size=1g"),  # noqa: S108
        mount("/dev/mqueue", "mqueue", "noexec", "nodev"),
        mount("/sys", "sysfs", "noexec", "nodev", "ro"),
    ]


def _bind_mount(bind: Bind) -> dict[str, Any]:
    mode = "rw" if bind.writable else "ro"
    return {
        "destination": bind.target,
        "type": "bind",
        "source": str(bind.source),
        "options": ["rbind", "nosuid", "nodev", mode],
    }


def _bits(mask: int) -> list[int]:
    return [1 << i for i in range(mask.bit_length()) if mask >> i & 1]
