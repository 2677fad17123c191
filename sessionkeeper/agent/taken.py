"""What was taken of a session: a cut, and what of it is in the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from checkpoint import criu, files
from checkpoint.manifest import Body
from sessionkeeper.agent.beside import Dumped
from sessionkeeper.agent.hosted import HostedKernel


@dataclass(frozen=True)
class Cut:
    """What was copied while everything stood still. ``pause`` in seconds. Kernels are in
    ``images``, or in ``namespaces`` when their variables are in the tree.
    """

    kernels: tuple[HostedKernel, ...]
    images: Mapping[str, criu.Dump]
    tree: files.Tree
    meta: Mapping[str, Any]
    pause: float
    seconds: dict[str, float]
    namespaces: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    beside: Mapping[str, Dumped] = field(default_factory=dict)
    """Variables of kernels that are in ``images`` too."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint whose every byte is in the store; only its number is missing.

    ``stored`` are the bytes it added, ``seconds`` how long each part took.
    """

    body: Body
    pause: float
    stored: int
    seconds: dict[str, float]
