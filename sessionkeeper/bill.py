"""What sessions cost: every second of theirs, with the price of the node it was spent on. Pure.

A node's price is shared in equal parts by the sessions that are on it at the moment, so what all of
them pay is what the node costs while anybody is there. What on-demand would have cost is the same
share of the node's list price. Rows are per day (UTC), session and node; they only grow, so of two
accounts of one row the one with more seconds is right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from sessionkeeper.placement import CORE_HOUR, PRICES

HOUR = 3600.0

KEPT_ROWS = 200
"""Rows of one session that a checkpoint has, the newest ones: some months of days."""


@dataclass(frozen=True)
class Price:
    """Of a whole node per hour; ``listed`` is what a machine like it costs on demand. ``assumed``:
    nobody said what it is.
    """

    paid: float
    listed: float
    assumed: bool = False


def price_of(hello: Mapping[str, Any]) -> Price:
    """Return the price of a node, of what its agent says: what it does not say is taken from the
    usual price of cores of its tier.
    """
    cores, tier = max(1, int(hello.get("cores") or 1)), str(hello.get("tier") or "on-demand")
    said, listed = hello.get("price"), hello.get("list_price")
    paid = PRICES[tier] * cores if said is None else float(said)
    if listed is None:
        listed = paid if tier == "on-demand" else max(paid, CORE_HOUR * cores)
    return Price(paid, float(listed), assumed=said is None)


@dataclass(frozen=True)
class Row:
    """One session's stay on one node on one day (``2026-11-21``).

    ``seconds`` on the node; money in the currency of the prices: ``paid``, and what it would have
    been ``on_demand``. ``recoveries``: times that it came back after a loss, in which it stood
    still for ``lost`` seconds, and ran for ``repeated`` seconds what had been run before.
    """

    day: str
    session: str
    node: str
    owner: str = ""
    tier: str = ""
    seconds: float = 0.0
    paid: float = 0.0
    on_demand: float = 0.0
    recoveries: int = 0
    lost: float = 0.0
    repeated: float = 0.0
    assumed: bool = False

    @property
    def key(self) -> tuple[str, str, str]:
        return self.day, self.session, self.node

    def plus(self, more: Row) -> Row:
        """Return this and ``more`` of the same key."""
        sums: dict[str, Any] = {name: getattr(self, name) + getattr(more, name) for name in SUMMED}
        owner, tier = more.owner or self.owner, more.tier or self.tier
        assumed = self.assumed or more.assumed
        return replace(self, owner=owner, tier=tier, assumed=assumed, **sums)

    def json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


SUMMED = ("seconds", "paid", "on_demand", "recoveries", "lost", "repeated")
COLUMNS = tuple(field.name for field in fields(Row))


@dataclass(frozen=True)
class Stay:
    """A node with the ``sessions`` (their owners by name) that are on it."""

    node: str
    tier: str
    price: Price
    sessions: Mapping[str, str]


def charge(stays: Iterable[Stay], seconds: float, day: str) -> list[Row]:
    """Return what so many seconds of these stays cost, at the end of which it is ``day``."""
    rows = []
    for stay in stays:
        hours = seconds / HOUR / max(1, len(stay.sessions))
        rows += [
            Row(
                day,
                session,
                stay.node,
                owner,
                stay.tier,
                seconds,
                stay.price.paid * hours,
                stay.price.listed * hours,
                assumed=stay.price.assumed,
            )
            for session, owner in stay.sessions.items()
        ]
    return rows


def row_of(said: Mapping[str, Any]) -> Row:
    """Return the row that :meth:`Row.json` gave, or a later version. Raises ``ValueError``."""
    try:
        row = Row(**{name: said[name] for name in COLUMNS if name in said})
        if not all(isinstance(getattr(row, name), int | float) for name in SUMMED):
            raise TypeError("a sum is no number")
    except TypeError as error:
        raise ValueError(f"not a row of a bill: {error}") from None
    return row


def missing(known: Iterable[Row], other: Iterable[Row]) -> list[Row]:
    """Return those of ``other`` of which less is ``known``."""
    seconds = {row.key: row.seconds for row in known}
    return [row for row in other if row.seconds > seconds.get(row.key, -1.0)]


@dataclass(frozen=True)
class Wanted:
    """Which rows: days from ``since`` up to ``until`` (both included), of one session, of one
    owner; None: of all.
    """

    since: str | None = None
    until: str | None = None
    session: str | None = None
    owner: str | None = None

    def has(self, row: Row) -> bool:
        """Whether the row is one of them."""
        return (
            (self.since is None or row.day >= self.since)
            and (self.until is None or row.day <= self.until)
            and self.session in {None, row.session}
            and self.owner in {None, row.owner}
        )


def by(what: str, rows: Iterable[Row]) -> dict[str, Row]:
    """Return the sums of the rows by their ``session``, ``owner``, ``node``, ``tier`` or ``day``,
    in order.
    """
    found: dict[str, Row] = {}
    for row in rows:
        name = str(getattr(row, what))
        found[name] = found[name].plus(row) if name in found else row
    return dict(sorted(found.items()))
