"""What a session's root file system consists of below what the session writes: the node's own root,
or an image. And who the session's user is there.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from checkpoint.namespace.engine import INSIDE, LENT
from sessionkeeper.agent import rootfs
from sessionkeeper.agent.errors import KernelStartFailed
from sessionkeeper.agent.kernelspecs import Kernelspecs, Specs
from sessionkeeper.agent.oci import (
    CONTROL_DIR,
    HOME,
    OWN_PACKAGES,
    USER_ID,
    USER_NAME,
    Bind,
)
from sessionkeeper.images.errors import ImageUnusable
from sessionkeeper.images.manifest import ImageConfig

LENT_DIR = f"{CONTROL_DIR}/{INSIDE.name}/{LENT}"
REPO2DOCKER = "repo2docker-entrypoint"
_SHIM = ("-E", f"{CONTROL_DIR}/shim.pyz", f"{CONTROL_DIR}/config.json")


class Root(Protocol):
    """What is below a session's own layer."""

    @property
    def user(self) -> int: ...

    @property
    def group(self) -> int: ...

    @property
    def user_name(self) -> str: ...

    @property
    def home(self) -> str:
        """The user's home directory."""
        ...

    @property
    def workspace(self) -> str:
        """Where the session's files are, and its kernels start."""
        ...

    @property
    def kernelspecs(self) -> Specs: ...

    def create(self, upper: Path) -> None:
        """Make the layer of a new session."""

    def mount(self, layers: rootfs.Layers) -> None:
        """Mount it all. Raises ``NodeSetupFailed``."""

    def take(self, layers: rootfs.Layers) -> None:
        """Have the files that the workspace of a new session begins with in its own layer, where
        checkpoints find them. It is mounted.
        """

    def argv(self) -> tuple[str, ...]:
        """Return what is run in a container: the shim."""
        ...

    def env(self) -> dict[str, str]: ...

    def binds(self) -> tuple[Bind, ...]: ...


@dataclass(frozen=True)
class HostRoot:
    """The node's own root, without ``hidden`` and a few other places; its Python is ours."""

    hidden: tuple[Path, ...] = ()
    user: int = USER_ID
    group: int = USER_ID
    user_name: str = USER_NAME
    home: str = HOME
    workspace: str = HOME
    kernelspecs: Specs = field(default_factory=Kernelspecs)

    def create(self, upper: Path) -> None:
        rootfs.create_upper(upper)

    def mount(self, layers: rootfs.Layers) -> None:
        rootfs.hide(layers.upper, self.hidden)
        rootfs.prepare_mount_points(layers.upper)
        rootfs.mount(layers)

    def take(self, layers: rootfs.Layers) -> None:
        """The workspace begins empty."""

    def argv(self) -> tuple[str, ...]:
        return (sys.executable, *_SHIM)

    def env(self) -> dict[str, str]:
        return {
            "PATH": f"{Path(sys.prefix) / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            # `%pip install` works: beside the packages of this Python, which are read-only.
            "PIP_TARGET": OWN_PACKAGES,
            "PYTHONPATH": f"{OWN_PACKAGES}:{LENT_DIR}",
        }

    def binds(self) -> tuple[Bind, ...]:
        return tuple(Bind(p, str(p)) for p in python_prefixes())


@dataclass(frozen=True)
class ImageRoot:
    """An image, whose layers (names of directories in ``directory``, the topmost first) are shared
    with other sessions.
    """

    image: str
    directory: Path
    layers: tuple[str, ...]
    config: ImageConfig
    python: str
    kernelspecs: Specs
    user: int
    group: int
    user_name: str
    home: str
    workspace: str

    def create(self, upper: Path) -> None:
        upper.mkdir(parents=True, exist_ok=True)
        upper.chmod(0o755)
        for place in rootfs.STICKY:
            rootfs.make(upper, place, 0o1777)
        if self.user == USER_ID:
            rootfs.add_user(upper / "etc", self._file("etc/passwd"), self._file("etc/group"))

    def mount(self, layers: rootfs.Layers) -> None:
        rootfs.prepare_mount_points(layers.upper)
        etc = rootfs.make(layers.upper, "etc", 0o755)
        # Names are looked up as on this node, whatever the one before asked.
        _write(etc / "resolv.conf", _content(Path("/etc/resolv.conf")))
        if not self._file("etc/hosts").strip():
            _write(etc / "hosts", "127.0.0.1 localhost session\n::1 localhost\n")
        rootfs.mount(layers, self.layers, within=self.directory)

    def take(self, layers: rootfs.Layers) -> None:
        place = layers.root
        for name in self.workspace.strip("/").split("/"):
            place /= name
            if place.is_symlink():
                raise ImageUnusable(
                    f"{self.workspace} of {self.image} is behind the link /{place.name}",
                    hint="set WORKDIR to the directory itself",
                )
            if not place.is_dir():
                place.mkdir()
        # To change whose a file is copies it up.
        rootfs.give(place, self.user, self.group)

    def argv(self) -> tuple[str, ...]:
        return (*started_by(self.config), self.python, *_SHIM)

    def env(self) -> dict[str, str]:
        said = self.config.env
        path = filter(None, (said.get("PYTHONPATH"), LENT_DIR))
        return {**said, "PYTHONPATH": ":".join(path)}

    def binds(self) -> tuple[Bind, ...]:
        return ()

    def _file(self, path: str) -> str:
        return file_in(self.directory, self.layers, path)


