"""Kernels as plain child processes, for nodes with neither root nor CRIU.

The workspace is a directory of the node, the shims' sockets are unix sockets. Processes are
stopped with their whole group; freezing is SIGSTOP to it, enough to copy files at one moment.
Memory is not dumped: a session's variables are saved by the ``namespace`` engine, at cell
boundaries.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sessionkeeper.agent.errors import KernelStartFailed, RestoreFailed
from sessionkeeper.agent.place import Slot


class ProcessPlace:
    """A session's processes on this node, below ``base``. See
    :class:`~sessionkeeper.agent.place.Place`.
    """

    engine = "namespace"
    excluded: frozenset[bytes] = frozenset()
    user: int | None = None

    def __init__(self, shim: Path, session: str, base: Path) -> None:
        self._shim = shim
        self._base = base
        self._session = session
        self.tree = base / "workspace"
        self.root = self.tree
        self.home = "/"
        # Unix socket paths may have 107 bytes, so the sockets lie apart from a possibly deep
        # data directory.
        self._sockets = Path(tempfile.gettempdir()) / f"sk-{os.getuid()}-{os.getpid()}-{session}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def create(self) -> None:
        self.tree.mkdir(parents=True, exist_ok=True)

    def open(self) -> None:
        (self._base / "slots").mkdir(parents=True, exist_ok=True)
        self._sockets.mkdir(mode=0o700, exist_ok=True)

    def start(self, slot: Slot, epoch: int, launch: dict[str, Any]) -> None:
        directory = self._base / "slots" / slot.name
        directory.mkdir(parents=True, exist_ok=True)
        ipc = self._sockets / slot.name
        ipc.mkdir(mode=0o700, exist_ok=True)
        configuration = directory / "config.json"
        configuration.touch(mode=0o600)
        configuration.write_text(
            json.dumps(
                {
                    **launch,
                    "listen": {"unix": str(ipc / "shim")},
                    "epoch": epoch,
                    "ipc_dir": str(ipc),
                }
            )
        )
        try:
            self._processes[slot.name] = subprocess.Popen(
                [sys.executable, str(self._shim), str(configuration)],
                cwd=self.tree,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=(directory / "shim.log").open("ab"),
                start_new_session=True,
                env={**os.environ, "HOME": str(self.tree)},
            )
        except OSError as error:
            raise KernelStartFailed(f"the shim did not start: {error}") from error

    def connect(self, slot: Slot) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self._sockets / slot.name / "shim"))
        except OSError:
            connection.close()
            raise
        return connection

    def stop(self, slot: Slot) -> None:
        process = self._processes.pop(slot.name, None)
        if process is not None:
            for pid in (process.pid, *_descendants(process.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(self._sockets / slot.name, ignore_errors=True)

    def alive(self, slot: Slot) -> bool:
        process = self._processes.get(slot.name)
        return process is not None and process.poll() is None

    def freeze(self, slots: list[Slot]) -> None:
        self._signal(slots, signal.SIGSTOP)

    def thaw(self, slots: list[Slot]) -> None:
        self._signal(slots, signal.SIGCONT)

    def dump(self, slot: Slot, images: Path) -> None:
        raise NotImplementedError("plain processes are not dumped: engine is `namespace`")

    def restore(self, slot: Slot, images: Path, epoch: int) -> None:
        raise RestoreFailed(
            "this node runs kernels as plain processes and cannot restore a process image",
            hint="a node with the `container` runtime can: `sessionkeeper doctor` says what it needs",
        )

    def close(self) -> None:
        for name in list(self._processes):
            self.stop(Slot(name, 0))
        shutil.rmtree(self._sockets, ignore_errors=True)
        shutil.rmtree(self._base, ignore_errors=True)

    def _signal(self, slots: list[Slot], number: signal.Signals) -> None:
        for slot in slots:
            process = self._processes.get(slot.name)
            if process is not None:
                for pid in (process.pid, *_descendants(process.pid)):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)


def _descendants(pid: int) -> list[int]:
    """Return the ids of all processes below ``pid``, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # Field 4 of stat(5) is the parent; the second field may hold anything, in
                # parentheses.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    todo = [pid]
    while todo:
        below = children.get(todo.pop(0), [])
        found += below
        todo += below
    return found
