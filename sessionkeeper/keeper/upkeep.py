"""Upkeep of a running session's store: checkpoints that need not be kept are deleted, then packs
that nothing names any more.

It gives way: it begins at a quiet time, asks nothing of the store while a checkpoint or a move is
under way, has few requests at once and a thread of the lowest priority. It may end at any point;
that it is safe beside writers is `checkpoint.collect`'s promise.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from checkpoint import holder
from checkpoint.blobs import ConcurrencyLimited, Pausable
from checkpoint.collect import COMMITS, collect
from checkpoint.repository import Repository
from checkpoint.retention import Retention
from sessionkeeper.keeper.chain import Chain
from sessionkeeper.keeper.status import Status

log = logging.getLogger(__name__)

FIRST = 60.0
"""Seconds after the start of this process: what others left can wait until the session is up."""

EVERY = 600.0
"""Seconds between two runs. One reads every manifest that is kept, hundreds as a rule; what is no
longer needed stays for two runs, which is little beside the hour that everything is kept for."""

QUIET = 2.0
"""Seconds without a checkpoint or a move before it begins."""

LATEST = 2 * EVERY
"""Seconds after which it begins without such a pause: it gives way all the same."""

AT_ONCE = 2
"""Requests to the store. Nodes that save or restore have eight and more."""

TOLD_EVERY = 1.0
"""Seconds between two words on how far it is."""

CALM = {"idle", "running", "waiting", "failed", "hibernated"}
"""States of a session in which nothing is brought anywhere."""


@dataclass(frozen=True)
class Situation:
    """Times are seconds on one monotonic clock. ``ended`` is when the last run did, None before the
    first; ``commits`` how many checkpoints there were since; ``calm`` since when nothing is under
    way, None while something is.
    """

    now: float
    started: float
    ended: float | None
    commits: int
    calm: float | None


def due(s: Situation) -> float | None:
    """Return in how many seconds the next run should begin; None: not before something happens.

    Without new checkpoints nothing gets older, and nothing that was listed may go.
    """
    if s.calm is None or (s.ended is not None and s.commits < COMMITS):
        return None
    early, late = (s.started, FIRST) if s.ended is None else (s.ended, EVERY)
    begin = max(early + late, s.calm + QUIET)
    return max(0.0, min(begin, early + LATEST) - s.now)


@dataclass(frozen=True)
class Done:
    """What a run did: checkpoints and packs deleted; packs ``listed`` for a later run; the sessions
    of the same pool that those wait for. ``at`` in Unix seconds.
    """

    at: float
    seconds: float
    checkpoints: int
    packs: int
    listed: int
    waits_for: tuple[str, ...]


class Upkeep:
    """The upkeep of one session. :meth:`run` is its task."""

    def __init__(self, chain: Chain, status: Status, policy: Retention) -> None:
        self._chain = chain
        self._status = status
        self._policy = policy
        whole = chain.repository
        self._store = Pausable(whole.store)
        limited = ConcurrencyLimited(self._store, AT_ONCE)
        self._repository = Repository(limited, whole.session_id, whole.keys, whole.pool)
        self._thread = ThreadPoolExecutor(1, "upkeep", _with_lowest_priority)
        self._started = time.monotonic()
        self._ended: float | None = None
        self._upto = 0
        self._calm: float | None = None
        self._noted = asyncio.Event()
        self._wishes: list[asyncio.Future[Done]] = []
        self._told = 0.0
        status.listen(self._look)
        self._look(status.json())

    async def run(self) -> None:
        """Do what is due, whenever it is, until cancelled."""
        try:
            while True:
                self._noted.clear()
                pause = self._pause()
                if pause is not None and pause <= 0:
                    await self._do()
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._noted.wait()
        finally:
            self._store.end()
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def now(self) -> Done:
        """Have it done as soon as nothing is under way. Raises ``CheckpointError``."""
        wish = asyncio.get_running_loop().create_future()
        self._wishes.append(wish)
        self._noted.set()
        done: Done = await wish
        return done

    def _look(self, status: dict[str, Any]) -> None:
        calm = status["state"] in CALM and not status["checkpointing"]
        if not calm:
            self._calm = None
            self._store.pause()
        elif self._calm is None:
            self._calm = time.monotonic()
            self._store.resume()
            self._noted.set()

    def _pause(self) -> float | None:
        newest = self._chain.manifest
        if newest is not None and not self._chain.at_newest:
            return None  # it went back to an older one, which must stay whatever its age
        if self._wishes and self._calm is not None:
            return 0.0
        if newest is None:
            return None
        return due(
            Situation(
                now=time.monotonic(),
                started=self._started,
                ended=self._ended,
                commits=newest.number - self._upto,
                calm=self._calm,
            )
        )

    async def _do(self) -> None:
        wishes, self._wishes = self._wishes, []
        manifest = self._chain.manifest
        upto = manifest.number if manifest is not None else 0
        loop = asyncio.get_running_loop()
        try:
            done = await loop.run_in_executor(self._thread, self._tidy, loop)
        except Exception as error:  # whatever it is: the session does without
            log.info("session %s: upkeep", self._status.session, exc_info=True)
            for wish in wishes:
                wish.set_exception(error)
            self._failed(error)
        else:
            for wish in wishes:
                wish.set_result(done)
            self._succeeded(done)
        finally:
            self._ended, self._upto = time.monotonic(), upto

    def _tidy(self, loop: asyncio.AbstractEventLoop) -> Done:
        began = time.monotonic()

        def progress(what: str, done: int, total: int) -> None:
            if time.monotonic() - self._told >= TOLD_EVERY:
                self._told = time.monotonic()
                facts = {"doing": what, "done": done, "total": total}
                with suppress(RuntimeError):  # the loop has ended, and so does this soon
                    loop.call_soon_threadsafe(self._tell, facts)

        progress("looking for old checkpoints", 0, 1)
        gone = self._repository.prune(self._policy)
        # Of this session the commits tell; of others of its pool, that nobody runs them.
        idle = set(holder.idle(self._repository)) - {self._repository.session_id}
        found = collect(self._repository, idle=idle, progress=progress)
        return Done(
            at=time.time(),
            seconds=round(time.monotonic() - began, 3),
            checkpoints=len(gone),
            packs=len(found.deleted),
            listed=found.listed,
            waits_for=found.waits_for,
        )

    def _tell(self, facts: dict[str, Any]) -> None:
        last = {"last": self._status.upkeep["last"]} if "last" in self._status.upkeep else {}
        self._status.update(upkeep=facts | last)

    def _succeeded(self, done: Done) -> None:
        log.info("session %s: upkeep: %s", self._status.session, done)
        self._status.update(upkeep={"last": asdict(done)})
        self._status.warn("upkeep", None)

    def _failed(self, error: Exception) -> None:
        self._status.update(upkeep={})
        self._status.warn("upkeep", f"old checkpoints could not be cleared away: {error}")


def _with_lowest_priority() -> None:
    """Of this thread, and of those that it starts (Linux: nice(2) is a thread's own)."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
