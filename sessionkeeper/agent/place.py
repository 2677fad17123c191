"""The seam between a session on a node and the way its kernels run there.

Two implementations: :class:`~sessionkeeper.agent.container.ContainerPlace` (``runc`` and CRIU,
needs root) and :class:`~sessionkeeper.agent.process.ProcessPlace` (plain child processes). One
contract suite runs on both.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from checkpoint.criu import Dump, Known, Lazy
from sessionkeeper.agent.arrival import Arrival
from sessionkeeper.agent.kernelspecs import Specs


@dataclass(frozen=True)
class Slot:
    """One kernel's place: the name of its container or process, and the port its shim listens on.

    Both are part of a checkpoint, as a restored shim listens where it listened before.
    """

    name: str
    port: int


@dataclass(frozen=True)
class Exchange:
    """Where a kernel and this program find each other's files.

    ``directory`` is the kernel's to write, and ``given`` to read only: as the node sees them; for
    the kernel they are ``seen`` and ``seen_given``. ``inside`` is where the kernel finds
    ``checkpoint.namespace.engine.INSIDE``.
    """

    directory: Path
    seen: Path
    given: Path
    seen_given: Path
    inside: Path


class Place(Protocol):
    """Where one session's kernels run on this node. All calls block; all may raise
    ``SessionkeeperError``.
    """

    engine: str
    """``criu``: :meth:`dump` and :meth:`restore` work. ``namespace``: they do not."""

    tree: Path
    """What a checkpoint saves of the file system."""

    excluded: frozenset[bytes]
    """Paths relative to ``tree`` that it leaves out."""

    root: Path
    """What the kernels see as their root directory, as the node sees it."""

    home: str
    """The workspace's directory, below ``root``."""

    memory: int | None
    """Bytes of memory that the session may use; None: nobody limits it."""

    user: int | None
    """The user id that owns what the session writes; None: this process's own."""

    lazy_above: int | None
    """A kernel with more memory than so many bytes is better restored lazily; None: none is."""

    kernelspecs: Specs
    """The kernels that can be started here."""

    def seen(self, path: str) -> str:
        """Return how the kernels name what is at ``path``, an absolute one below ``root``."""
        ...

    def create(self) -> None:
        """Make the tree of a new session. It is then filled, or a checkpoint's tree is put in its
        place.
        """

    def take_workspace(self) -> None:
        """Make the workspace's files the session's user's: they come from another runtime."""

    def open(self) -> None:
        """Make the place usable, once its tree is there: mount, network."""

    def resume(self, kept: list[Slot]) -> None:
        """Go on with ``kept``, and nothing else, of what another process of this node left."""

    def reach_out(self) -> None:
        """Give the kernels a way to the outside, where the place has none by itself."""

    def start(self, slot: Slot, epoch: int, launch: dict[str, Any]) -> None:
        """Start a shim in ``slot``. ``launch`` is its configuration but for what depends on the
        place.
        """

    def connect(self, slot: Slot) -> socket.socket:
        """Return a connected socket to the shim in ``slot``. Raises OSError while it does not
        listen.
        """
        ...

    def stop(self, slot: Slot) -> None:
        """Kill everything in ``slot``, frozen or not."""

    def alive(self, slot: Slot) -> bool:
        """Return whether the shim in ``slot`` is there."""
        ...

    def runs(self, slot: Slot, pid: int) -> bool:
        """Return whether the process runs that the shim in ``slot`` knows as ``pid``."""
        ...

    def ran_out(self, slot: Slot) -> bool:
        """Return whether a process in ``slot`` was killed because memory had run out."""
        ...

    def freeze(self, slots: list[Slot]) -> None:
        """Stop the processes in ``slots`` where they stand."""

    def thaw(self, slots: list[Slot]) -> None:
        """Let them go on."""

    def written_through(self, slots: list[Slot]) -> frozenset[bytes]:
        """Return the files, relative to ``tree``, that the processes in ``slots`` have mapped to
        write into.
        """
        ...

    def in_use(self, slots: list[Slot]) -> frozenset[bytes]:
        """Return the files and directories, relative to ``tree``, that the processes in ``slots``
        have open, mapped, or as their working directory.
        """
        ...

    def interrupt(self, slot: Slot) -> None:
        """Interrupt the kernel in ``slot``, which stands still, in what it is in the middle of: it
        does nothing more of it when it goes on.
        """

    def exchange(self, slot: Slot) -> Exchange:
        """Return where the kernel in ``slot`` and this program leave files for each other."""
        ...

    def processes(self, slot: Slot) -> list[int]:
        """Return the ids of the processes in ``slot`` whose memory may be read as they run."""
        ...

    def dump_size(self, slots: list[Slot]) -> int:
        """Return how many bytes a dump of ``slots`` takes, about: it changes while they run."""
        ...

    def dump(
        self, slot: Slot, images: Path, known: Known | None = None, room: Path | None = None
    ) -> Dump:
        """Take the image of the frozen processes in ``slot``: its files into the new directory
        ``images``, its memory, but what is ``known``, into the file ``room``, if there is one.
        """
        ...

    def restore(self, slot: Slot, images: Path, epoch: int) -> None:
        """Bring back what :meth:`dump` wrote, under ``epoch``; it stands still until
        :meth:`thaw`.
        """

    def restore_lazily(self, slot: Slot, image: Lazy, epoch: int) -> Arrival:
        """As :meth:`restore`, for a kernel that goes on before its memory is there; where
        :attr:`lazy_above` is set.
        """
        ...

    def close(self) -> None:
        """Kill everything and leave nothing of the session on the node."""
