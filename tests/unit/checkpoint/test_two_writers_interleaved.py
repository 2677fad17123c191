"""One that has a session and one that takes it over, in every order of what they ask the store."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pytest
from small_sessions import KEYS

from checkpoint.blobs import BlobStore, Buffer, Memory
from checkpoint.errors import StaleWriter
from checkpoint.manifest import Body, Manifest
from checkpoint.repository import Repository

OLD, NEW = "old", "new"


class Turns:
    """Lets two threads go on one operation at a time, as `order` says; who is left goes on."""

    def __init__(self, order: Iterable[str]) -> None:
        self._order = list(order)
        self._there = {OLD, NEW}
        self._changed = threading.Condition()

    def take(self, who: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._next() in {who, None}, timeout=10)
            if self._order:
                self._order.pop(0)
            self._changed.notify_all()

    def leave(self, who: str) -> None:
        with self._changed:
            self._there.discard(who)
            self._changed.notify_all()

    def _next(self) -> str | None:
        while self._order and self._order[0] not in self._there:
            self._order.pop(0)
        return self._order[0] if self._order else None


class InTurn:
    """A store whose operations wait for their turn."""

    def __init__(self, store: BlobStore, who: str, turns: Turns) -> None:
        self.store, self._who, self._turns = store, who, turns

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        self._turns.take(self._who)
        return self.store.get(key, start, length)

    def put(self, key: str, data: Buffer) -> None:
        self._turns.take(self._who)
        self.store.put(key, data)

    def create(self, key: str, data: Buffer) -> None:
        self._turns.take(self._who)
        self.store.create(key, data)

    def list(self, prefix: str) -> Iterator[str]:
        self._turns.take(self._who)
        return self.store.list(prefix)

    def delete(self, key: str) -> None:
        self._turns.take(self._who)
        self.store.delete(key)


def _manifest(base: Manifest | None, epoch: int, by: str) -> Manifest:
    number = base.number if base else 0
    return Manifest(number + 1, epoch, number or None, 0.0, Body(meta={"by": by}))


def _claimed(repository: Repository) -> Manifest:
    """As a gateway does: the newest checkpoint once more, under a higher epoch."""
    while True:
        newest = repository.newest()
        assert newest is not None
        claim = replace(
            newest, number=newest.number + 1, epoch=newest.epoch + 1, parent=newest.number
        )
        try:
            repository.commit(claim)
        except StaleWriter:
            continue
        return claim


def _play(order: Iterable[str]) -> None:
    store, turns = Memory(), Turns(order)
    first = _manifest(None, 1, OLD)
    Repository(store, "one", KEYS).commit(first)
    acknowledged: list[Manifest] = []
    refused: list[StaleWriter] = []
    claims: list[Manifest] = []

    def old() -> None:
        base = first
        repository = Repository(InTurn(store, OLD, turns), "one", KEYS)
        try:
            for _ in range(2):
                base = _manifest(base, 1, OLD)
                repository.commit(base)
                acknowledged.append(base)
        except StaleWriter as error:
            refused.append(error)

    def new() -> None:
        repository = Repository(InTurn(store, NEW, turns), "one", KEYS)
        claims.append(_claimed(repository))
        last = _manifest(claims[0], claims[0].epoch, NEW)
        repository.commit(last)  # nobody takes it away
        acknowledged.append(last)

    def player(who: str, play: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                play()
            finally:
                turns.leave(who)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    for thread in [player(OLD, old), player(NEW, new)]:
        thread.join()
    repository = Repository(store, "one", KEYS)
    chain = [repository.load(number) for number in repository.numbers()]
    [claim] = claims
    assert all(one in chain for one in acknowledged)
    assert [one.epoch for one in chain] == sorted(one.epoch for one in chain)
    before = [one for one in chain if one.epoch == 1]
    old_ones = [first, *(one for one in acknowledged if one.epoch == 1)]
    # One may be there that was not acknowledged: it came before the claim, and was told of it.
    assert old_ones == before[: len(old_ones)]
    assert len(before) - len(old_ones) <= len(refused)
    assert (claim.parent, claim.body) == (before[-1].number, before[-1].body)
    assert [one.meta["by"] for one in chain[len(before) + 1 :]] == [NEW]
    assert len(refused) == (len(old_ones) < 3)
    assert all("Another writer has session 'one'" in str(error) for error in refused)


@pytest.mark.parametrize("begins", range(5))
def test_claim_and_checkpoints_in_any_order_leave_one_chain(begins: int) -> None:
    """`begins`: how many operations the old one is ahead; then four more of its operations, in all
    orders among those of the claim and of the checkpoint after it."""
    for places in itertools.combinations(range(11), 4):
        order = [OLD if at in places else NEW for at in range(11)]
        _play([OLD] * begins + order)
