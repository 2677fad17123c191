"""The sessions of a gateway: begun, found again, asked for by name or token, deleted.

One that this gateway does not keep, but the store has, is only listed. Who asks for it has it here:
by its name or with its token. So two gateways on one store do not take sessions from each other
unless somebody wants them to.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import shutil
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

from checkpoint.deletion import delete
from checkpoint.errors import CheckpointError, UnknownSession
from checkpoint.repository import Repository
from sessionkeeper.addresses import Addresses
from sessionkeeper.keeper.kept import Around, KeptSession
from sessionkeeper.keeper.node import Node
from sessionkeeper.keeper.register import Register
from sessionkeeper.registration import Registration, hashed

log = logging.getLogger(__name__)

BEGIN_AGAIN = 5.0
"""Seconds until a session is begun again that the store kept from being begun."""


class Sessions:
    """All sessions. Calls come from the event loop; iterating gives those that are kept here."""

    def __init__(self, register: Register, around: Around) -> None:
        self._register = register
        self.around = self._around = around
        self._kept: dict[str, KeptSession] = {}
        self._elsewhere: dict[str, Registration] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._late: set[str] = set()
        """Sessions that could not be begun yet, though this gateway is to go on with them."""
        self.addresses = Addresses(
            lambda: ((k.registration.name, one) for k in self for one in k.kernels.records)
        )

    def __iter__(self) -> Iterator[KeptSession]:
        return iter(list(self._kept.values()))

    def find(self, name: str) -> KeptSession | None:
        """Return the session if it is kept here."""
        return self._kept.get(name)

    # -- their beginning and end ---------------------------------------------------------------

    async def start(self, own: Repository, token: str = "", beginning: Path | None = None) -> None:
        """Go on with the session ``own``, whose ``token`` opens it, and with those that are to be
        gone on with; one that fails is only listed. Raises what the store raises.
        """
        name = own.session_id
        stored = {one.name: one for one in await asyncio.to_thread(self._register.stored)}
        here = {one.name: one for one in await asyncio.to_thread(self._register.here)}
        registration = here.pop(name, None) or stored.get(name)
        registration = registration or self._around.memory.fill(Registration(name))
        if token:
            registration = registration.with_token(token)
        if registration != stored.get(name):
            await asyncio.to_thread(self._register.change, own, registration)
        self._elsewhere = stored | here
        await self._begin(registration, own, beginning)
        began = await asyncio.gather(*map(self.have, here), return_exceptions=True)
        for other, error in zip(here, began, strict=True):
            if isinstance(error, BaseException):
                log.error("session %s was not started: %s", other, error)
                self._late.add(other)
                self._in_background(self._begin_later(other))

    async def _begin_later(self, name: str) -> None:
        """What its nodes still run of it is left alone meanwhile."""
        try:
            while True:
                await asyncio.sleep(BEGIN_AGAIN)
                try:
                    await self.have(name)
                    return
                except CheckpointError as error:
                    if not error.retryable:
                        raise
        finally:
            self._late.discard(name)

    async def create(self, wanted: Registration) -> tuple[KeptSession, str]:
        """Begin a session; also returns its token, which is told once. Raises ``SessionExists``,
        and what the store raises.
        """
        token = secrets.token_urlsafe(24)
        registration = self._around.memory.fill(wanted).with_token(token)
        async with self._turn(wanted.name):
            repository = await asyncio.to_thread(self._register.begin, registration)
            return await self._begin(registration, repository), token

    async def have(self, name: str) -> KeptSession:
        """Return the session; one that only the store has is kept here from now on. Raises
        ``UnknownSession``, ``SessionDeleted``, and what the store raises.
        """
        kept = self._kept.get(name)
        if kept is not None:
            return kept
        async with self._turn(name):
            kept = self._kept.get(name)
            if kept is not None:
                return kept
            try:
                registration, repository = await asyncio.to_thread(self._register.open, name)
            except ValueError:
                raise UnknownSession(name) from None
            here = self._elsewhere.get(name)
            if here is not None:  # whether it hibernates is this gateway's own
                registration = here if here.hibernated else registration
            await asyncio.to_thread(self._register.keep, registration)
            return await self._begin(registration, repository)

    async def delete(self, name: str) -> None:
        """End the session, and delete all there is of it. Raises ``UnknownSession``,
        ``SessionInUse`` when another gateway has it, and what the store raises.
        """
        async with self._turn(name):
            kept = self._kept.pop(name, None)
            if kept is not None:
                repository = kept.keeper.chain.repository
                await kept.end(save=False)
            else:
                _, repository = await asyncio.to_thread(self._register.open, name)
            self._elsewhere.pop(name, None)
            await asyncio.to_thread(delete, repository)
            await asyncio.to_thread(shutil.rmtree, self._register.home(name), True)

    async def end(self) -> None:
        """Take last checkpoints, and end all compute: this process ends."""
        await asyncio.gather(*(kept.end() for kept in self), return_exceptions=True)

    async def _begin(
        self, registration: Registration, repository: Repository, beginning: Path | None = None
    ) -> KeptSession:
        name = registration.name
        home = self._register.home(name)

        def sleeps(asleep: bool) -> None:
            kept.registration = self._register.hibernate(kept.registration, asleep)

        kept = KeptSession(home, registration, repository, self._around, sleeps)
        await kept.start(beginning)
        self._kept[name] = kept
        self._elsewhere.pop(name, None)
        return kept

    def _turn(self, name: str) -> asyncio.Lock:
        return self._turns.setdefault(name, asyncio.Lock())

    # -- whose they are ------------------------------------------------------------------------

    async def of_token(self, token: str) -> KeptSession | None:
        """Return the session that this token opens; None: none. Raises as :meth:`have`."""
        name = self._opened_by(hashed(token))
        return None if name is None else await self.have(name)

    def is_token(self, token: str) -> bool:
        """Whether it opens any session."""
        return self._opened_by(hashed(token)) is not None

    async def new_token(self, name: str, *, alone: bool = False) -> str:
        """Return one more token of the session (``alone``: the others are no good any more).
        Raises as :meth:`have`.
        """
        kept, token = await self.have(name), secrets.token_urlsafe(24)
        registration = kept.registration.with_token(token, alone=alone)
        repository = kept.keeper.chain.repository
        await asyncio.to_thread(self._register.change, repository, registration)
        kept.registration = registration
        return token

    def _opened_by(self, given: str) -> str | None:
        """The tokens themselves are nowhere, and every one is compared: how long it takes says
        nothing about them.
        """
        found = None
        known = [kept.registration for kept in self._kept.values()]
        for registration in (*known, *self._elsewhere.values()):
            for token in registration.tokens:
                if hmac.compare_digest(token, given):
                    found = registration.name
        return found

    # -- what is told of them ------------------------------------------------------------------

    async def told(self, name: str) -> dict[str, Any]:
        """Return what is told of a session to who only asks: one that the store has stays where it
        is. Raises ``UnknownSession``, ``SessionDeleted``, and what the store raises.
        """
        kept = self._kept.get(name)
        if kept is not None:
            status, why = kept.keeper.status.json(), kept.keeper.why()
            return {"session": report(kept), "status": status, "why": why}
        registration, _ = await asyncio.to_thread(self._register.open, name)
        return {
            "session": {**registration.report(), "state": "stored"},
            "status": None,
            "why": None,
        }

    async def stored(self, name: str) -> Repository:
        """Return where the store has a session, which stays there. Raises as :meth:`told`."""
        _, repository = await asyncio.to_thread(self._register.open, name)
        return repository

    async def listed(self) -> list[dict[str, Any]]:
        """Return what is known of every session, those that only the store has too."""
        try:
            known = await asyncio.to_thread(self._register.stored)
            self._elsewhere = {one.name: one for one in known if one.name not in self._kept}
        except CheckpointError as error:
            log.info("the store's sessions are not known: %s", error)
        here = [report(kept) for kept in self]
        others = [{**one.report(), "state": "stored"} for one in self._elsewhere.values()]
        return sorted((*here, *others), key=lambda one: str(one["name"]))

    async def images(self) -> set[str]:
        """Return the images of all sessions, those that only the store has too. Raises what the
        store raises.
        """
        known = await asyncio.to_thread(self._register.stored)
        here = await asyncio.to_thread(self._register.here)
        kept = (one.registration for one in self)
        return {one.image for one in (*known, *here, *kept) if one.image}

    def stored_meta(self, name: str) -> dict[str, Any]:
        """Return what the newest checkpoint of a session that only the store has says of it. May
        block. Raises as :meth:`told`.
        """
        _, repository = self._register.open(name)
        newest, _ = repository.newest_intact()
        return dict(newest.meta) if newest is not None else {}

    # -- nodes ---------------------------------------------------------------------------------

    def node_changed(self, node: Node) -> None:
        """A node joined, came back, is suspect, leaves or is lost."""
        for kept in self:
            kept.keeper.node_changed(node)
        if node.connection is None or node.gone.done():
            return
        for name, epoch in node.hello.get("sessions", {}).items():
            known = name in self._kept or name in self._late
            if not known and not self._turn(name).locked():
                # Deleted, or another gateway's by now, and not one that is just being begun.
                call = {"session": name, "epoch": int(epoch)}
                self._in_background(node.call("session.close", call))

    def _in_background(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("what was done in the background for a session failed: %s", error)


def report(kept: KeptSession) -> dict[str, Any]:
    """Return what is told of a session that is kept."""
    status = kept.keeper.status
    checkpoint = status.checkpoint
    return {
        **kept.registration.report(),
        "state": status.state,
        "node": status.node,
        "message": status.message,
        "checkpoint": checkpoint.number if checkpoint else None,
        "saved_at": checkpoint.at if checkpoint else None,
        "kernels": sum(one.state != "ended" for one in kept.kernels.records.values()),
        "expires": kept.expires,
    }
