"""Sessions that have had their time: warned of, and after the grace deleted.

Of each session its directory has ``limits.json``: when it was begun and last used, and the warning
that stands with the seconds for which it was shown. A session that only the store has is left
alone: nobody could be warned.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from checkpoint.manifest import Manifest
from checkpoint.repository import Repository
from checkpoint.retention import Retention
from gateway import durable
from sessionkeeper.expiry import LONGEST, LOOK, Excess, Facts, Limits, Warned, judge, told
from sessionkeeper.keeper.kept import KeptSession
from sessionkeeper.keeper.sessions import Sessions

log = logging.getLogger(__name__)

TOPIC = "limits"
"""Of the warning in a session's status."""

FILE = "limits.json"

MEASURED_EVERY = 600.0
"""Seconds between two looks at how much of the store a session takes: each reads all of its
manifests."""

NEWEST_ONLY = Retention(all=0, hourly=0, daily=0)


@dataclass(frozen=True)
class Noted:
    """What is known of a session, in Unix seconds."""

    begun: float
    used: float
    warned: Warned | None = None


@dataclass
class _Seen:
    """Of a session since this process began; ``activity`` and ``writes`` as they were last."""

    activity: int
    writes: int
    at: float
    measured: tuple[int, int] = (0, 0)
    measured_at: float | None = None
    number: int = 0


class Expiry:
    """Looks at all sessions but ``own``, which the gateway is started for. ``forgotten`` is called
    for one that was deleted. ``clock`` and ``monotonic`` tell the time.
    """

    def __init__(
        self,
        sessions: Sessions,
        limits: Limits,
        own: str,
        forgotten: Callable[[str], Any],
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sessions = sessions
        self._limits = limits
        self._own = own
        self._forgotten = forgotten
        self._clock = clock
        self._monotonic = monotonic
        self._seen: dict[str, _Seen] = {}

    async def run(self) -> None:
        """Look, until cancelled."""
        while self._limits:
            await self.look()
            await asyncio.sleep(min(LOOK, self._limits.grace / 4))

    async def look(self) -> None:
        """Look at each session once: warn, and delete what was warned of for long enough."""
        for kept in self._sessions:
            name = kept.registration.name
            if name == self._own or kept.keeper.fence.lost:  # another gateway's to judge
                continue
            try:
                await self._look_at(kept)
            except Exception as error:  # the others have limits, too
                log.warning("session %s: its limits were not looked at: %r", name, error)

    async def _look_at(self, kept: KeptSession) -> None:
        name, now = kept.registration.name, self._clock()
        noted = read_noted(kept.home) or _first(kept, now)
        seen = self._seen.get(name)
        activity, writes = kept.activity, kept.journal.last
        if seen is None:
            seen = self._seen[name] = _Seen(activity.ended, writes, self._monotonic())
        elapsed = self._monotonic() - seen.at
        if activity.busy or (activity.ended, writes) != (seen.activity, seen.writes):
            noted = replace(noted, used=now)
        seen.activity, seen.writes, seen.at = activity.ended, writes, self._monotonic()
        await self._measure(kept, seen, noted.warned)
        facts = Facts(now, noted.begun, noted.used, *seen.measured)
        warned, goes = judge(self._limits, facts, noted.warned, elapsed)
        write_noted(kept.home, replace(noted, warned=warned))
        self._show(kept, warned)
        if goes == "session":
            await self._delete(name, kept)
        elif goes == "checkpoints":
            await self._thin(kept)

    def report(self, name: str, warned: Warned) -> dict[str, Any]:
        """Return what is told of a warning: what ``goes``, in how many ``seconds``, and why."""
        return {
            "goes": warned.excess.goes,
            "why": warned.excess.why,
            "seconds": warned.left(self._limits),
            "text": told(name, warned, self._limits),
        }

    def _show(self, kept: KeptSession, warned: Warned | None) -> None:
        kept.expires = None if warned is None else self.report(kept.registration.name, warned)
        text = None if kept.expires is None else str(kept.expires["text"])
        kept.keeper.status.warn(TOPIC, text)

    async def _measure(self, kept: KeptSession, seen: _Seen, before: Warned | None) -> None:
        newest, now = kept.keeper.chain.manifest, self._monotonic()
        if self._limits.stored is None or newest is None:
            return
        # It is looked closely before anything goes.
        ends = before is not None and before.left(self._limits) <= LONGEST
        changed = before is not None or seen.number != newest.number
        at = seen.measured_at
        if at is None or ends or (changed and now - at >= MEASURED_EVERY):
            stored = await asyncio.to_thread(stored_bytes, kept.keeper.chain.repository)
            seen.measured = (sum(pack.size for pack in newest.packs), stored)
            seen.number, seen.measured_at = newest.number, now

    async def _delete(self, name: str, kept: KeptSession) -> None:
        why = kept.expires["why"] if kept.expires else ""
        grace = self._limits.grace
        log.warning("session %s is deleted, as was said for %.0f s: %s", name, grace, why)
        await self._sessions.delete(name)
        self._seen.pop(name, None)
        with suppress(Exception):  # its page would say that there is no such session
            await self._forgotten(name)

    async def _thin(self, kept: KeptSession) -> None:
        repository = kept.keeper.chain.repository
        if not kept.keeper.chain.at_newest:
            return  # it went back to an older one, which it needs
        gone = await asyncio.to_thread(repository.prune, NEWEST_ONLY)
        self._seen[kept.registration.name].measured_at = None
        write_noted(
            kept.home, replace(read_noted(kept.home) or _first(kept, self._clock()), warned=None)
        )
        self._show(kept, None)
        if gone:
            kept.keeper.status.say(
                f"{len(gone)} checkpoints were deleted, as they took too much of the store",
                "warning",
            )


def stored_bytes(repository: Repository) -> int:
    """Return how much all checkpoints of a session have in the store; what several share counts
    once. Blocks. Raises what the store raises.
    """
    packs = {
        pack
        for _, manifest in repository.load_all(repository.numbers())
        if isinstance(manifest, Manifest)
        for pack in manifest.packs
    }
    return sum(pack.size for pack in packs)


def read_noted(home: Path) -> Noted | None:
    """Return what is noted of a session; None if nothing is, or it cannot be read: then its time
    begins anew.
    """
    try:
        said = json.loads((home / FILE).read_text())
        warned = said["warned"]
        excess = Excess(**warned["excess"]) if warned else None
        shown = float(warned["shown"]) if warned else 0.0
        stands = Warned(excess, shown) if excess else None
        return Noted(float(said["begun"]), float(said["used"]), stands)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_noted(home: Path, noted: Noted) -> None:
    """Note it. Raises OSError."""
    if noted != read_noted(home):
        durable.replace(home / FILE, json.dumps(asdict(noted)))


def _first(kept: KeptSession, now: float) -> Noted:
    """Of a session of which nothing is noted. What was committed last was used then."""
    newest = kept.keeper.chain.manifest
    used = min(now, newest.created) if newest is not None else now
    return Noted(kept.registration.created or used, used)
