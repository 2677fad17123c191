"""Which of the images that a gateway keeps are cleared away, and when.

What a session has, asleep or not, stays: it could not open without. Of the others those go that
nobody used for long, and beyond a size those that were used longest ago. What was used just now may
be on its way into a session.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from checkpoint.errors import CheckpointError
from sessionkeeper.images.errors import BadReference, ImageError
from sessionkeeper.images.reference import Reference, parse
from sessionkeeper.images.store import ImageStore, KeptImage

__all__ = ["Clearing", "Limits", "to_forget"]

log = logging.getLogger(__name__)

EVERY = 3600.0
"""Seconds between two looks."""

JUST_NOW = 3600.0
"""Seconds: a launch that was given an image has its session by then, or never."""


@dataclass(frozen=True)
class Limits:
    """``unused`` is in seconds, ``size`` in bytes of all images together; None: no limit."""

    unused: float | None = None
    size: int | None = None


def to_forget(
    images: Iterable[KeptImage], used: frozenset[str], limits: Limits, now: float
) -> list[KeptImage]:
    """Return those to clear away, the one that was used longest ago first. ``used`` are digests
    that sessions have; ``now`` is in Unix seconds. Pure.
    """
    oldest_first = sorted(images, key=lambda one: (one.used_at, str(one.name)))
    holders = Counter(part for one in oldest_first for part in one.parts)
    sizes = {part: size for one in oldest_first for part, size in one.parts.items()}
    total = sum(sizes.values())
    gone = []
    for one in oldest_first:
        age = now - one.used_at
        if one.digest in used or age < JUST_NOW:
            continue
        too_old = limits.unused is not None and age > limits.unused
        if not too_old and (limits.size is None or total <= limits.size):
            continue
        gone.append(one)
        holders.subtract(one.parts.keys())
        total -= sum(size for part, size in one.parts.items() if not holders[part])
    return gone


class Clearing:
    """Clears away, again and again. ``in_use`` returns the images of all sessions, and raises what
    the store raises: then nothing goes.
    """

    def __init__(
        self, store: ImageStore, limits: Limits, in_use: Callable[[], Awaitable[Iterable[str]]]
    ) -> None:
        self._store = store
        self._limits = limits
        self._in_use = in_use

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                await self.once()
            except (CheckpointError, ImageError, OSError) as error:
                log.warning("no image is cleared away: %s", error)
            await asyncio.sleep(EVERY)

    async def once(self) -> list[Reference]:
        """Look once; the names that are gone. Raises what ``in_use`` raises, and ``OSError``."""
        if self._limits == Limits():
            return []
        used = frozenset(filter(None, map(_digest, await self._in_use())))
        return await asyncio.to_thread(self._clear, used)

    def _clear(self, used: frozenset[str]) -> list[Reference]:
        now = time.time()
        images = self._store.images()
        for one in images:
            if one.digest in used:  # from the end of its last session on it counts as unused
                self._store.touch(one.name)
        gone = to_forget(images, used, self._limits, now)
        for one in gone:
            self._store.forget(one.name)
            days = (now - one.used_at) / 86400
            log.info("%s is cleared away: unused for %.1f days", one.name, days)
        freed = self._store.sweep(used)
        if freed is None:
            log.info("an image is just being added: what nobody has any more is deleted later")
        elif freed:
            log.info("%.1f MB of images are deleted", freed / 1e6)
        return [one.name for one in gone]


def _digest(image: str) -> str:
    try:
        wanted = parse(image)
    except BadReference:
        return ""
    return "" if wanted.host else wanted.digest
