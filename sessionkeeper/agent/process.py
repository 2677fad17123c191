"""Kernels as plain child processes, for nodes with neither root nor CRIU.

The session's tree is a directory of the node; below it are the workspace, and what the kernels
write of their variables for a checkpoint (:mod:`sessionkeeper.agent.variables`), as their memory
is not dumped. The shim has its slot's mark in its environment and stays the ancestor of all that
its kernel starts: so all of a slot is found, by another agent process too, wherever it went.
Freezing is SIGSTOP to each, enough to copy files at one moment.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from checkpoint.criu import Dump, Known, Lazy
from checkpoint.namespace.engine import INSIDE, LENT
from sessionkeeper.agent.arrival import Arrival
from sessionkeeper.agent.errors import KernelStartFailed, NodeSetupFailed, RestoreFailed
from sessionkeeper.agent.kernelspecs import Kernelspecs, Specs
from sessionkeeper.agent.mappings import below, in_use, written_through
from sessionkeeper.agent.place import Exchange, Slot
from sessionkeeper.nodes.local import erase
from sessionkeeper.nodes.processes import PART, end_all, parents

OURS = "SESSIONKEEPER_"
MARK = f"{OURS}SLOT"
HOME = "/workspace"

LONGEST_SOCKET = 107
"""Bytes in the path of a unix socket (unix(7))."""

# PR_SET_CHILD_SUBREAPER (prctl(2)): what daemonises stays a descendant of the shim.
BOOT = """import ctypes, runpy, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")"""

STOP_SECONDS = 1.0
"""A process that does not stand by then waits for a disk, and changes nothing meanwhile."""

NEVER_USED = 256 << 20
"""Bytes that count for a limit and take no memory: stacks of threads, most of all (a fresh kernel
that has imported numpy uses 80 MB, and 236 MB count)."""

BELOW_SOCKETS = len("/12345678-42000/shim")


class ProcessPlace:
    """A session's processes on this node, below ``base``. See
    :class:`~sessionkeeper.agent.place.Place`.
    """

    engine = "namespace"
    excluded: frozenset[bytes] = frozenset()
    user: int | None = None
    home = HOME
    kernelspecs: Specs = Kernelspecs()
    python = sys.executable
    """What runs the shim."""
    lazy_above: int | None = None

    def __init__(self, shim: Path, session: str, base: Path, memory: int | None = None) -> None:
        self._shim = shim
        self.memory = memory
        self._base = base
        self._session = session
        self.tree = base / "tree"
        self.root = self.tree
        self._slots = base / "slots"
        self._sockets = _sockets(base)
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def create(self) -> None:
        self.tree.mkdir(parents=True, exist_ok=True)

    def take_workspace(self) -> None:
        """Files have the owners that this process can give them."""

    def open(self) -> None:
        self._slots.mkdir(parents=True, exist_ok=True)
        Path(self.seen(HOME)).mkdir(parents=True, exist_ok=True)
        _own_directory(self._sockets)
        (self._sockets / "base").write_text(str(self._base))

    def resume(self, kept: list[Slot]) -> None:
        for name in set(os.listdir(self._slots)) - {slot.name for slot in kept}:
            self.stop(Slot(name, 0))

    def reach_out(self) -> None:
        """The kernels are where this process is."""

    def seen(self, path: str) -> str:
        return f"{self.tree}{path}".rstrip("/")

    def start(self, slot: Slot, epoch: int, launch: dict[str, Any]) -> None:
        directory, sockets = self._slots / slot.name, self._sockets / slot.name
        directory.mkdir(parents=True, exist_ok=True)
        sockets.mkdir(mode=0o700, exist_ok=True)
        configuration = directory / "config.json"
        configuration.touch(mode=0o600)
        listen = {"unix": str(sockets / "shim")}
        configuration.write_text(
            json.dumps({**launch, "listen": listen, "epoch": epoch, "ipc_dir": str(sockets)})
        )
        workspace = self.seen(HOME)
        ours = (OURS, "KG_AUTH_TOKEN")
        kept = {k: v for k, v in os.environ.items() if k == PART or not k.startswith(ours)}
        lent = os.pathsep.join([*filter(None, [kept.get("PYTHONPATH")]), str(INSIDE / LENT)])
        try:
            with (directory / "shim.log").open("ab") as words:
                child = subprocess.Popen(
                    [self.python, "-E", "-c", BOOT, str(self._shim), str(configuration)],
                    cwd=workspace,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=words,
                    start_new_session=True,
                    env={**kept, "HOME": workspace, "PYTHONPATH": lent, MARK: self._mark(slot)},
                )
        except OSError as error:
            raise KernelStartFailed(f"the shim did not start: {error}") from error
        if self.memory is not None:
            # Private memory that can be written to (setrlimit(2)), of each process by itself: a
            # cell that wants more gets a MemoryError.
            most = self.memory + NEVER_USED
            resource.prlimit(child.pid, resource.RLIMIT_DATA, (most, most))
        self._children[slot.name] = child
        (directory / "pid").write_text(str(child.pid))

    def connect(self, slot: Slot) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self._sockets / slot.name / "shim"))
        except OSError:
            connection.close()
            raise
        return connection

    def stop(self, slot: Slot) -> None:
        end_all(lambda: self._processes(slot))
        child = self._children.pop(slot.name, None)
        if child is not None:
            child.wait()
        shutil.rmtree(self._sockets / slot.name, ignore_errors=True)
        shutil.rmtree(self._slots / slot.name, ignore_errors=True)

    def alive(self, slot: Slot) -> bool:
        child = self._children.get(slot.name)
        if child is not None:
            return child.poll() is None
        try:
            pid = int((self._slots / slot.name / "pid").read_text())
        except (OSError, ValueError):
            return False
        return _has(pid, f"{self._mark(slot)}\0")

    def runs(self, slot: Slot, pid: int) -> bool:
        return _state(pid) not in "ZX"

    def ran_out(self, slot: Slot) -> bool:
        return False  # nobody kills here for it

    def freeze(self, slots: list[Slot]) -> None:
        stopped: set[int] = set()
        # Once more until there is nothing new: none can fork its way out.
        while fresh := self._processes(*slots) - stopped:
            _stop(fresh)
            stopped |= fresh

    def thaw(self, slots: list[Slot]) -> None:
        _signal(self._processes(*slots), signal.SIGCONT)

    def written_through(self, slots: list[Slot]) -> frozenset[bytes]:
        return below(written_through(self._processes(*slots)), self.tree)

    def in_use(self, slots: list[Slot]) -> frozenset[bytes]:
        return below(in_use(self._processes(*slots)), self.tree)

    def interrupt(self, slot: Slot) -> None:
        """It is in the middle of nothing: it was saved between two cells."""

    def exchange(self, slot: Slot) -> Exchange:
        directory, given = (self._slots / slot.name / name for name in ("exchange", "given"))
        for one in (directory, given):
            one.mkdir(parents=True, exist_ok=True)
        return Exchange(directory, directory, given, given, INSIDE)

    def processes(self, slot: Slot) -> list[int]:
        return []

    def dump_size(self, slots: list[Slot]) -> int:
        return 0

    def dump(
        self, slot: Slot, images: Path, known: Known | None = None, room: Path | None = None
    ) -> Dump:
        raise NotImplementedError("plain processes are not dumped: engine is `namespace`")

    def restore(self, slot: Slot, images: Path, epoch: int) -> None:
        raise RestoreFailed(
            "this node runs kernels as plain processes and cannot restore a process image",
            hint="a node with the `container` runtime can: see `sessionkeeper doctor`",
        )

    def restore_lazily(self, slot: Slot, image: Lazy, epoch: int) -> Arrival:
        raise NotImplementedError("plain processes are not restored: `lazy_above` is None")

    def close(self) -> None:
        children = list(self._children.items())  # one may just be started: see the next close
        end_all(lambda: _descending(f"{self._slots}/"))
        for name, child in children:
            child.wait()
            self._children.pop(name, None)
        shutil.rmtree(self._sockets, ignore_errors=True)
        with contextlib.suppress(OSError):
            erase(self._base)

    def _mark(self, slot: Slot) -> str:
        return f"{self._slots}/{slot.name}"

    def _processes(self, *slots: Slot) -> set[int]:
        return _descending(*(f"{self._mark(slot)}\0" for slot in slots))


