"""Starts and stops compute as sessions want it: looks, decides (:mod:`sessionkeeper.compute.plan`),
does, and looks again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace

from sessionkeeper.compute.backend import Compute, ComputeBackend, ComputeFailed, Found
from sessionkeeper.compute.plan import Known, Plan, Rules, Setback, Wish, plan
from sessionkeeper.compute.tokens import token_for
from sessionkeeper.keeper.nodes import Nodes
from sessionkeeper.keeper.notices import Word

__all__ = ["Provisioner"]

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often is looked whether something has taken too long; what happens is heard at once."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
UNSEEN_SECONDS = 30.0
"""What was just started counts as there for so long, though nobody has seen it yet."""

STOPPING_SECONDS = 10.0
"""What was just told to end is not told again for so long."""

PREPARE_SECONDS = 30.0
Tell = Callable[[str, str | None], None]


class Provisioner:
    """``wishes`` says what sessions want now, ``tell`` tells a session's user what it waits for
    (None: nothing any more). ``secret`` is the agents' token, ``owner`` this gateway's name.
    """

    def __init__(
        self,
        backend: ComputeBackend,
        nodes: Nodes,
        wishes: Callable[[], Iterable[Wish]],
        tell: Tell,
        secret: str,
        owner: str,
        rules: Rules,
    ) -> None:
        self._backend = backend
        self._nodes = nodes
        self._wishes = wishes
        self._tell = tell
        self._secret = secret
        self._owner = owner
        self._rules = rules
        self._picture: Mapping[str, Found] | None = None
        self._begun: dict[str, tuple[Found, float]] = {}
        self._since: dict[str, tuple[str, float]] = {}
        self._idle: dict[str, float] = {}
        self._served: set[str] = set()
        self._setbacks: dict[str, Setback] = {}
        self._noticed: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._stopped: dict[str, float] = {}
        self._not_before = 0.0
        self._images: frozenset[str] | None = None
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Something may be different: nodes, or what sessions want."""
        self._changed.set()

    async def run(self) -> None:
        """Do so until cancelled. What runs then goes on."""
        tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._prepare())]
        try:
            while True:
                try:
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._changed.wait()
                except TimeoutError:
                    pass
                self._changed.clear()
                if self._picture is not None:
                    self._act()
        finally:
            tasks += self._busy.values()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._backend.close()

    async def _follow(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                async with aclosing(self._backend.watch()) as said:
                    async for now in said:
                        self._picture, pause = now, FIRST_PAUSE
                        self._reserve()
                        self.wake()
            except ComputeFailed as error:
                log.warning("what compute there is, is not known: %s", error)
                await asyncio.sleep(max(pause, error.after))
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _prepare(self) -> None:
        while True:
            wanted = {wish.registration.image for wish in self._wishes()}
            images = frozenset(image for image in wanted if image)
            if images != self._images:
                try:
                    await self._backend.prepare(images)
                    self._images = images
                except ComputeFailed as error:
                    log.warning("%s", error)
            await asyncio.sleep(PREPARE_SECONDS)

    # -- what there is -------------------------------------------------------------------------

    def _there(self) -> dict[str, Found]:
        now = _clock()
        picture = self._picture or {}
        self._begun = {
            name: (one, at)
            for name, (one, at) in self._begun.items()
            if name not in picture and now - at < UNSEEN_SECONDS
        }
        return {**{name: one for name, (one, _) in self._begun.items()}, **picture}

    def _reserve(self) -> None:
        self._nodes.pool.reserved.are({name: one.session for name, one in self._there().items()})

    def _known(self, there: Mapping[str, Found], now: float) -> list[Known]:
        known = []
        before, self._since = self._since, {}
        for name, one in there.items():
            phase, since = before.get(name, ("", now))
            self._since[name] = one.phase, since if phase == one.phase else now
            node = self._nodes.find(name)
            joined = node is not None and not node.gone.done()
            if joined:
                self._served.add(name)
            leaves = one.notice is not None and one.notice.deadline is not None
            known.append(
                Known(
                    one,
                    self._since[name][1],
                    joined=joined,
                    served=name in self._served,
                    leaving=leaves or (joined and node is not None and node.draining),
                    idle_since=self._idle.get(name),
                )
            )
        self._served &= set(there)
        return known

    # -- what is done --------------------------------------------------------------------------

    def _act(self) -> None:
        now, there = _clock(), self._there()
        wishes = list(self._wishes())
        known = self._known(there, now)
        for one in known:
            self._forward_notice(one)
            if one.joined:
                self._setbacks.pop(one.found.session, None)
        used = frozenset(node.name for node in self._nodes)
        todo = plan(wishes, known, now, self._rules, self._setbacks, self._owner, used)
        self._idle = {name: self._idle.get(name, now) for name in todo.idle}
        for failed in todo.failed:
            if failed.name not in self._busy:
                self._setback(failed.session, failed.tier, failed.why or "it did not come", now)
        self._say(wishes, there)
        if now < self._not_before:
            return
        self._do(todo)

    def _do(self, todo: Plan) -> None:
        for wanted in todo.start:
            token = token_for(self._secret, wanted.name)
            self._in_background(wanted.name, self._start(replace(wanted, token=token)))
        now = _clock()
        asked = {name: at for name, at in self._stopped.items() if now - at < STOPPING_SECONDS}
        for name, at_once in todo.stop:
            if name not in asked:
                asked[name] = now
                self._in_background(name, self._stop(name, at_once))
        self._stopped = asked

    async def _start(self, wanted: Compute) -> None:
        log.info("compute %s is started for session %s", wanted.name, wanted.session)
        try:
            await self._backend.start(wanted)
        except ComputeFailed as error:
            self._failed(error)
            self._setback(wanted.session, wanted.tier, str(error), _clock())
            return
        coming = Found(wanted.name, wanted.session, wanted.tier, "starting")
        self._begun[wanted.name] = coming, _clock()
        self._reserve()

    async def _stop(self, name: str, at_once: bool) -> None:
        log.info("compute %s is stopped%s", name, " at once" if at_once else "")
        try:
            await self._backend.stop(name, at_once=at_once)
            self._begun.pop(name, None)
        except ComputeFailed as error:
            self._failed(error)

    def _failed(self, error: ComputeFailed) -> None:
        log.warning("%s", error)
        pause = error.after or FIRST_PAUSE
        self._not_before = max(self._not_before, _clock() + pause)

    def _in_background(self, name: str, work: Awaitable[None]) -> None:
        """One thing at a time for each name."""
        if name in self._busy:
            asyncio.ensure_future(work).cancel()
            return
        task = asyncio.ensure_future(work)
        self._busy[name] = task
        task.add_done_callback(lambda _: self._free(name))

    def _free(self, name: str) -> None:
        self._busy.pop(name, None)
        self.wake()

    def _setback(self, session: str, tier: str, why: str, now: float) -> None:
        log.warning("compute of session %s came to nothing: %s", session, why)
        before = self._setbacks.get(session, Setback(0, now, ()))
        self._setbacks[session] = before.again(tier, now)

    # -- what is said --------------------------------------------------------------------------

    def _forward_notice(self, one: Known) -> None:
        """The cluster's word goes the way of the node's own, and is taken back as that is."""
        name, notice = one.found.name, one.found.notice
        node = self._nodes.find(name)
        if node is None or node.gone.done():
            self._noticed.pop(name, None)
            return
        reason = notice.reason if notice is not None else ""
        if self._noticed.get(name, "") == reason:
            return
        self._noticed[name] = reason
        self._nodes.noticed(node, Word(reason, notice.left() if notice else None), by="backend")

    def _say(self, wishes: Iterable[Wish], there: Mapping[str, Found]) -> None:
        wanted = {wish.registration.name for wish in wishes if wish.needs}
        waits = {
            one.session: f"{name} does not run yet: {one.why}"
            for name, one in there.items()
            if one.phase == "starting" and one.why and one.session in wanted
        }
        for session in (*waits, *(self._told.keys() - waits.keys())):
            if waits.get(session) != self._told.get(session):
                self._tell(session, waits.get(session))
        self._told = waits


def _clock() -> float:
    return asyncio.get_running_loop().time()
