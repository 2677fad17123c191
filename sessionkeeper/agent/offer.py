"""What this node offers: where sessions are put, and where their images lie."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from gateway.shim_archive import build_shim
from sessionkeeper.agent.container import ContainerPlace, NodeContainers
from sessionkeeper.agent.errors import NodeSetupFailed
from sessionkeeper.agent.images import NodeImages
from sessionkeeper.agent.inside import look_inside
from sessionkeeper.agent.kernelspecs import Kernelspecs, Specs
from sessionkeeper.agent.place import Place
from sessionkeeper.agent.process import ProcessPlace, sweep_sockets
from sessionkeeper.agent.runc import Runc
from sessionkeeper.cpu import NodeCpu, this_node
from sessionkeeper.cpu_levels import knobs
from sessionkeeper.criu import find, restores_lazily
from sessionkeeper.errors import CriuMissing
from sessionkeeper.images.errors import ImageUnusable
from sessionkeeper.nodes import cgroups
from sessionkeeper.settings import AgentSettings

log = logging.getLogger(__name__)

IMAGES_SHARE = "60%"
"""Of the machine's memory, what process images on their way may take at most."""


MEMORY_SHARE = 0.7
"""Of the machine's memory, what one kernel may use when nobody says."""


class Offer(Protocol):
    """Makes places for sessions on this node."""

    engine: str
    cpu: NodeCpu
    lazy_above: int | None
    """As of its places."""

    images_here: NodeImages | None
    """The container images on this node; None: it runs none."""

    kernelspecs: Specs
    """Of sessions without an image."""

    def place(
        self, session: str, epoch: int, limit: int | None = None, image: str | None = None
    ) -> Place:
        """Return an empty place, whatever an earlier epoch left. Where memory can be limited, its
        kernels may use ``limit`` bytes (None: what the node allows). Its root is ``image``, which
        is here; None: what this node has. Raises ``ImageError``.
        """
        ...

    def images(self, session: str, epoch: int) -> Path:
        """Return a directory in memory (if the node can) for process images."""
        ...


class ContainerOffer:
    """Containers, on a node where this process is root."""

    engine = "criu"
    kernelspecs: Specs = Kernelspecs()

    def __init__(self, settings: AgentSettings) -> None:
        self.cpu = this_node(settings.cpu_baseline, settings.cpu_most)
        data = settings.data
        data.mkdir(parents=True, exist_ok=True)
        data.chmod(0o711)  # the kernels' user passes through it to its root file system
        criu = settings.criu or _criu()
        self._sessions = data / "sessions"
        self._images = data / "images"
        _mount_tmpfs(self._images)
        self.lazy_above = settings.lazy_above if restores_lazily(criu) else None
        group = settings.cgroup or f"/sessionkeeper/{settings.node}"
        for what in cgroups.limit(group, settings.offered_cores, settings.offered_memory):
            log.warning("the %s that sessions use cannot be limited on this machine", what)
        most = min(int(MEMORY_SHARE * memory()), settings.offered_memory or memory())
        self._node = NodeContainers(
            runc=Runc(data / "runc", criu),
            shim=build_shim(data / "shim.pyz"),
            cgroup=group,
            memory=settings.memory_bytes or most,
            hidden=(data,),
            env=knobs(self.cpu.level) if self.cpu.level else {},
            lazy_above=self.lazy_above,
        )
        # Not on the tmpfs: it is the disk that layers are shared on.
        self.images_here: NodeImages | None = NodeImages(
            data / "layers",
            settings.gateway_url,
            self._node.runc,
            _mounted(settings),
        )

    def place(
        self, session: str, epoch: int, limit: int | None = None, image: str | None = None
    ) -> Place:
        memory = min(filter(None, (limit, self._node.memory)), default=None)
        node = replace(self._node, memory=memory)
        root = self.images_here.root(image) if image and self.images_here else None
        return ContainerPlace(node, session, self._sessions / f"{session}-{epoch}", root)

    def images(self, session: str, epoch: int) -> Path:
        return self._images / f"{session}-{epoch}"


class ProcessOffer:
    """Plain processes."""

    engine = "namespace"
    lazy_above: int | None = None
    images_here: NodeImages | None = None
    kernelspecs: Specs = Kernelspecs()

    def __init__(self, settings: AgentSettings) -> None:
        self.cpu = this_node(settings.cpu_baseline, settings.cpu_most)
        settings.data.mkdir(parents=True, exist_ok=True)
        self._data, self._memory = settings.data, settings.memory_bytes
        self._image = settings.inside
        self._inside = look_inside(settings.inside) if settings.inside else None
        if self._inside is not None:
            self.kernelspecs = self._inside.kernelspecs
        self._shim = build_shim(settings.data / "shim.pyz")
        sweep_sockets(settings.data)

    def place(
        self, session: str, epoch: int, limit: int | None = None, image: str | None = None
    ) -> Place:
        if image and image != self._image:
            raise ImageUnusable(f"a node of plain processes cannot run {image}")
        if self._inside is not None and self._inside.unusable is not None:
            raise self._inside.unusable
        base = self._data / "sessions" / f"{session}-{epoch}"
        for left in base.parent.glob(f"{session}-*"):
            if left.name.rpartition("-")[0] == session and left != base:
                ProcessPlace(self._shim, session, left).close()
        memory = min(filter(None, (limit, self._memory)), default=None)
        place = ProcessPlace(self._shim, session, base, memory)
        if self._inside is not None:
            place.python, place.kernelspecs = self._inside.python, self._inside.kernelspecs
        return place

    def images(self, session: str, epoch: int) -> Path:
        return self._data / "images" / f"{session}-{epoch}"


def offer(settings: AgentSettings) -> Offer:
    """Return what the settings ask for. Raises ``SessionkeeperError`` when this node cannot."""
    return ContainerOffer(settings) if settings.runtime == "container" else ProcessOffer(settings)


def _mounted(settings: AgentSettings) -> dict[str, Path]:
    if settings.mounted_image is None or settings.mounted_at is None:
        return {}
    return {settings.mounted_image: settings.mounted_at}


def _criu() -> Path:
    found = find()
    if found is None:
        raise CriuMissing("no criu was found on this node")
    return found.path


def _mount_tmpfs(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, exist_ok=True)
    if os.path.ismount(directory):
        return
    # Huge pages make a dump three times as fast: 1 GB in 0.4 s instead of 1.4 s (measured). Where
    # they fit into a file: an image has some sixty small ones, which would have 2 MiB each.
    most = f"size={IMAGES_SHARE},mode=700"
    for options in (f"{most},huge=within_size", most):
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "images", str(directory)],
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            return
    raise NodeSetupFailed(f"no memory for process images: {done.stderr.strip()}")


def memory() -> int:
    """Return the bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def machine() -> str | None:
    """Return what tells this machine, since it was started, from others: nodes of one share its
    processors (random(4)). None where that is not told.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
