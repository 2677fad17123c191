"""Word of who runs a session: an object that is written anew again and again while somebody does.

Nobody's clock is asked whether a word is old: who wants to know watches whether it changes. That
tells people and clean-up who is there; it is no lock. What keeps two writers apart is the chain.

A word is taken back only when nothing of the session is left anywhere: no process that might still
name a pack it stored. Where there is none, the session is idle.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from checkpoint.errors import Damaged, NotFound, UnknownFormat
from checkpoint.fork import pool_sessions
from checkpoint.repository import Repository
from checkpoint.sealed import HOLDER

EVERY = 20.0
"""Seconds between two words: some 4,000 small writes a day."""

SILENCE = 60.0
"""Seconds after which one that has not changed is of somebody who is gone, or stands still."""

_POLL = 0.5


def say(repository: Repository, where: str) -> None:
    """Give word that the session is run, by a gateway on the machine `where`."""
    plain = json.dumps({"where": where}).encode()
    data = HOLDER.encode(repository.keys, plain, repository.session_id)
    repository.blobs.put(_KEY, data)


def take_back(repository: Repository) -> None:
    """Nobody runs the session any more."""
    repository.blobs.delete(_KEY)


def idle(repository: Repository) -> list[str]:
    """The sessions of the pool that nobody runs."""
    return [one.session_id for one in pool_sessions(repository) if _word(one) is None]


def runs(
    repository: Repository,
    *,
    silence: float = SILENCE,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> str | None:
    """Where the session is run; None when nobody does. Watches for up to `silence` seconds where
    somebody did and did not say that it has ended. Raises what the store raises.
    """
    word = _word(repository)
    began = time.monotonic()
    while word is not None and (gone := time.monotonic() - began) < silence:
        now = _word(repository)
        if now != word:
            return None if now is None else _where(repository, now)
        progress("watching whether somebody runs it", int(gone), int(silence))
        time.sleep(min(_POLL, silence))
    return None


def _word(repository: Repository) -> bytes | None:
    try:
        return repository.blobs.get(_KEY)
    except NotFound:
        return None


def _where(repository: Repository, word: bytes) -> str:
    try:
        plain = HOLDER.decode(repository.keys, word, repository.session_id, "A word")
        found: dict[str, Any] = json.loads(plain)
        return str(found["where"])
    except (Damaged, UnknownFormat, LookupError, TypeError, ValueError):
        return "an unknown machine"


_KEY = "holder"
