"""The seam: who starts and stops compute for a session, and says what there is.

A backend keeps no record of its own: what there is, is asked of where it runs. So a gateway that
was killed between any two steps finds afterwards what it had begun, and nothing is forgotten.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from sessionkeeper.errors import SessionkeeperError
from sessionkeeper.notices.notice import Notice

__all__ = ["Compute", "ComputeBackend", "ComputeFailed", "ComputeRefused", "Found", "Phase"]

Phase = Literal["starting", "running", "ending", "ended"]
"""``starting``: asked for, not there yet. ``ending``: told to stop. ``ended``: only its record is
left."""


class ComputeFailed(SessionkeeperError):
    """Compute could not be started, stopped or listed now. ``after``: seconds that whoever said so
    wants to be left alone for.
    """

    code = "compute_failed"
    retryable = True
    hint = "it is tried again"

    def __init__(self, message: str, *, hint: str | None = None, after: float = 0.0) -> None:
        super().__init__(message, hint=hint)
        self.after = after


class ComputeRefused(ComputeFailed):
    """What was asked for will not be had by asking again. ``status``: as HTTP has it, if it was."""

    code = "compute_refused"
    retryable = False
    hint = "what is asked for is wrong, or this gateway may not have it: see the backend's settings"
    status = 0


@dataclass(frozen=True)
class Compute:
    """One node to be, for one session alone. ``name`` is the node's and the backend's; starting it
    twice is starting it once. ``guarantee`` and ``limit`` are bytes of memory (0, None: what the
    backend's settings say). ``token`` is what its agent shows the gateway.
    """

    name: str
    session: str
    tier: str = "on-demand"
    image: str | None = None
    guarantee: int = 0
    limit: int | None = None
    token: str = field(default="", repr=False)


@dataclass(frozen=True)
class Found:
    """Compute that there is. ``why`` says why it is not running yet, or how it ended;
    ``machine`` is what it runs on, where that has a name. ``notice``: it will go.
    """

    name: str
    session: str
    tier: str
    phase: Phase
    why: str = ""
    machine: str | None = None
    notice: Notice | None = None


class ComputeBackend(Protocol):
    """Each method may raise :class:`ComputeFailed`; after :class:`ComputeRefused` asking again
    does not help.
    """

    @property
    def tiers(self) -> Mapping[str, float]:
        """Those it has, each with the seconds that compute there may take to run before another
        one is tried.
        """
        ...

    async def start(self, wanted: Compute) -> None:
        """Ask for it. Returns as soon as it is asked for; idempotent by name."""
        ...

    async def stop(self, name: str, *, at_once: bool = False) -> None:
        """Tell it to end; what is not there is stopped already. ``at_once``: without any grace, and
        as if it were gone though nobody can tell.
        """
        ...

    async def prepare(self, images: frozenset[str]) -> None:
        """Where compute of these images may come to run, they are to be at hand soon. Those of
        before are not wanted any more.
        """
        ...

    def watch(self) -> AsyncGenerator[Mapping[str, Found], None]:
        """All there is, by name: at first, and again whenever it changed. It does not end by
        itself, and repeats nothing that is the same. After an error it is asked for anew.
        """
        ...

    async def close(self) -> None:
        """Let go of connections. What runs goes on."""
        ...
