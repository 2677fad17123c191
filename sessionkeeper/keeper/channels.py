"""What a session's kernels are asked and say, as its keeper knows it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from gateway.journal import Snapshot

log = logging.getLogger(__name__)

Variables = Literal["no", "if idle", "needed"]
"""Whether there are variables beside process images: `needed`, no checkpoint without them."""


@dataclass(frozen=True)
class Position:
    """Where a kernel is: the last input its shim applied, the last output that was received."""

    applied: int
    produced: int


@dataclass(frozen=True)
class Activity:
    """How many requests that change a kernel have ended, when the last one did (monotonic seconds),
    and whether one runs.
    """

    ended: int
    at: float
    busy: bool


class Channels(Protocol):
    """The session's kernels as the gateway knows them."""

    def called(self, kernel_id: str) -> str:
        """Return what the user calls the kernel."""
        ...

    def wanted(self) -> list[dict[str, Any]]:
        """Return what a node must know of every kernel that should run (its ``kernel_id`` …)."""
        ...

    def records(self) -> dict[str, dict[str, Any]]:
        """Return what another gateway must know of every kernel to go on with it, by id: ``name``,
        ``env``, ``path``, ``notebook``, ``created``, ``generation``, ``inputs`` (the number of the
        last one there is), its ``notebook_sessions``, and whether it has ``ended``.
        """
        ...

    def snapshots(self) -> Mapping[str, Snapshot]:
        """Return what has been written down of what the kernels were asked and said, by id."""
        ...

    def lacking(self, kernels: Iterable[str]) -> list[str]:
        """Return those of which nothing has been written down here."""
        ...

    def go_back(
        self,
        records: Mapping[str, Mapping[str, Any]],
        why: str,
        *,
        other: bool = False,
        journals: Mapping[str, Path] | None = None,
        over: bool = False,
    ) -> None:
        """The session goes on from a checkpoint with these kernels: whatever they were asked since
        is answered with ``why``; those that are not known here are from now on, with what
        ``journals`` has of them (what they were asked there is not asked again if that life is
        ``over``). Doing it again changes nothing, unless the checkpoint is of an ``other`` gateway,
        which asked them more.
        """
        ...

    def refuse(self, why: str) -> None:
        """Nothing will be answered any more here: tell those who wait, and who ask. An empty text
        ends that.
        """
        ...

    def attach(
        self, kernel_id: str, send: Callable[[bytes | memoryview], None], epoch: int
    ) -> None: ...

    def detach(self, kernel_id: str) -> None: ...

    def position(self, kernel_id: str) -> Position: ...

    def release(self, kernel_id: str, position: Position) -> None:
        """A committed checkpoint contains the kernel up to ``position``, at least."""

    def give_up(self, kernel_id: str, upto: int, why: str) -> None:
        """Nothing up to the input ``upto`` will be answered any more: tell those who wait."""

    def gone(self, kernel_id: str) -> None:
        """The node says that a kernel went without a word."""

    def end(self, kernel_id: str, why: str) -> None:
        """The kernel has no process, and gets none by itself: tell those who wait, and who ask."""
        ...

    def activity(self) -> Activity:
        """Return what has happened in the kernels."""
        ...

    def pending(self) -> bool:
        """Whether a kernel was asked something that has not reached it."""
        ...
