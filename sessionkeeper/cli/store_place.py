"""Which store the commands `sessionkeeper store …` work on, and how they show that they do."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from checkpoint.blobs import BlobStore, check_answers, open_store, probe
from checkpoint.keys import ENVIRONMENT, MasterKey, find_master_keys, master_keys_of_environment
from checkpoint.repository import Repository
from checkpoint.rotation import session_ids
from checkpoint.stores.opening import local_path
from sessionkeeper.errors import UsageError
from sessionkeeper.settings import UpSettings, load
from sessionkeeper.up.state import StateDirectory
from sessionkeeper.up.terminal import Terminal

__all__ = ["Place", "existing_store", "steps"]


class Place:
    """The store and the master keys that the flags mean."""

    def __init__(self, arguments: Namespace, *, writes: bool = False) -> None:
        """With `writes` the store is tried as a gateway tries it (`checkpoint.blobs.probe`)."""
        settings = load(UpSettings, {"state": arguments.state, "store": arguments.store})
        given = arguments.master_key
        self.url = settings.store
        self.state = StateDirectory(settings.state)
        self.key_file = Path(given) if given else self.state.master_key
        self.store = existing_store(self.url)
        if not self.key_file.exists() and not master_keys_of_environment():
            hint = f"give it with --master-key FILE or in {ENVIRONMENT}"
            raise UsageError(f"there is no master key {self.key_file}", hint=hint)
        self.masters: list[MasterKey] = find_master_keys(self.key_file)
        if writes:
            probe(self.store)

    def session(self, session_id: str) -> Repository:
        """A session that exists. Raises `UnknownSession` and errors of its key."""
        try:
            return Repository.existing(self.store, session_id, *self.masters)
        except ValueError as error:
            raise UsageError(str(error)) from None

    def sessions(self, wanted: str | None) -> Iterator[Repository]:
        for session_id in [wanted] if wanted else session_ids(self.store):
            yield self.session(session_id)

    def pools(self, wanted: str | None) -> Iterator[Repository]:
        """The sessions, one for each pool of packs."""
        seen = set()
        for repository in self.sessions(wanted):
            if repository.pool not in seen:
                seen.add(repository.pool)
                yield repository


def existing_store(url: str, flag: str = "--store") -> BlobStore:
    """The store of that URL. Raises `UsageError` when there is none: no command makes one."""
    directory = local_path(url)
    if directory is not None and not directory.is_dir():
        raise UsageError(f"there is no store {url}", hint=f"give one with {flag} URL")
    store = open_store(url)
    check_answers(store)
    return store


@contextmanager
def steps(arguments: Namespace, text: str) -> Iterator[Callable[[str, int, int], None]]:
    """Progress on standard error; at most one line a second, none of them for a program."""
    if arguments.json:
        yield lambda what, done, total: None
        return
    terminal, last = Terminal(), time.monotonic()

    def progress(what: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= 1:
            last = time.monotonic()
            terminal.say(f"{what}: {done} of {total} ({100 * done // max(1, total)} %)")

    with terminal.step(text):
        yield progress
