"""What a gateway knows of its nodes together: what is promised on them, how often they go."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from gateway import durable
from sessionkeeper.keeper.reserved import Reserved
from sessionkeeper.rates import Rates, decode
from sessionkeeper.registration import Registration

log = logging.getLogger(__name__)


def _nothing() -> None:
    """Nobody wants to know."""


def _nobody(session: str, node: str, lost: float, repeated: float) -> None:
    """Nobody adds it up."""


@dataclass
class Pool:
    """``promised`` is what was agreed of each session; ``before_change`` is called before a session
    is on a node or is not any more, ``recovered`` when one is back on a node after so many seconds
    in which it stood still, and so many of work that is done again. With a ``file``, what was seen
    of nodes outlives this process.
    """

    promised: dict[str, Registration] = field(default_factory=dict)
    rates: Rates = field(default_factory=Rates)
    before_change: Callable[[], None] = _nothing
    recovered: Callable[[str, str, float, float], None] = _nobody
    file: Path | None = None
    reserved: Reserved = field(default_factory=Reserved)

    def memory_of(self, sessions: Iterable[str]) -> int:
        """Return the bytes that are guaranteed to these."""
        return sum(one.guarantee for one in self._agreed(sessions))

    def cores_of(self, sessions: Iterable[str]) -> float:
        """Return the cores that are guaranteed to these."""
        return sum(one.cores for one in self._agreed(sessions))

    def _agreed(self, sessions: Iterable[str]) -> Iterable[Registration]:
        return (self.promised[name] for name in sessions if name in self.promised)

    def note_loss(self, node: str, tier: str, *, by_wish: bool) -> None:
        """A node is gone; one that left by its operator's wish says nothing of how often they
        go.
        """
        if not by_wish:
            self.rates.lost(node, tier)
            self.keep()

    def load(self, file: Path) -> None:
        """Go on with what was seen before; what cannot be read is as if nothing was."""
        self.file = file
        try:
            self.rates = decode(file.read_text())
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            log.warning("how often nodes went is not known any more: %s: %s", file, error)

    def keep(self) -> None:
        """Write down what was seen."""
        if self.file is not None:
            try:
                durable.replace(self.file, self.rates.encode())
            except OSError as error:
                log.warning("how often nodes go is not written down: %s", error)
