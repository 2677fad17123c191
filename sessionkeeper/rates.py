"""How often nodes go, estimated from how long they were watched and how often they went. Pure.

Losses of a node are taken for a Poisson process whose rate is not known. With a gamma distribution
as what is believed before anything was seen, the mean of what is believed after ``losses`` in
``hours`` is ``(a + losses) / (b + hours)`` (Gelman et al., Bayesian Data Analysis, 3rd edition,
section 2.6). What is believed before is worth one loss (a = 1): of a tier it is the rate of
``policy``, of a node that of its tier. So a new node is taken for one of its tier, one loss does
not condemn it, and after some losses its own record counts more than that of the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from sessionkeeper.policy import MEAN_TIME_BETWEEN_FAILURES

HOUR = 3600.0
BELIEVED = 1.0
"""Losses that what is believed beforehand is worth."""


@dataclass(frozen=True)
class Record:
    """So many ``losses`` in so many ``hours``."""

    hours: float = 0.0
    losses: int = 0

    def after(self, hours: float = 0.0, losses: int = 0) -> Record:
        """Return this and what came then."""
        return Record(self.hours + hours, self.losses + losses)


def estimate(before: float, record: Record) -> float:
    """Return losses per hour, of what was believed ``before`` (per hour) and what was seen."""
    return (BELIEVED + record.losses) / (BELIEVED / before + record.hours)


@dataclass
class Rates:
    """What was seen of each node, and of all nodes of each tier."""

    tiers: dict[str, Record] = field(default_factory=dict)
    nodes: dict[str, Record] = field(default_factory=dict)

    def watched(self, node: str, tier: str, hours: float) -> None:
        """The node was there for so long."""
        self._note(node, tier, hours=hours)

    def lost(self, node: str, tier: str) -> None:
        """It went, not by its operator's wish."""
        self._note(node, tier, losses=1)

    def rate(self, node: str, tier: str) -> float:
        """Return the node's losses per hour."""
        return estimate(self.rate_of_tier(tier), self.nodes.get(node, Record()))

    def rate_of_tier(self, tier: str) -> float:
        """Return what is expected of any node of the tier, per hour."""
        before = HOUR / MEAN_TIME_BETWEEN_FAILURES[tier]
        return estimate(before, self.tiers.get(tier, Record()))

    def mean_time(self, node: str, tier: str) -> float:
        """Return the seconds between two losses of the node."""
        return HOUR / self.rate(node, tier)

    def encode(self) -> str:
        """Inverse of :func:`decode`."""
        kinds: tuple[tuple[str, Mapping[str, Record]], ...]
        kinds = ("tiers", self.tiers), ("nodes", self.nodes)
        return json.dumps({kind: {k: asdict(r) for k, r in of.items()} for kind, of in kinds})

    def _note(self, node: str, tier: str, *, hours: float = 0.0, losses: int = 0) -> None:
        for records, name in ((self.nodes, node), (self.tiers, tier)):
            records[name] = records.get(name, Record()).after(hours, losses)


def decode(text: str) -> Rates:
    """Read what :meth:`Rates.encode` wrote. Raises ``ValueError``."""
    try:
        said = json.loads(text)
        return Rates(
            {name: Record(**record) for name, record in said["tiers"].items()},
            {name: Record(**record) for name, record in said["nodes"].items()},
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"not a record of losses: {error}") from None
