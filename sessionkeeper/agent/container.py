"""Kernels in containers: one overlay and one network namespace per session, one ``runc`` container
per kernel.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

from checkpoint import criu
from checkpoint.criu import Dump, Known, Lazy
from checkpoint.namespace.engine import INSIDE
from sessionkeeper.agent import rootfs
from sessionkeeper.agent.arrival import Arrival
from sessionkeeper.agent.errors import NodeSetupFailed
from sessionkeeper.agent.held import kernel_among, let_go, runs, send, stopped_by_signal
from sessionkeeper.agent.mappings import in_use, own_memory, processes_of, written_through
from sessionkeeper.agent.namespaces import connect_in
from sessionkeeper.agent.oci import (
    CONTROL_DIR,
    IPC_DIR,
    Bind,
    Container,
)
from sessionkeeper.agent.place import Exchange, Slot
from sessionkeeper.agent.roots import HostRoot, Root
from sessionkeeper.agent.runc import Runc
from sessionkeeper.nodes import cgroups
from sessionkeeper.nodes.cgroups import hierarchies
from sessionkeeper.nodes.network import End, default_route, forward, masquerade, uplinks, veth

log = logging.getLogger(__name__)

EPOCH_DIGITS = 10

MOST_LINES = 1 << 14
"""Networks of four addresses in 10.254.0.0/16."""

STARTUP_FILES = ("boot.py", "kernel.json")
"""What a kernel reads beside its sockets while it starts, and it may be dumped before it has."""

STARTUP_BYTES = 1 << 20


@dataclass(frozen=True)
class NodeContainers:
    """What all sessions' containers on a node share. ``memory`` (bytes) limits a session, ``env``
    is in the environment of all processes; a kernel with more than ``lazy_above`` (bytes) is
    restored lazily.
    """

    runc: Runc
    shim: Path
    cgroup: str
    memory: int | None = None
    hidden: tuple[Path, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    lazy_above: int | None = None

    lines: Lines = field(default_factory=lambda: Lines())


class Lines:
    """The links between this node and its sessions' network namespaces: each has a number of its
    own, which is noted in the session's directory, for an agent that comes after this one.
    """

    def __init__(self) -> None:
        self._taking = threading.Lock()

    def of(self, base: Path) -> int:
        """Return the number of the session in ``base``, beside which the others are. Raises
        ``NodeSetupFailed`` when there are too many.
        """
        with self._taking:
            taken = {_number(file): file.parent for file in base.parent.glob(f"*/{_LINE}")}
            for number, place in taken.items():
                if place == base:
                    return number
            free = next((n for n in range(MOST_LINES) if n not in taken), None)
            if free is None:
                raise NodeSetupFailed(f"there are {MOST_LINES} sessions on this node")
            (base / _LINE).write_text(str(free))
            return free


_LINE = "line"


def _number(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return -1


def _ends(number: int) -> tuple[IPv4Interface, IPv4Interface]:
    """The addresses of the node's and of the session's end."""
    first = (10 << 24) + (254 << 16) + 4 * number
    return IPv4Interface((first + 1, 30)), IPv4Interface((first + 2, 30))


class ContainerPlace:
    """A session's containers on this node, below ``base``. See
    :class:`~sessionkeeper.agent.place.Place`.
    """

    engine = "criu"

    def __init__(
        self, node: NodeContainers, session: str, base: Path, root: Root | None = None
    ) -> None:
        """``root`` is what is below the session's own layer; None: this node's own root."""
        self._node = node
        self._below = root or HostRoot(node.hidden)
        self._new = False
        self.home = self._below.workspace
        self.user: int | None = self._below.user
        self.kernelspecs = self._below.kernelspecs
        self._prefix = f"{session}+"  # of containers' names; no session's name has a plus
        self._base = base
        self._layers = rootfs.Layers(base)
        self._network = f"sk-{base.name}"
        self._cgroup = f"{node.cgroup}/{session}"
        self.memory = node.memory
        self.tree = self._layers.upper
        self.root = self._layers.root
        self._stopped: dict[str, dict[int, int]] = {}
        """Of frozen slots: the processes that a signal had stopped."""
        self._held: dict[str, frozenset[int]] = {}
        """Of restored slots that were not let go: which processes were stopped at the dump."""
        self.lazy_above = node.lazy_above
        self.excluded = frozenset(p.lstrip("/").encode() for p in rootfs.NOT_SAVED)

    def seen(self, path: str) -> str:
        return path

    def create(self) -> None:
        self._below.create(self._layers.upper)
        self._new = True

    def take_workspace(self) -> None:
        rootfs.give_home(self._layers.upper)

    def open(self) -> None:
        self._end_containers()  # a machine that is very busy may have left one of an earlier stay
        self._below.mount(self._layers)
        if self._new:
            self._below.take(self._layers)
        self._ip("netns", "add", self._network)
        self._ip("-n", self._network, "link", "set", "lo", "up")

    def resume(self, kept: list[Slot]) -> None:
        names = {self._name(slot) for slot in kept}
        for name in self._node.runc.names():
            if name.startswith(self._prefix) and name not in names:
                self._node.runc.delete(name)

    def reach_out(self) -> None:
        number = self._node.lines.of(self._base)
        outside, inside = _ends(number)
        network = Path("/run/netns") / self._network
        link = f"sk{number}"
        masquerade(link, inside.network, inside=link)  # first: at no time can others reach it
        veth(End(link, None, outside), End("eth0", network, inside))
        default_route(outside.ip, network)
        forward(link, *uplinks())

    def start(self, slot: Slot, epoch: int, launch: dict[str, Any]) -> None:
        control = self._prepare(slot, epoch)
        shim = {
            **launch,
            "listen": {"tcp": ["127.0.0.1", slot.port]},
            "epoch_file": f"{CONTROL_DIR}/epoch",
            "ipc_dir": IPC_DIR,
        }
        configuration = control / "config.json"
        configuration.write_text(json.dumps(shim))
        os.chown(configuration, 0, self._below.group)
        configuration.chmod(0o440)
        self._node.runc.run(self._container(slot))
        self._limit()

    def _limit(self) -> None:
        """All kernels together may use what each may: their common group exists with the first."""
        if self.memory is not None:
            try:
                cgroups.limit_memory(self._cgroup, self.memory)
            except OSError as error:
                log.warning("the session's kernels may use more than they should: %s", error)

    def ran_out(self, slot: Slot) -> bool:
        return cgroups.ran_out(self._container(slot).cgroup)

    def connect(self, slot: Slot) -> socket.socket:
        return connect_in(Path("/run/netns") / self._network, ("127.0.0.1", slot.port), timeout=2.0)

    def stop(self, slot: Slot) -> None:
        self._node.runc.delete(self._name(slot))
        shutil.rmtree(self._directory(slot), ignore_errors=True)

    def alive(self, slot: Slot) -> bool:
        return self._node.runc.alive(self._name(slot))

    def runs(self, slot: Slot, pid: int) -> bool:
        return runs(self._processes([slot]), pid)

    def freeze(self, slots: list[Slot]) -> None:
        for slot in slots:
            self._node.runc.pause(self._container(slot))
            self._stopped[slot.name] = stopped_by_signal(self._processes([slot]))
            send(signal.SIGCONT, self._stopped[slot.name])

    def thaw(self, slots: list[Slot]) -> None:
        for slot in slots:
            send(signal.SIGSTOP, self._stopped.pop(slot.name, ()))
            self._node.runc.resume(self._container(slot))
            if (stopped := self._held.pop(slot.name, None)) is not None:
                let_go(self._processes([slot]), stopped)

    def written_through(self, slots: list[Slot]) -> frozenset[bytes]:
        return written_through(self._processes(slots))

    def in_use(self, slots: list[Slot]) -> frozenset[bytes]:
        return in_use(self._processes(slots))

    def _processes(self, slots: list[Slot]) -> list[int]:
        return [pid for slot in slots for pid in processes_of(self._container(slot).cgroup)]

    def interrupt(self, slot: Slot) -> None:
        kernel = kernel_among(self._processes([slot]))
        if kernel is not None:
            send(signal.SIGINT, [kernel])  # it is seen first when it is continued

    def exchange(self, slot: Slot) -> Exchange:
        control, ipc = (self._directory(slot) / name for name in ("control", "ipc"))
        return Exchange(
            ipc, Path(IPC_DIR), control, Path(CONTROL_DIR), Path(CONTROL_DIR) / INSIDE.name
        )

    def processes(self, slot: Slot) -> list[int]:
        return self._processes([slot])

    def dump_size(self, slots: list[Slot]) -> int:
        return sum(own_memory(pid) for pid in self._processes(slots))

    def dump(
        self, slot: Slot, images: Path, known: Known | None = None, room: Path | None = None
    ) -> Dump:
        dump = self._node.runc.dump(self._container(slot), images, known, room)
        self._note(slot, images)
        return dump

    def dump_plainly(self, slot: Slot, images: Path) -> None:
        """As :meth:`dump`, as ``runc`` does it: :meth:`restore` takes what is in ``images``."""
        self._node.runc.dump_whole(self._container(slot), images)
        self._note(slot, images)

    def _note(self, slot: Slot, images: Path) -> None:
        criu.note_stopped(images, self._stopped.get(slot.name, {}).values())
        for name in STARTUP_FILES:
            content = _own_small_file(self._directory(slot) / "ipc" / name)
            if content is not None:
                (images / f"ipc-{name}").write_bytes(content)

    def restore(self, slot: Slot, images: Path, epoch: int) -> None:
        self._prepare_restore(slot, images, epoch)
        self._node.runc.restore(self._container(slot), images)
        self._limit()
        self._held[slot.name] = criu.stopped_processes(images)

    def restore_lazily(self, slot: Slot, image: Lazy, epoch: int) -> Arrival:
        self._prepare_restore(slot, image.directory, epoch)
        container, runc = self._container(slot), self._node.runc
        groups = [str(root / container.cgroup.strip("/")) for root in hierarchies()]
        arrival = Arrival(slot.name, image, runc.work(image.directory), groups)
        try:
            runc.restore(container, image.directory, lazy=True)
            self._limit()
        except BaseException:
            arrival.give_up()
            raise
        self._held[slot.name] = criu.stopped_processes(image.directory)
        return arrival

    def _prepare_restore(self, slot: Slot, images: Path, epoch: int) -> None:
        self._prepare(slot, epoch)
        for name in STARTUP_FILES:
            if (images / f"ipc-{name}").exists():
                file = self._directory(slot) / "ipc" / name
                shutil.copyfile(images / f"ipc-{name}", file)
                os.chown(file, self._below.user, self._below.group)
                file.chmod(0o600)

    def close(self) -> None:
        self._end_containers()
        cgroups.remove(self._cgroup)
        rootfs.unmount(self._layers)
        subprocess.run(["ip", "netns", "delete", self._network], capture_output=True)
        if (self._base / _LINE).exists():
            link = f"sk{self._node.lines.of(self._base)}"
            # With its namespace it goes some time later: who has this number next needs the name.
            subprocess.run(["ip", "link", "delete", link], capture_output=True)
            subprocess.run(["nft", "delete", "table", "ip", link], capture_output=True)
        shutil.rmtree(self._base, ignore_errors=True)

    def _end_containers(self) -> None:
        for name in self._node.runc.names():
            if name.startswith(self._prefix):
                self._node.runc.delete(name)

    def _name(self, slot: Slot) -> str:
        return f"{self._prefix}{slot.name}"

    def _directory(self, slot: Slot) -> Path:
        return self._base / "slots" / slot.name

    def _prepare(self, slot: Slot, epoch: int) -> Path:
        control = self._directory(slot) / "control"
        ipc = self._directory(slot) / "ipc"
        control.mkdir(parents=True, exist_ok=True)
        ipc.mkdir(exist_ok=True)
        os.chown(ipc, self._below.user, self._below.group)
        # Same size for every epoch: CRIU compares the size of open files at restore.
        (control / "epoch").write_text(f"{epoch:0{EPOCH_DIGITS}d}")
        shutil.copyfile(self._node.shim, control / "shim.pyz")
        # Where this program is installed need not be visible in the container.
        without = shutil.ignore_patterns("__pycache__")
        shutil.copytree(INSIDE, control / INSIDE.name, ignore=without, dirs_exist_ok=True)
        return control

    def _container(self, slot: Slot) -> Container:
        directory = self._directory(slot)
        return Container(
            name=self._name(slot),
            rootfs=self._layers.root,
            network=Path("/run/netns") / self._network,
            cgroup=f"{self._cgroup}/{self._name(slot)}",
            argv=self._below.argv(),
            env={**self._below.env(), **self._node.env},
            binds=(
                *self._below.binds(),
                Bind(directory / "control", CONTROL_DIR),
                Bind(directory / "ipc", IPC_DIR, writable=True),
            ),
            memory=self._node.memory,
            user=self._below.user,
            group=self._below.group,
            user_name=self._below.user_name,
            home=self._below.home,
            cwd=self._below.workspace,
        )

    def _ip(self, *arguments: str) -> None:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
        if done.returncode:
            raise NodeSetupFailed(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _own_small_file(path: Path) -> bytes | None:
    """The content of a regular file in a directory that user code can write to."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > STARTUP_BYTES:
            return None
        return file.read(STARTUP_BYTES)
