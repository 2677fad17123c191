"""What this machine can do, found out by doing it: every probe is a real attempt.

`examine` leaves nothing behind: mounts are made in mount namespaces of their own, the rest in a
temporary directory. It never raises for what the machine cannot do; the reason is in the `Facts`.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager

from sessionkeeper import criu
from sessionkeeper.cpu import model, this_level
from sessionkeeper.errors import CriuError
from sessionkeeper.trial import trial

__all__ = ["TOOLS", "Facts", "examine"]

TOOLS = ("ip", "nft", "mount", "unshare")
DUMPS = Path("/dev/shm")  # noqa: S108 - the tmpfs that dumps go to

_SECONDS = 20.0


@dataclass(frozen=True)
class Facts:
    """What was found. A probe's text is why it failed, empty where it worked. Sizes in bytes."""

    system: str = ""
    debian: bool = False
    prefix: str = "/usr"  # of the Python that this runs with
    cpus: int = 1
    cpu: str = ""
    cpu_level: str | None = None  # of the x86-64 psABI
    memory: int = 0
    root: bool = False
    namespaces: Mapping[str, str] = field(default_factory=dict)
    overlay: str = ""
    overlay_on_root: str = ""
    freezer: str = ""
    tools_missing: tuple[str, ...] = ()
    runc: str = ""
    runc_trouble: str = ""
    criu: str = ""
    criu_trouble: str = ""
    criu_hint: str = ""
    trial: str | None = None  # None: not made, because something it needs is missing
    dirty_tracking: bool = False
    lazy_restore: bool = False
    kernels: tuple[str, ...] = ()
    kernels_broken: Mapping[str, str] = field(default_factory=dict)
    dump_room: int = 0
    disk: str = ""
    disk_room: int = 0


def examine(state: Path) -> Facts:
    """Probe this machine; node data would lie under `state`. Takes about half a second."""
    root = os.geteuid() == 0
    directory = _existing(state)
    runc, runc_trouble = _runc()
    freezer = _freezer() if root else "only root can freeze processes"
    found, criu_trouble, criu_hint = _criu()
    tools = tuple(name for name in TOOLS if _which(name) is None)
    tried: str | None = None
    if found and root and not (tools or runc_trouble or criu_trouble or freezer):
        tried = trial(directory, found.path)
    kernels, kernels_broken = _kernels()
    return Facts(
        system=f"{_os_name()}, Linux {platform.release()}, {platform.machine()}",
        prefix=sys.prefix,
        debian=shutil.which("apt-get") is not None,
        cpus=len(os.sched_getaffinity(0)),
        cpu=model(),
        cpu_level=this_level(),
        memory=os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        root=root,
        namespaces={name: _namespace(name) for name in ("net", "pid", "mount")},
        overlay=_overlay(directory, None) if root else "only root can mount",
        overlay_on_root=_overlay(directory, "/") if root else "only root can mount",
        freezer=freezer,
        tools_missing=tools,
        runc=runc,
        runc_trouble=runc_trouble,
        criu=str(found) if found else "",
        criu_trouble=criu_trouble,
        criu_hint=criu_hint,
        trial=tried,
        dirty_tracking=root
        and found is not None
        and criu.has_feature(found.path, "mem_dirty_track"),
        lazy_restore=root and found is not None and criu.restores_lazily(found.path),
        kernels=kernels,
        kernels_broken=kernels_broken,
        dump_room=_room(DUMPS),
        disk=str(directory),
        disk_room=_room(directory),
    )


def _namespace(name: str) -> str:
    fork = ["--fork"] if name == "pid" else []
    return _attempt(["unshare", f"--{name}", *fork, "true"])


def _overlay(directory: Path, lower: str | None) -> str:
    """Mount an overlay whose upper directory is in `directory`, and write through it."""
    try:
        with tempfile.TemporaryDirectory(prefix=".overlay-", dir=directory) as name:
            for part in ("lower", "upper", "work", "merged"):
                Path(name, part).mkdir()
            options = f"lowerdir={lower or 'lower'},upperdir=upper,workdir=work"
            script = f"mount -t overlay overlay -o {options} merged && : > merged/.probe"
            return _attempt(["unshare", "--mount", "sh", "-c", script], cwd=name)
    except OSError as error:
        return str(error)


def _freezer() -> str:
    """Make a control group that could be frozen, and remove it."""
    for base, control in (
        ("/sys/fs/cgroup/freezer", "freezer.state"),
        ("/sys/fs/cgroup", "cgroup.freeze"),
        ("/sys/fs/cgroup/unified", "cgroup.freeze"),
    ):
        if not Path(base, "cgroup.procs").exists():
            continue
        group = Path(base, f"sessionkeeper-{uuid.uuid4().hex[:8]}")
        try:
            group.mkdir()
        except OSError as error:
            return f"{base} cannot be written: {error.strerror}"
        try:
            if (group / control).exists():
                return ""
        finally:
            group.rmdir()
    return "no control group file system with a freezer is mounted"


def _runc() -> tuple[str, str]:
    program = _which("runc")
    if program is None:
        return "", "it is not installed"
    status, output = _run([program, "--version"])
    if status != 0:
        return program, output
    return output.splitlines()[0], ""


def _criu() -> tuple[criu.Criu | None, str, str]:
    found = criu.find()
    try:
        return criu.require(), "", ""
    except CriuError as error:
        return found, str(error), error.hint


def _kernels() -> tuple[tuple[str, ...], dict[str, str]]:
    """Installed kernelspecs, and those whose program is not there."""
    good: list[str] = []
    broken: dict[str, str] = {}
    manager = KernelSpecManager()
    for name in sorted(manager.find_kernel_specs()):
        try:
            program = manager.get_kernel_spec(name).argv[0]
        except Exception as error:  # a broken file of somebody else's must not end the examination
            broken[name] = str(error) or type(error).__name__
            continue
        # jupyter_client puts its own interpreter in the place of a plain `python`.
        if not re.fullmatch(r"python(3(\.\d+)?)?", program) and _which(program) is None:
            broken[name] = f"{program} is not there"
        else:
            good.append(name)
    return tuple(good), broken


def _existing(path: Path) -> Path:
    """`path`, or what is nearest above it of the directories that this user may look into."""
    path = path.absolute()
    while not (os.path.isdir(path) and os.access(path, os.R_OK | os.X_OK)):
        path = path.parent
    return path


def _room(path: Path) -> int:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return 0


def _os_name() -> str:
    with contextlib.suppress(OSError, KeyError):
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    return "unknown distribution"


def _which(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")


def _attempt(command: Sequence[str], *, cwd: str | None = None) -> str:
    """Empty when `command` succeeds; else the last thing it said."""
    status, output = _run(command, cwd=cwd)
    return "" if status == 0 else (output.splitlines() or [f"exit status {status}"])[-1]


def _run(command: Sequence[str], *, cwd: str | None = None) -> tuple[int, str]:
    """Exit status and all output."""
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except OSError as error:
        return 127, f"{command[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return 124, f"{command[0]} did not end within {_SECONDS:.0f} seconds"
    return done.returncode, done.stdout.strip()
