"""Several sources as one."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Iterable

from sessionkeeper.agent.ledger import clock
from sessionkeeper.notices.notice import Notice, NoticeSource, SourceFailed

__all__ = ["Together"]

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
QUIET = 300.0
"""Seconds that a source must have worked before its next failure is said again."""


class Together:
    """Says what any of ``sources`` says. One that fails is said once, and asked again after
    ``first_pause`` seconds, then after twice as long, up to a minute; what it said last holds
    meanwhile, as a service that hangs has not taken anything back. None fails as a whole.
    """

    name = "all"

    def __init__(
        self, sources: Iterable[NoticeSource], *, first_pause: float = FIRST_PAUSE
    ) -> None:
        self.sources = tuple(sources)
        self._first_pause = first_pause
        self._held: dict[str, frozenset[Notice]] = {}
        self._asked: set[str] = set()
        """Those that have answered, or failed."""

    async def watch(self) -> AsyncIterator[frozenset[Notice]]:
        changed = asyncio.Event()
        tasks = [asyncio.create_task(self._follow(one, changed)) for one in self.sources]
        said: frozenset[Notice] | None = None
        try:
            while True:
                now = frozenset().union(*self._held.values())
                # That there is none is known when all have been asked, not when the first one knows
                # of none: whoever was told of a notice before would take it for withdrawn.
                if now != said and (now or len(self._asked) == len(self.sources)):
                    said = now
                    yield now
                await changed.wait()
                changed.clear()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def drained(self) -> None:
        """Tell those whose notice holds. Raises nothing: who could not be told is logged."""
        told = [one for one in self.sources if self._held.get(one.name)]
        done = await asyncio.gather(*(one.drained() for one in told), return_exceptions=True)
        for source, error in zip(told, done, strict=True):
            if isinstance(error, Exception):
                log.warning("%s was not told that nothing is left here: %s", source.name, error)

    async def _follow(self, source: NoticeSource, changed: asyncio.Event) -> None:
        pause, worked, said = self._first_pause, 0.0, False
        while True:
            began: float | None = None
            try:
                async for now in source.watch():
                    if began is None:
                        began, pause = clock(), self._first_pause
                        if said:
                            log.info("notices of %s arrive again", source.name)
                    self._held[source.name] = now
                    self._asked.add(source.name)
                    changed.set()
                raise SourceFailed("it has ended")
            except Exception as error:  # a source that has a bug must not take the others with it
                worked = clock() - began if began is not None else 0.0
                if not said or worked > QUIET:
                    unforeseen = None if isinstance(error, SourceFailed) else error
                    what = str(error) or repr(error)
                    hint = f" ({error.hint})" if isinstance(error, SourceFailed) else ""
                    text = "no notices of %s for now: %s%s"
                    log.warning(text, source.name, what, hint, exc_info=unforeseen)
                said = True
                self._asked.add(source.name)
                changed.set()
                asked_for = getattr(error, "retry_after", None) or 0.0
            jitter = random.uniform(0.5, 1.0)  # noqa: S311
            await asyncio.sleep(max(jitter * pause, min(asked_for, LONGEST_PAUSE)))
            pause = min(2 * pause, LONGEST_PAUSE)