def started_by(config: ImageConfig) -> tuple[str, ...]:
    """Return what runs a command in the image, before the command. Pure.

    That of repo2docker copies all output through a process of its own, which would be in each
    dump; what it does beside that, a login shell and the repository's ``start``, is done here.
    """
    if config.entrypoint and config.entrypoint[0].endswith(f"/{REPO2DOCKER}"):
        start = config.env.get("R2D_ENTRYPOINT")
        return ("/bin/bash", "-l", "-c", 'exec "$0" "$@"', *((start,) if start else ()))
    return config.entrypoint


def user_of(said: str, passwd: str, group: str) -> tuple[int, int, str, str]:
    """Return user id, group id, name and home of ``USER[:GROUP]`` of an image. Root, and nobody in
    particular, is the ordinary user that sessions without an image have. Pure.

    Raises ``ImageUnusable`` when the image knows no such user.
    """
    name, _, group_name = said.partition(":")
    entries = [line.split(":") for line in passwd.splitlines() if line.count(":") >= 6]
    mine = next((one for one in entries if name and name in (one[0], one[2])), None)
    if mine is None and name and not name.isdecimal():
        raise ImageUnusable(f"its user {name!r} is not in its /etc/passwd")
    uid = int(mine[2]) if mine else int(name or 0)
    if uid == 0:
        return USER_ID, USER_ID, USER_NAME, HOME
    gid = int(mine[3]) if mine else uid
    if group_name:
        groups = [line.split(":") for line in group.splitlines() if line.count(":") >= 2]
        ids = {one[0]: one[2] for one in groups}
        found = group_name if group_name.isdecimal() else ids.get(group_name, "")
        if not found:
            raise ImageUnusable(f"its group {group_name!r} is not in its /etc/group")
        gid = int(found)
    return uid, gid or uid, mine[0] if mine else USER_NAME, mine[5] if mine else HOME


def file_in(directory: Path, layers: Iterable[str], path: str) -> str:
    """Return the content of a small regular file of an image; empty if there is none."""
    for layer in layers:
        file = directory / layer / path
        above = (
            directory / layer / Path(*Path(path).parts[:n]) for n in range(1, path.count("/") + 1)
        )
        if any(one.is_symlink() for one in above):
            return ""
        try:
            facts = os.lstat(file)
        except OSError:
            continue
        return _content(file) if stat.S_ISREG(facts.st_mode) else ""
    return ""


class ImageKernelspecs:
    """Those that a probe found in an image; ``python`` is what found them."""

    def __init__(self, image: str, python: str, found: Mapping[str, Any]) -> None:
        self._image = image
        self._python = python
        self._found = found

    def all(self) -> dict[str, Any]:
        return {
            name: {"name": name, "spec": one["spec"], "resources": one["resources"]}
            for name, one in self._found.items()
        }

    def find(self, name: str) -> tuple[dict[str, Any], Path]:
        one = self._found.get(name or "python3")
        if one is None:
            raise KernelStartFailed(
                f"{self._image} has no kernelspec {name!r}",
                hint=f"it has {', '.join(sorted(self._found)) or 'none'}",
            )
        spec = dict(one["spec"])
        argv = list(spec["argv"])
        if argv and argv[0] in ("python", "python3", Path(self._python).name):
            argv[0] = self._python  # the one it was found with, as in Jupyter
        return {**spec, "argv": argv}, Path(one["directory"])


def python_prefixes() -> tuple[Path, ...]:
    """Return the directories this Python consists of that a container's root may hide (a home, a
    virtual environment).
    """
    prefixes = dict.fromkeys(Path(p).resolve() for p in (sys.base_prefix, sys.prefix))
    return tuple(p for p in prefixes if not p.is_relative_to("/usr"))


def _content(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20)
    except OSError:
        return ""


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(0o644)
