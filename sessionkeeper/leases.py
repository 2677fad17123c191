"""How long a node may be silent before it is lost, by its tier. Pure.

A machine in the gateway's own data centre that says nothing for four seconds is gone. One at home
is behind a line that other people use as well: a lease that is too short there takes sessions
from a machine that works.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sessionkeeper.duration import positive_duration
from sessionkeeper.placement import TIER_ORDER

__all__ = ["AWAY", "NEAR", "Leases", "parse_leases", "spelled"]


@dataclass(frozen=True)
class Leases:
    """Seconds; ``of_tier`` for tiers with a lease of their own, the others have ``seconds``."""

    seconds: float
    of_tier: tuple[tuple[str, float], ...] = ()

    def of(self, tier: str) -> float:
        """Return the lease of a node of that tier."""
        return dict(self.of_tier).get(tier, self.seconds)


AWAY = Leases(4.0, (("volunteer", 15.0),))
"""Nodes on machines of their own."""

NEAR = Leases(2.0, (("volunteer", 15.0),))
"""Nodes on the gateway's machine; what joins from elsewhere is mostly somebody's computer."""


def parse_leases(text: object) -> Leases:
    """Return what ``4s``, or ``4s,volunteer=15s`` says. Raises ValueError that goes on after it."""
    seconds: float | None = None
    tiers: dict[str, float] = {}
    for word in str(text).split(","):
        tier, given, value = (part.strip() for part in word.partition("="))
        if not given:
            if seconds is not None:
                raise ValueError("has more than one time without a tier")
            seconds = positive_duration(tier)
        elif tier not in TIER_ORDER:
            raise ValueError(f"names {tier!r}, which is none of {', '.join(TIER_ORDER)}")
        else:
            tiers[tier] = positive_duration(value)
    if seconds is None:
        raise ValueError("needs a time for the tiers that it does not name, as 4s,volunteer=15s")
    return Leases(seconds, tuple(sorted(tiers.items())))


def spelled(leases: Leases) -> str:
    """Return what :func:`parse_leases` would take for it."""
    tiers: Mapping[str, float] = dict(leases.of_tier)
    return ",".join([f"{leases.seconds:g}", *(f"{one}={time:g}" for one, time in tiers.items())])
