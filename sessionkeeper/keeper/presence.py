"""Where a session runs now, if it does, and what has to do with just that."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable
from typing import Any

from sessionkeeper.errors import Unavailable
from sessionkeeper.keeper.changes import Changes
from sessionkeeper.keeper.incarnation import Incarnation
from sessionkeeper.keeper.node import Node, NodeLost
from sessionkeeper.keeper.status import AT_REST, State, Status

log = logging.getLogger(__name__)


class Presence:
    """``here`` is the incarnation that is up and running; None while there is none. Only the
    session's task sets it.
    """

    def __init__(self, status: Status) -> None:
        self.here: Incarnation | None = None
        self.status = status
        self.changes = Changes()
        self._over = False
        self._background: set[asyncio.Task[Any]] = set()
        status.listen(lambda _: self.changes.tell())

    @property
    def node(self) -> Node | None:
        """The node that has the session; None while there is none."""
        return self.here.node if self.here is not None else None

    async def up(self) -> Incarnation:
        """Wait until the session runs somewhere. Raises :class:`Unavailable` when it will not."""
        self.changes.note()
        while self.here is None:
            if self._over:
                raise Unavailable(f"session {self.status.session} is not kept here any more")
            await self.changes.watch()
        return self.here

    async def ask(self, method: str, kernel_id: str) -> None:
        """Ask for something that is of no use once the session is elsewhere."""
        if self.here is not None:
            with contextlib.suppress(NodeLost):
                await self.here.ask(method, {"kernel_id": kernel_id})

    def show(self, state: State) -> None:
        """Let everybody know what the session does now."""
        if state in AT_REST | {"recovering"}:
            self.status.update(state=state, node=None)
        else:
            self.status.update(state=state)
        self.changes.tell()

    def end(self) -> None:
        """It will run no more, as far as this process is concerned: whoever waits is told."""
        self._over = True
        self.status.update(state="idle", node=None)
        self.changes.tell()

    def in_background(self, work: Awaitable[None]) -> None:
        """Do what nobody waits for; what goes wrong in it is said to the user."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background_done)

    def _background_done(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("session %s: %s", self.status.session, error, exc_info=error)
            self.status.say(str(error) or repr(error), "error")
