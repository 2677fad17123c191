"""Everything between a repository and a session in its image, as events.

Who wants an image that is being built hears of that build from its beginning. A build goes on when
nobody listens any more: somebody may come back for it, and its image is kept.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from checkpoint.errors import CheckpointError
from gateway.errors import GatewayError
from sessionkeeper.errors import SessionkeeperError
from sessionkeeper.keeper.kept import KeptSession
from sessionkeeper.keeper.sessions import Sessions
from sessionkeeper.launch.build import Builder
from sessionkeeper.launch.errors import LaunchFailed
from sessionkeeper.launch.events import Event
from sessionkeeper.launch.sources import Source, resolve
from sessionkeeper.registration import asked_for

log = logging.getLogger(__name__)

BUILDS = 2
"""Builds at a time; the others wait."""

PATIENCE = 600.0
"""Seconds that a launched session may wait for a node."""


class Ui(Protocol):
    """Starts UI servers."""

    async def open(self, session: str, token: str, origin: str | None) -> str:
        """Start one for a session, to which pages of ``origin`` may talk; its URL, with a slash at
        the end. Empty: it is where the gateway is.
        """
        ...

    async def close(self, session: str) -> None:
        """End it, if there is one."""


@dataclass(frozen=True)
class Wish:
    """What is to become of a source. ``name`` is that of the session; None: one is made up."""

    build_only: bool = False
    rebuild: bool = False
    name: str | None = None
    here: str = ""
    """Where the gateway was asked, with a slash at the end."""
    origin: str | None = None
    """Of the page that asks, if that is elsewhere: it may talk to the session."""
    more: dict[str, Any] = field(default_factory=dict)
    """What the event `ready` is to say beside the session's URL and token."""


class _Build:
    """One build, heard by any number of those that want its image."""

    def __init__(self) -> None:
        self.task: asyncio.Task[str] | None = None
        self._said: list[Event] = []
        self._more = asyncio.Event()

    def say(self, event: Event) -> None:
        self._said.append(event)
        self._more.set()

    async def heard(self) -> AsyncGenerator[Event, None]:
        """All that it said and says, to its end."""
        assert self.task is not None
        at = 0
        while True:
            while at < len(self._said):
                at += 1
                yield self._said[at - 1]
            if self.task.done():
                return
            self._more.clear()
            more = asyncio.ensure_future(self._more.wait())
            await asyncio.wait((more, self.task), return_when=asyncio.FIRST_COMPLETED)
            more.cancel()


class Launches:
    """See the module."""

    def __init__(self, sessions: Sessions, builder: Builder, ui: Ui) -> None:
        self._sessions = sessions
        self._builder = builder
        self._ui = ui
        self._builds: dict[str, _Build] = {}
        self._room = asyncio.Semaphore(BUILDS)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def launch(self, source: Source, wish: Wish) -> AsyncGenerator[Event, None]:
        """Do it, and say what is done; the last event is `ready` or `failed`."""
        try:
            source = await resolve(source)
            image = None
            if not wish.rebuild:
                image = await asyncio.to_thread(self._builder.known, source)
            known = image is not None
            if image is None:
                build = self._build(source)
                async with aclosing(build.heard()) as heard:
                    async for event in heard:
                        yield event
                assert build.task is not None
                image = await build.task
            found = "Found built image" if known else "Built image"
            if wish.build_only:
                yield Event("ready", f"Done! {found}\n", {"imageName": image})
                return
            yield Event("built", f"{found}, launching...\n", {"imageName": image})
            async with aclosing(self._session(source, image, wish)) as said:
                async for event in said:
                    yield event
        except (SessionkeeperError, CheckpointError, GatewayError) as error:
            hint = f"{error.hint}\n" if getattr(error, "hint", "") else ""
            yield Event("failed", f"{error}\n{hint}", {"code": error.code})

    # -- the image -----------------------------------------------------------------------------

    def _build(self, source: Source) -> _Build:
        known = self._builds.get(source.image)
        if known is None:
            known = self._builds[source.image] = _Build()
            known.task = asyncio.create_task(self._built(source, known))
            known.task.add_done_callback(lambda task: self._build_ended(source.image, task))
        return known

    async def _built(self, source: Source, build: _Build) -> str:
        build.say(Event("waiting", "Waiting for build to start...\n"))
        async with self._room:
            return await self._builder.build(source, build.say)

    def _build_ended(self, image: str, task: asyncio.Task[str]) -> None:
        del self._builds[image]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("%s was not built: %s", image, error)

    async def end(self) -> None:
        """End all builds: this process ends."""
        tasks = [build.task for build in self._builds.values() if build.task is not None]
        for task in (*tasks, *self._tasks):
            task.cancel()
        await asyncio.gather(*tasks, *self._tasks, return_exceptions=True)

    # -- the session ---------------------------------------------------------------------------

    async def _session(self, source: Source, image: str, wish: Wish) -> AsyncGenerator[Event, None]:
        yield Event("launching", "Launching server...\n")
        name = wish.name or f"{source.slug[:24].strip('-')}-{secrets.token_hex(4)}"
        asked = asked_for({"name": name, "image": image}, name, time.time())
        kept, token = await self._sessions.create(asked)
        ready = False
        try:
            opening = asyncio.ensure_future(self._ui.open(name, token, wish.origin))
            try:
                async with asyncio.timeout(PATIENCE):
                    async with aclosing(_until_it_runs(kept)) as said:
                        async for words in said:
                            yield Event("launching", f"{words}\n")
                    url = await opening or wish.here
            except TimeoutError:
                raise LaunchFailed(f"no node had room for {name} for {PATIENCE:.0f} s") from None
            finally:
                opening.cancel()
            more = {"image": image, "repo_url": source.url, "token": token, "session": name}
            more |= {
                "binder_ref_url": source.ref_url,
                "binder_persistent_request": source.persistent_request,
            }
            told = {"url": url, **more, **wish.more}
            yield Event("ready", f"server running at {url}\n", told)
            ready = True
        finally:
            if not ready:  # nobody knows its token, so nobody can ever want it
                self._in_background(self._undo(name))

    async def _undo(self, name: str) -> None:
        await self._ui.close(name)
        await self._sessions.delete(name)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("a session that did not come up could not be deleted: %s", error)


async def _until_it_runs(kept: KeptSession) -> AsyncGenerator[str, None]:
    """What is said of the session until it is on a node. Raises :class:`LaunchFailed`."""
    changed = asyncio.Event()
    status = kept.keeper.status
    unlisten = status.listen(lambda _: changed.set())
    said: dict[str, None] = {}
    try:
        while True:
            changed.clear()
            if status.state == "failed":
                raise LaunchFailed("; ".join(status.warnings.values()) or "no node can run it")
            if status.message and status.message not in said:
                said[status.message] = None
                yield status.message
            if status.state == "running":
                return
            await changed.wait()
    finally:
        unlisten()
