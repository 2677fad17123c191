"""What clients asked and saw, and what was there in the end: what the checker is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["ok", "error", "unknown"]
"""What the client was told of a cell: it saw a good reply, a bad one, or none."""


@dataclass(frozen=True)
class Cell:
    """A request to one kernel. Cell `number` adds its number to a list in memory and to a file,
    and prints `number, how many there are now, part` for each of its `parts`.
    """

    number: int
    parts: int
    outcome: Outcome
    shown: tuple[str, ...]


@dataclass(frozen=True)
class KernelHistory:
    """One kernel: its cells in the order in which they were asked, and what was there in the end:
    the list in its memory, and the lines of its file.
    """

    name: str
    cells: tuple[Cell, ...]
    memory: tuple[int, ...]
    file: tuple[int, ...]


@dataclass(frozen=True)
class Commit:
    """A link of the chain of checkpoints."""

    number: int
    epoch: int
    gateway: str


@dataclass(frozen=True)
class Heard:
    """The session was said to run in this incarnation on this node."""

    epoch: int
    node: str


@dataclass(frozen=True)
class History:
    """All of one seed. `commits` in the order of their numbers, `heard` in that of hearing."""

    kernels: tuple[KernelHistory, ...]
    commits: tuple[Commit, ...] = ()
    heard: tuple[Heard, ...] = ()
