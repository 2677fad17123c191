"""Which sessions there are: those of this gateway on its disk, all of them in the store.

What is agreed of a session is written to the store first. So a gateway that lost its disk, or
another one, finds every session with its tokens; what this one keeps is only the list of those that
it goes on with by itself when it is started again.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from checkpoint import labels
from checkpoint.blobs import BlobStore
from checkpoint.errors import CheckpointError, SessionDeleted, SessionExists, UnknownSession
from checkpoint.keys import KeyWrapper
from checkpoint.repository import Repository
from gateway import durable
from sessionkeeper.registration import Registration, decode

log = logging.getLogger(__name__)


class Register:
    """``directory`` has one below it for each session. All but :meth:`home` may block."""

    def __init__(self, directory: Path, store: BlobStore, *masters: KeyWrapper) -> None:
        self._directory = directory
        self._store = store
        self._masters = masters

    def home(self, name: str) -> Path:
        """Return where this gateway has what belongs to the session."""
        return self._directory / name

    def here(self) -> list[Registration]:
        """Return the sessions to go on with. One whose file is damaged is found in the store."""
        found = []
        for file in sorted(self._directory.glob(f"*/{_FILE}")):
            try:
                found.append(decode(file.read_bytes()))
            except ValueError as error:
                log.error("%s: %s", file, error)
                found += self._stored(file.parent.name)
        return found

    def stored(self) -> list[Registration]:
        """Return what the store knows of all sessions. Raises what the store raises."""
        with ThreadPoolExecutor(8, "register") as pool:
            found = pool.map(self._stored, labels.sessions(self._store))
            return [one for several in found for one in several]

    def begin(self, registration: Registration) -> Repository:
        """Note a new session. Raises ``SessionExists``, and what the store raises."""
        name = registration.name
        try:
            Repository.existing(self._store, name, *self._masters)
        except UnknownSession:
            repository = Repository.open(self._store, name, *self._masters)
        else:
            error = SessionExists(name)
            error.hint = "`sessionkeeper session resume NAME` has one here that the store has"
            raise error
        labels.put(repository, registration.encode())
        self.keep(registration)
        return repository

    def open(self, name: str) -> tuple[Registration, Repository]:
        """Return a session of the store; one of which nothing is remembered is nobody's.

        Raises ``UnknownSession``, ``SessionDeleted``, and what the store raises.
        """
        repository = Repository.existing(self._store, name, *self._masters)
        if repository.is_closed():
            raise SessionDeleted(name)
        found = labels.get(repository)
        return decode(found) if found else Registration(name), repository

    def change(self, repository: Repository, registration: Registration) -> None:
        """What is agreed is this from now on. Raises what the store raises."""
        labels.put(repository, registration.encode())
        if (self.home(registration.name) / _FILE).exists():
            self.keep(registration)

    def keep(self, registration: Registration) -> None:
        """Go on with the session whenever this gateway is started."""
        home = self.home(registration.name)
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        durable.replace(home / _FILE, registration.encode().decode())

    def hibernate(self, registration: Registration, hibernated: bool) -> Registration:
        """Whether it stays without compute concerns this gateway alone."""
        registration = replace(registration, hibernated=hibernated)
        self.keep(registration)
        return registration

    def _stored(self, name: str) -> list[Registration]:
        try:
            found = labels.get(Repository.existing(self._store, name, *self._masters))
            if found is not None:
                return [decode(found)]
        except UnknownSession:
            pass
        except (CheckpointError, ValueError) as error:
            log.error("session %s is left out: %s", name, error)
        return []


_FILE = "session.json"
