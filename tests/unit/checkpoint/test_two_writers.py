"""Two incarnations of a session write at once: one of them commits, the other one is told."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from checkpoint.blobs import LocalDirectory, Memory
from checkpoint.errors import StaleWriter
from checkpoint.keys import SessionKeys
from checkpoint.manifest import Body, Manifest
from checkpoint.objects import load_object, store_object
from checkpoint.repository import Repository

KEYS = SessionKeys(b"k" * 32)
writer_module = sys.modules["checkpoint.writer"]


def _content(mark: int) -> bytes:
    return b"what the session holds: %d\n" % mark * 100


class Incarnation:
    """A session on a node: it went on from the newest checkpoint, and adds to it."""

    def __init__(self, store: Memory, epoch: int) -> None:
        self.epoch = epoch
        self.repository = Repository(store, "one", KEYS)
        self.base = self.repository.newest()
        self.writer = self.repository.writer(self.base)
        self.marks: list[int] = list(self.base.meta["marks"]) if self.base else []
        self.stored: Manifest | None = None
        self.refused: StaleWriter | None = None

    def save(self, mark: int) -> None:
        """Store everything of the next checkpoint; nobody knows of it yet."""
        self.marks.append(mark)
        roots = [store_object(self.writer, _content(mark)).id for mark in self.marks]
        listed = store_object(self.writer, b"".join(roots)).id
        number = self.base.number + 1 if self.base else 1
        parent = self.base.number if self.base else None
        body = Body(self.writer.finish(), listed, meta={"marks": list(self.marks)})
        self.stored = Manifest(number, self.epoch, parent, float(number), body)

    def commit(self) -> None:
        assert self.stored is not None
        try:
            self.repository.commit(self.stored)
        except StaleWriter as refused:
            self.refused = refused
        else:
            self.base = self.stored
        self.stored = None


class Fenced(RuleBasedStateMachine):
    """Up to four incarnations, of growing epochs, each in the middle of anything."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Memory()
        self.lives = [Incarnation(self.store, 1)]
        self.committed: list[Manifest] = []

    @precondition(lambda self: len(self.lives) < 4)
    @rule()
    def open_elsewhere(self) -> None:
        self.lives.append(Incarnation(self.store, self.lives[-1].epoch + 1))

    @rule(which=st.integers(0, 3), mark=st.integers(0, 9))
    def save(self, which: int, mark: int) -> None:
        life = self.lives[which % len(self.lives)]
        if life.refused is None and life.stored is None:
            life.save(mark)

    @rule(which=st.integers(0, 3))
    def commit(self, which: int) -> None:
        life = self.lives[which % len(self.lives)]
        if life.stored is None:
            return
        wanted = life.stored
        life.commit()
        newest = self.committed[-1] if self.committed else None
        if life.refused is None:
            assert wanted.number == len(self.committed) + 1
            assert newest is None or newest.epoch <= wanted.epoch
            self.committed.append(wanted)
        else:
            assert newest is not None
            assert newest.number >= wanted.number or newest.epoch > wanted.epoch
            assert (life.refused.number, life.refused.epoch) == (newest.number, newest.epoch)

    @invariant()
    def one_history(self) -> None:
        repository = Repository(self.store, "one", KEYS)
        assert [repository.load(number) for number in repository.numbers()] == self.committed
        epochs = [manifest.epoch for manifest in self.committed]
        assert epochs == sorted(epochs)

    def teardown(self) -> None:
        repository = Repository(self.store, "one", KEYS)
        for manifest in self.committed:
            repository.verify(manifest)
            assert manifest.tree is not None
            with repository.reader(manifest) as reader:
                ids = load_object(reader, manifest.tree)
                for at, mark in enumerate(manifest.meta["marks"]):
                    assert load_object(reader, ids[32 * at : 32 * at + 32]) == _content(mark)
        for life in self.lives:
            life.writer.close()


TestFenced = Fenced.TestCase
TestFenced.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_packs_of_a_refused_writer_harm_no_checkpoint() -> None:
    """Both stored the same content; the chunks of the refused one are in packs nobody names."""
    store = Memory()
    old = Incarnation(store, 1)
    old.save(1)
    old.commit()
    new = Incarnation(store, 2)
    for life in (old, new):
        life.save(2)
    new.commit()
    old.commit()
    assert old.refused is not None
    assert old.refused.epoch == 2
    assert "checkpoint 2 exists, written under epoch 2" in str(old.refused)
    newest, skipped = new.repository.newest_intact(verify=True)
    assert newest == new.base
    assert skipped == []
    for life in (old, new):
        life.writer.close()


def _race(store: Path, epoch: int, rounds: int) -> None:
    """In a process of its own: commit until told that another one has the session."""
    repository = Repository(LocalDirectory(store), "one", KEYS)
    for _ in range(rounds):
        base = repository.newest()
        with repository.writer(base) as writer:
            root = store_object(writer, _content(epoch)).id
            body = Body(writer.finish(), root, meta={"by": os.getpid()})
        number = base.number + 1 if base else 1
        try:
            repository.commit(Manifest(number, epoch, None, 0.0, body))
        except (StaleWriter, ValueError):  # somebody was faster; at a higher epoch for good
            newest = repository.newest()
            if newest is not None and newest.epoch > epoch:
                os._exit(3)
    os._exit(0)


@pytest.mark.parametrize("round_", range(3))
def test_of_processes_that_race_the_highest_epoch_wins(tmp_path: Path, round_: int) -> None:
    LocalDirectory(tmp_path)
    children = []
    for epoch in (1, 2, 3):
        child = os.fork()
        if child == 0:
            try:
                _race(tmp_path, epoch, 10 * epoch)
            finally:
                os._exit(1)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes[-1] == 0
    assert set(codes) <= {0, 3}
    repository = Repository(LocalDirectory(tmp_path), "one", KEYS)
    numbers = repository.numbers()
    assert numbers == list(range(1, len(numbers) + 1))
    epochs = [repository.load(number).epoch for number in numbers]
    assert epochs == sorted(epochs)
    assert epochs[-1] == 3
    for number in numbers:
        repository.verify(repository.load(number))
