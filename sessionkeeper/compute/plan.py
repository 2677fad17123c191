"""Which compute to start, and which to stop. Pure.

What sessions want and what there is go in; what to do comes out. It is asked again after whatever
happens, so a start or a stop that failed, or whose end nobody heard of, needs no code of its own.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from sessionkeeper.compute.backend import Compute, Found
from sessionkeeper.registration import Registration

__all__ = ["Known", "Plan", "Rules", "Setback", "Wish", "free_name", "is_compute", "plan"]

LONGEST_SLUG = 22
_OTHER = re.compile("[^a-z0-9]+")
_NAME = re.compile("sk-(?:[a-z0-9-]+-)?[0-9a-f]{8}-[0-9]+")


@dataclass(frozen=True)
class Wish:
    """What one session wants now. ``needs``: it has no node that stays. ``on`` is the node it is
    on, leaving or not. One that hibernates or has no kernels has no wish.
    """

    registration: Registration
    needs: bool
    on: str | None = None


@dataclass(frozen=True)
class Known:
    """Compute that there is. ``since``: when it was first seen in its phase, in seconds on the
    clock of ``now``; ``joined``: its agent holds a lease, ``served``: it did once; ``leaving``: it
    takes nothing new. ``idle_since``: since when nothing wants it.
    """

    found: Found
    since: float
    joined: bool = False
    served: bool = False
    leaving: bool = False
    idle_since: float | None = None


@dataclass(frozen=True)
class Setback:
    """How often in a row a session's compute came to nothing, when it did last, and in which
    tiers.
    """

    count: int
    at: float
    tiers: tuple[str, ...]

    def again(self, tier: str, now: float) -> Setback:
        """Return it with one more."""
        others = tuple(one for one in self.tiers if one != tier)
        return Setback(self.count + 1, now, (*others, tier))


@dataclass(frozen=True)
class Rules:
    """Seconds. ``patience`` is how long compute of a tier may take to run, before the next tier is
    tried, ``joining`` how long its agent may take then; ``grace`` how long what nobody wants is
    kept, as who wants it may just not be known yet.
    """

    patience: Mapping[str, float] = field(default_factory=dict)
    longest_start: float = 600.0
    joining: float = 60.0
    grace: float = 30.0
    longest_pause: float = 300.0
    last_resort: float = 90.0
    """Beyond its own grace, until what does not end is held to be gone."""


@dataclass(frozen=True)
class Plan:
    """``stop``: names, and whether at once. ``idle``: what nothing wants now. ``failed``: what came
    to nothing.
    """

    start: tuple[Compute, ...] = ()
    stop: tuple[tuple[str, bool], ...] = ()
    idle: frozenset[str] = frozenset()
    failed: tuple[Found, ...] = ()


def plan(
    wishes: Iterable[Wish],
    known: Iterable[Known],
    now: float,
    rules: Rules,
    setbacks: Mapping[str, Setback],
    owner: str = "",
    used: frozenset[str] = frozenset(),
) -> Plan:
    """Return what is to be done now. ``owner`` tells one gateway's compute from another's; names
    that are ``used`` are those of nodes that were, and are not given again.
    """
    of: dict[str, list[Known]] = defaultdict(list)
    for one in sorted(known, key=lambda one: one.found.name):
        of[one.found.session].append(one)
    start: list[Compute] = []
    stop: list[tuple[str, bool]] = []
    idle: set[str] = set()
    failed: list[Found] = []
    for wish in wishes:
        session = wish.registration.name
        there = of.pop(session, [])
        good: list[Known] = []
        for one in there:
            phase = one.found.phase
            if phase == "ended":
                stop.append((one.found.name, False))
                if not one.served:
                    failed.append(one.found)
            elif phase == "ending":
                if now - one.since > rules.last_resort:
                    stop.append((one.found.name, True))
            elif _came_to_nothing(one, now, rules):
                stop.append((one.found.name, False))
                if not one.served:  # to lose a node is no reason to try another tier
                    failed.append(one.found)
            elif not one.leaving:
                good.append(one)
            elif wish.on != one.found.name:
                idle.add(one.found.name)
        keep = _kept(good, wish)
        idle |= {one.found.name for one in good if one is not keep}
        back = setbacks.get(session)
        may = wish.registration.tiers and _may_start(back, now, rules)
        if wish.needs and keep is None and may:
            taken = {one.found.name for one in there} | used
            start.append(_compute(wish.registration, taken, back, owner))
    for there in of.values():
        for one in there:
            if one.found.phase == "ended":
                stop.append((one.found.name, False))
            elif one.found.phase != "ending":
                idle.add(one.found.name)
            elif now - one.since > rules.last_resort:
                stop.append((one.found.name, True))
    waited = {one.found.name: one.idle_since for one in known if one.idle_since is not None}
    over = [name for name in sorted(idle) if now - waited.get(name, now) >= rules.grace]
    stop += [(name, False) for name in over]
    return Plan(tuple(start), tuple(stop), frozenset(idle), tuple(failed))


def _came_to_nothing(one: Known, now: float, rules: Rules) -> bool:
    if one.joined or one.served:
        return not one.joined  # its lease has ended, and with it all that it had
    if one.found.phase == "running":
        return now - one.since > rules.joining
    return now - one.since > rules.patience.get(one.found.tier, rules.longest_start)


def _kept(good: Sequence[Known], wish: Wish) -> Known | None:
    """The one that a session keeps of those it could have: where it is, else one that is there."""
    return min(
        good,
        key=lambda one: (one.found.name != wish.on, not one.joined, one.found.name),
        default=None,
    )


def _may_start(back: Setback | None, now: float, rules: Rules) -> bool:
    if back is None:
        return True
    pause = min(rules.longest_pause, 2.0 ** min(back.count, 16) - 1)
    # The first setback in a tier only leads to the next one.
    return now >= back.at + (0.0 if back.count == 1 else pause)


def _compute(wanted: Registration, taken: Set[str], back: Setback | None, owner: str) -> Compute:
    tried = back.tiers if back is not None else ()
    # In the session's order; what came to nothing comes last, the longest ago first.
    tier = min(wanted.tiers, key=lambda tier: tried.index(tier) + 1 if tier in tried else 0)
    return Compute(
        free_name(wanted.name, owner, taken),
        wanted.name,
        tier,
        wanted.image,
        wanted.guarantee,
        wanted.limit,
    )


def free_name(session: str, owner: str, taken: Set[str]) -> str:
    """Return the first name for compute of a session that is not taken: the same whoever asks, so
    that one who begins again after a crash finds what it had begun. At most 40 characters that are
    good for a DNS label (RFC 1123).
    """
    stem = _stem(session, owner)
    return next(name for n in range(1, 10_000) if (name := f"{stem}-{n}") not in taken)


def is_compute(name: str) -> bool:
    """Whether a node's name is of those that :func:`free_name` gives."""
    return _NAME.fullmatch(name) is not None


def _stem(session: str, owner: str) -> str:
    slug = _OTHER.sub("-", session.lower())[:LONGEST_SLUG].strip("-")
    digest = hashlib.sha256(f"{owner}\0{session}".encode()).hexdigest()[:8]
    return "-".join(filter(None, ("sk", slug, digest)))
