"""Hibernation: a session without compute until somebody wants it, and all of it in the store."""

from __future__ import annotations

from collections.abc import Callable

from sessionkeeper.errors import SessionkeeperError
from sessionkeeper.keeper.presence import Presence


class NotHibernated(SessionkeeperError):
    """Its last checkpoint could not be made, so the compute stays."""

    code = "not_hibernated"
    retryable = True
    hint = "`sessionkeeper status` says what keeps it from being saved"


class Sleep:
    """Of one session. ``noted`` is told when it is different, before anything is done about it."""

    def __init__(self, presence: Presence, asleep: bool, noted: Callable[[bool], None]) -> None:
        self.asleep = asleep
        self._presence = presence
        self._noted = noted

    async def fall(self) -> None:
        """Have the session hibernate; returns when its compute is released. Raises
        :class:`NotHibernated`; it goes on then.
        """
        self._set(True)
        while self.asleep and self._presence.status.state not in {"hibernated", "failed"}:
            await self._presence.changes.watch()
        if not self.asleep:
            why = self._presence.status.warnings.get("checkpoint", "somebody wants it")
            raise NotHibernated(f"{self._presence.status.session} goes on: {why}")

    def wake(self) -> None:
        """Somebody wants it: it is to run again, as soon as a node has room."""
        if self.asleep:
            self._set(False)

    def _set(self, asleep: bool) -> None:
        self._noted(asleep)
        self.asleep = asleep
        self._presence.changes.note()
        self._presence.changes.tell()
