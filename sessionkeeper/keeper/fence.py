"""Which gateway has a session: one that finds another one in the chain lets go, and stays away.

A gateway that goes on from a checkpoint of another one first *claims* the session: it commits that
checkpoint once more, under its own name and a higher epoch. So the claim is a link of the chain,
and of a claim and a checkpoint that want the same number the store takes one. Whoever is refused
reads what is there: who wanted to claim goes on from it, who had the session has lost it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time

from checkpoint.errors import CheckpointError, SessionDeleted, StaleWriter
from sessionkeeper.keeper.chain import GATEWAY, Chain
from sessionkeeper.keeper.epochs import Epochs
from sessionkeeper.keeper.going_back import GoingBack
from sessionkeeper.keeper.presence import Presence

log = logging.getLogger(__name__)

EVERY = 5.0
"""Seconds between two looks at the chain while the session runs: one listing each."""

_HINT = "`sessionkeeper down` and `sessionkeeper up` here take it back"


class Fence:
    """``run`` tells one ``sessionkeeper up`` from the next: what was lost in one is taken back in
    the next, as its user wants it, and not by a gateway that is merely started again.
    """

    def __init__(
        self,
        chain: Chain,
        epochs: Epochs,
        going_back: GoingBack,
        presence: Presence,
        run: str | None,
    ) -> None:
        self._chain = chain
        self._epochs = epochs
        self._going_back = going_back
        self._presence = presence
        self._run = run or secrets.token_hex(8)
        self._overtaken = False
        self.lost = False
        """Another gateway has the session, and this one does not want it back."""

    def start(self) -> None:
        """The chain was read for the first time."""
        if self._chain.foreign and self._epochs.run == self._run:
            self._lose()

    def look(self) -> None:
        """Raises ``StaleWriter`` when there is a checkpoint of another gateway."""
        if self._overtaken:
            self._overtaken = False
            raise StaleWriter(self._presence.status.session, self._chain.last + 1, None)

    async def claim(self) -> int:
        """Begin a new epoch, in the chain too where the newest checkpoint is another gateway's;
        the epoch. Raises ``SessionDeleted``, and what the store raises.
        """
        while True:
            manifest = self._chain.manifest
            epoch = self._epochs.next(manifest.epoch if manifest else 0, run=self._run)
            if not self._chain.foreign:
                return epoch
            try:
                await self._chain.claim(epoch)
                return epoch
            except SessionDeleted:
                raise
            except StaleWriter:  # there is a newer one: go on from that
                await self._chain.read()
                await self._going_back.adopt()

    async def yield_to(self, error: StaleWriter) -> None:
        """The chain is another's: say whose."""
        self._epochs.remember(self._run)
        await self._chain.read()
        if isinstance(error, SessionDeleted) or self._chain.deleted:
            self._presence.status.say(f"{error} {error.hint}", "error")
        else:
            self._lose()

    def take_back(self) -> None:
        """Its user wants it here."""
        if self.lost:
            self.lost = False
            self._presence.status.warn("owner", None)

    async def watch(self, every: float = EVERY) -> None:
        """Look whether another gateway has the session, again and again, until cancelled."""
        while True:
            await asyncio.sleep(every)
            if self._presence.here is None:
                continue
            with contextlib.suppress(CheckpointError):  # the next checkpoint tells, at the latest
                if await self._chain.is_overtaken():
                    self._overtaken = True
                    self._presence.changes.note()

    def _lose(self) -> None:
        self.lost = True
        manifest = self._chain.manifest
        who = manifest.meta.get(GATEWAY) if manifest and self._chain.foreign else None
        said = "another gateway has this session"
        if who is not None:
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(who["since"]))
            said += f" since {since}, on {who['where']}"
        self._presence.status.warn("owner", f"{said}; its compute here was ended. {_HINT}")
