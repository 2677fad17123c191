"""A session is deleted: nothing of it is left, whatever others need stays, and nobody who still has
it can bring a part of it back."""

from __future__ import annotations

import threading

import pytest
from faulty_stores import DyingStore
from small_sessions import (
    MASTER,
    assert_all_readable,
    checkpoint,
    commit,
    grow,
    named,
    opened,
    packs,
)

from checkpoint import holder, tags
from checkpoint.blobs import Memory
from checkpoint.collect import collect
from checkpoint.deletion import delete
from checkpoint.errors import (
    SessionDeleted,
    SessionInUse,
    StaleWriter,
    StoreUnavailable,
    UnknownSession,
)
from checkpoint.fork import fork, forks
from checkpoint.fsck import check
from checkpoint.manifest import Body, Manifest
from checkpoint.repository import Repository
from checkpoint.retention import Retention

NOTHING = Retention(0, 0, 0)


def full(store: Memory) -> Repository:
    """A session with all that there may be of one, beside another one."""
    grow(opened(store, "other"), 2)
    repository = opened(store)
    grow(repository, 4)
    tags.tag(repository, "good", 2)
    grow(repository, 2)
    repository.prune(NOTHING)
    collect(repository)
    assert any(key.endswith("/garbage") for key in store.objects)
    return repository


def left(store: Memory, session: str = "one") -> list[str]:
    return [key for key in store.objects if key.startswith(f"sessions/{session}/")]


def test_nothing_of_it_is_left_and_nothing_else_is_touched() -> None:
    store = Memory()
    repository = full(store)
    others = {key: store.objects[key] for key in left(store, "other")}
    steps: list[tuple[str, int, int]] = []
    done = delete(repository, progress=lambda *step: steps.append(step))
    assert store.objects == others
    assert (done.checkpoints, done.kept_for, done.pool) == (2, (), None)
    assert ("deleting packs", done.packs, done.packs) in steps


@pytest.mark.parametrize("failed_is_done", [False, True])
@pytest.mark.parametrize("what", ["alone", "fork", "root of a fork", "last fork"])
def test_deletion_that_dies_at_any_write_leaves_no_damage_and_is_finished_by_another(
    what: str, failed_is_done: bool
) -> None:
    operations, died = 0, True
    while died:
        store = Memory()
        repository = full(store)
        kept: list[Repository] = [opened(store, "other")]
        if what != "alone":
            child = fork(repository, "child", MASTER)
            grow(child, 2)
        if what == "fork":
            kept.append(repository)
            repository = child
        elif what == "root of a fork":
            kept.append(child)
        elif what == "last fork":
            delete(repository)
            repository = child
        session, died = repository.session_id, False
        dying = DyingStore(store, operations, failed_is_done=failed_is_done)
        try:
            delete(Repository.existing(dying, session, MASTER))
        except StoreUnavailable:
            died = True
        # In between: nothing is damaged, garbage can be collected, it can be looked at.
        for one in kept:
            assert check(one).findings == []
            assert_all_readable(one)
        try:
            again = Repository.existing(store, session, MASTER)
        except UnknownSession:
            pass  # its key was the last of it
        else:
            assert check(again).findings == []
            collect(again)
            for one in kept:
                assert_all_readable(one)
            if not died and what == "root of a fork":
                assert again.is_closed()
            delete(again)
        for one in kept:
            assert check(one).findings == []
            assert_all_readable(one)
        if what == "root of a fork":
            assert packs(store)
            assert forks(repository) == ["child"]
        else:
            assert left(store, session) == []
        if what == "fork":
            assert forks(kept[1]) == []
        if what == "last fork":
            assert left(store) == []
        operations += 1
    assert operations > 5


def test_session_that_somebody_runs_is_not_deleted() -> None:
    store = Memory()
    repository = full(store)
    before = dict(store.objects)
    holder.say(repository, "a machine far away")
    runs = threading.Event()

    def heard(what: str, done: int, total: int) -> None:
        holder.say(repository, "a machine far away")
        runs.set()

    with pytest.raises(SessionInUse, match="run by a gateway on a machine far away"):
        delete(repository, progress=heard)
    assert runs.is_set()
    holder.take_back(repository)
    assert store.objects == before


def test_session_whose_gateway_is_silent_is_deleted_and_the_gateway_refused() -> None:
    """It was suspended, say, and goes on afterwards."""
    store = Memory()
    repository = full(store)
    newest = repository.newest()
    assert newest is not None
    holder.say(repository, "a machine that sleeps")
    with repository.writer(newest) as writer:
        chunk = writer.add(b"what it was about to save")
        body = Body(writer.finish(), chunk)
        delete(repository, silence=0.01)
        assert left(store) == []
        with pytest.raises(SessionDeleted):
            commit_as(repository, newest, body)
    assert left(store) == []


def commit_as(repository: Repository, newest: Manifest, body: Body) -> None:
    """As a gateway does that knows nothing of what happened since `newest`."""
    repository.commit(Manifest(newest.number + 1, newest.epoch, newest.number, 1.0, body))


def test_gateway_that_goes_on_during_the_deletion_is_refused() -> None:
    store = Memory()
    repository = full(store)
    newest = repository.newest()
    assert newest is not None
    dying = DyingStore(store, 1)
    with pytest.raises(StoreUnavailable):
        delete(Repository.existing(dying, "one", MASTER))
    with pytest.raises(StaleWriter):
        commit_as(repository, newest, Body())
    closing = repository.newest()
    assert closing is not None
    with pytest.raises(SessionDeleted):
        commit(repository, Body())
    with pytest.raises(SessionDeleted):
        fork(repository, "new", MASTER, number=newest.number)
    assert forks(repository) == []


def test_garbage_of_a_pool_does_not_wait_for_who_was_deleted() -> None:
    store = Memory()
    repository = full(store)
    child, other = fork(repository, "child", MASTER), fork(repository, "second", MASTER)
    grow(child, 3)
    grow(other, 3)
    child.prune(NOTHING)
    other.prune(NOTHING)
    collect(child)
    gone = named(repository, other) - named(child)
    delete(repository)
    delete(other)
    for _ in range(2):
        assert packs(store) & gone
        grow(child, 2)
        assert collect(child).waits_for == ()
    assert not packs(store) & gone
    assert_all_readable(child)


def test_fork_of_a_fork_goes_on_when_both_before_it_are_deleted() -> None:
    store = Memory()
    repository = full(store)
    child = fork(repository, "child", MASTER)
    grandchild = fork(child, "grandchild", MASTER)
    delete(repository)
    delete(child)
    assert_all_readable(grandchild)
    third = fork(grandchild, "third", MASTER)
    delete(grandchild)
    checkpoint(third, b"goes on")
    assert_all_readable(third)
    done = delete(third)
    assert done.pool == "one"
    assert not [key for key in store.objects if not key.startswith("sessions/other/")]


def test_who_was_there_and_ended_leaves_no_word() -> None:
    store = Memory()
    parent = opened(store)
    grow(parent, 2)
    child = fork(parent, "child", MASTER)
    assert holder.idle(parent) == ["one", "child"]
    holder.say(parent, "here")
    assert holder.idle(parent) == holder.idle(child) == ["child"]
    assert holder.runs(parent, silence=0.01) is None
    holder.take_back(parent)
    assert holder.runs(parent) is None