def _descending(*marks: str) -> set[int]:
    """Return the processes whose mark begins with one of ``marks``, and all that descend from
    them.
    """
    table = parents()
    found = {pid for pid in table if any(_has(pid, mark) for mark in marks)}
    grown = found
    while grown:
        grown = {pid for pid, parent in table.items() if parent in grown} - found
        found |= grown
    return found


def _has(pid: int, mark: str) -> bool:
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return os.fsencode(f"\0{MARK}={mark}") in b"\0" + environ


def _stop(pids: set[int]) -> None:
    """SIGSTOP, and wait until they stand: the signal only asks for it."""
    _signal(pids, signal.SIGSTOP)
    until = time.monotonic() + STOP_SECONDS
    for pid in pids:
        while _state(pid) not in "TtZX" and time.monotonic() < until:
            time.sleep(0.0005)


def _state(pid: int) -> str:
    try:
        # The name between the parentheses may itself hold spaces and parentheses.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _signal(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _sockets(base: Path) -> Path:
    """Return where the sockets of the place at ``base`` are: there, unless that path is too long
    for sockets.
    """
    near = base / "sockets"
    if len(os.fsencode(near)) + BELOW_SOCKETS <= LONGEST_SOCKET:
        return near
    name = hashlib.sha256(os.fsencode(base)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"{_prefix()}{name}"


def _prefix() -> str:
    return f"sk-{os.geteuid()}-"


def sweep_sockets(data: Path) -> None:
    """Remove what places below ``data`` left elsewhere before their node lost its data."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_prefix()}*"):
        with contextlib.suppress(OSError):
            base = Path((directory / "base").read_text())
            if base.is_relative_to(data) and not base.exists():
                shutil.rmtree(directory)


def _own_directory(path: Path) -> None:
    """Make a directory that nobody else can enter. Raises :class:`NodeSetupFailed`."""
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise NodeSetupFailed(f"{path} is there already and is open to others")
