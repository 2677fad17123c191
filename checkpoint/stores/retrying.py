"""Trying again, with pauses that spread callers out instead of lining them up."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from checkpoint.errors import AlreadyExists, StoreError, TransferBroken
from checkpoint.stores.protocol import BlobStore, Buffer

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS
    Architecture Blog, 2015). All figures in seconds.
    """

    first: float = 0.1
    """The longest pause after the first failure; doubled after each further one."""
    most: float = 5.0
    """No pause is longer."""
    limit: float = 20.0
    """Nothing is tried again when it could not begin within this time after the first try."""

    def pause(self, failures: int, chance: float) -> float:
        """How long to wait after so many failures (at least 1); `chance` is from [0, 1)."""
        return chance * min(self.most, self.first * 2.0 ** min(failures - 1, 60))


DEFAULT_BACKOFF = Backoff()


class Retrying:
    """Another store, with failures that may pass tried again. Thread-safe if that store is.

    A `get` that broke in its middle goes on where it stopped, and begins its time anew, as far as
    the store tells (`TransferBroken`); a `list` goes on after the last key it gave. A `create`
    whose answer was lost is a success when what is there has these very bytes: other writers never
    write the same ones, as they seal what they write.

    Raises what the store raised last, once `backoff.limit` is used up, and at once what is not
    retryable.
    """

    def __init__(self, store: BlobStore, backoff: Backoff = DEFAULT_BACKOFF) -> None:
        self.store = store
        self.backoff = backoff

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        attempt = Attempts(self.backoff, f"reading {key}")
        fetch: Callable[[], bytes] = partial(self.store.get, key, start, length)
        while True:
            try:
                return fetch()
            except TransferBroken as error:
                if error.received:
                    attempt.progress()
                fetch = error.resume
                attempt.failed(error)
            except StoreError as error:
                attempt.failed(error)

    def put(self, key: str, data: Buffer) -> None:
        self._retried(f"writing {key}", partial(self.store.put, key, data))

    def create(self, key: str, data: Buffer) -> None:
        attempt = Attempts(self.backoff, f"creating {key}")
        while True:
            try:
                return self.store.create(key, data)
            except AlreadyExists:
                if not attempt.failures or self.get(key) != data:
                    raise
                return None
            except StoreError as error:
                attempt.failed(error)

    def list(self, prefix: str) -> Iterator[str]:
        attempt = Attempts(self.backoff, f"listing {prefix}")
        last = ""
        while True:
            try:
                for key in self.store.list(prefix):
                    if key > last:
                        attempt.progress()
                        last = key
                        yield key
                return
            except StoreError as error:
                attempt.failed(error)

    def delete(self, key: str) -> None:
        self._retried(f"deleting {key}", partial(self.store.delete, key))

    def _retried(self, what: str, operation: Callable[[], _T]) -> _T:
        attempt = Attempts(self.backoff, what)
        while True:
            try:
                return operation()
            except StoreError as error:
                attempt.failed(error)


class Attempts:
    """The tries of one operation: counts failures, and waits or gives up."""

    def __init__(self, backoff: Backoff, what: str) -> None:
        self.failures = 0
        self._backoff = backoff
        self._what = what
        self._began = time.monotonic()

    def progress(self) -> None:
        """Something was achieved since the last failure: pauses and time begin anew."""
        self.failures = 0
        self._began = time.monotonic()

    def failed(self, error: StoreError) -> None:
        """Return when it is time for the next try. Raises `error` when there is none."""
        self.failures += 1
        pause = self._backoff.pause(self.failures, random.random())  # noqa: S311
        late = time.monotonic() + pause - self._began > self._backoff.limit
        if not error.retryable or late:
            raise error
        level = logging.INFO if self.failures == 1 else logging.DEBUG
        _log.log(
            level, "%s: failure %d, again in %.2f s: %s", self._what, self.failures, pause, error
        )
        time.sleep(pause)
