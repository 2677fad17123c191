from __future__ import annotations

import contextlib
import secrets

import pytest
from faulty_stores import DyingStore
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from small_sessions import (
    MASTER,
    assert_all_readable,
    assert_readable,
    body,
    checkpoint,
    commit,
    grow,
    named,
    opened,
    packs,
)

from checkpoint import holder, tags
from checkpoint.blobs import Memory
from checkpoint.collect import Collected, collect
from checkpoint.errors import Damaged, StoreUnavailable, UnknownCheckpoint, UnknownFormat
from checkpoint.fork import encode_marker, fork, marker_key
from checkpoint.manifest import Body, Manifest
from checkpoint.repository import Repository
from checkpoint.retention import Retention
from checkpoint.writer import Writer

NOTHING = Retention(all=0, hourly=0, daily=0)


def test_garbage_goes_once_the_session_has_gone_on_twice() -> None:
    store = Memory()
    repository = opened(store)
    grow(repository, 6)
    repository.prune(NOTHING)
    garbage = packs(store) - named(repository)
    assert len(garbage) == 4
    assert collect(repository) == Collected((), 4, ())
    assert collect(repository) == Collected((), 4, ("one",))
    grow(repository, 1)
    assert collect(repository).waits_for == ("one",)
    grow(repository, 1)
    assert set(collect(repository).deleted) == garbage
    assert packs(store) >= named(repository)
    assert not packs(store) & garbage
    assert_all_readable(repository)


def test_nothing_to_collect_leaves_nothing_behind() -> None:
    store = Memory()
    repository = opened(store)
    grow(repository, 2)
    before = dict(store.objects)
    assert collect(repository) == Collected((), 0, ())
    assert store.objects == before


def test_when_nobody_writes_garbage_goes_at_once() -> None:
    store = Memory()
    repository = opened(store)
    grow(repository, 6)
    repository.prune(NOTHING)
    assert len(collect(repository, offline=True).deleted) == 4
    assert packs(store) == named(repository)
    assert_all_readable(repository)


def test_packs_of_a_checkpoint_under_way_stay() -> None:
    """The first commit after the list may be of a body finished before; so may the packs stored
    for the next one."""
    store = Memory()
    repository = opened(store)
    grow(repository, 1)
    with repository.writer(repository.newest()) as writer:
        ready = body(writer, b"finished, not committed")
        names = [writer.add(secrets.token_bytes(1 << 20)) for _ in range(9)]
        for upload in writer._uploads:
            upload.result()
        stored = packs(store)
        collect(repository)
        commit(repository, ready)
        assert collect(repository).deleted == ()
        assert packs(store) == stored
        writer.keep(names)
        second = commit(repository, Body(writer.finish(), names[0]))
        collect(repository)
        repository.verify(second)


def test_session_that_has_a_fork_waits_for_it_too_unless_it_is_idle() -> None:
    store = Memory()
    parent = opened(store)
    grow(parent, 3)
    child = fork(parent, "two", MASTER)
    grow(parent, 3)
    parent.prune(NOTHING)
    collect(parent)
    grow(parent, 2)
    assert collect(parent).waits_for == ("two",)
    deleted = collect(child, idle={"two"}).deleted
    assert deleted
    assert_all_readable(parent)
    assert_all_readable(child)


def test_fork_keeps_its_chunks_when_the_parent_forgets_them() -> None:
    store = Memory()
    parent = opened(store)
    grow(parent, 3)
    child = fork(parent, "two", MASTER, number=2)
    grandchild = fork(child, "three", MASTER)
    grow(parent, 3)
    grow(grandchild, 2)
    parent.prune(NOTHING)
    collect(parent, offline=True)
    for repository in (parent, child, grandchild):
        assert_all_readable(repository)
    assert packs(store) == named(parent, child, grandchild)
    assert not packs(store, "two")


def test_unreadable_checkpoint_stops_the_collection() -> None:
    """Nobody knows what it names."""
    store = Memory()
    repository = opened(store)
    grow(repository, 4)
    key = "sessions/one/manifests/00000002"
    for bad, error in ((b"SKMF\x01nothing", Damaged), (b"SKMF\x09nothing", UnknownFormat)):
        store.objects[key] = bad
        before = dict(store.objects)
        with pytest.raises(error, match="Checkpoint 2 of session 'one'"):
            collect(repository, offline=True)
        assert store.objects == before


def test_damaged_list_of_garbage_is_made_anew_and_a_newer_one_respected() -> None:
    store = Memory()
    repository = opened(store)
    grow(repository, 3)
    repository.prune(NOTHING)
    collect(repository)
    whole = store.objects["sessions/one/garbage"]
    grow(repository, 2)
    store.objects["sessions/one/garbage"] = whole[:-1] + bytes([whole[-1] ^ 1])
    assert collect(repository).deleted == ()
    grow(repository, 2)
    assert collect(repository).deleted
    store.objects["sessions/one/garbage"] = whole[:4] + b"\x09" + whole[5:]
    with pytest.raises(UnknownFormat, match="list of garbage"):
        collect(repository)


def test_list_is_void_when_a_checkpoint_made_since_is_gone() -> None:
    store = Memory()
    repository = opened(store)
    grow(repository, 3)
    repository.prune(NOTHING)
    collect(repository)
    grow(repository, 3)
    assert repository.prune(NOTHING) == [3]  # the others wait for the collection
    store.delete("sessions/one/manifests/00000004")
    assert collect(repository).deleted == ()


@pytest.mark.parametrize("failed_is_done", [False, True])
def test_crash_at_any_operation_loses_nothing_and_the_next_run_finishes(
    failed_is_done: bool,
) -> None:
    """Prune, fork, tag, collect, go on, collect on a store that dies after operation n, for
    all n."""
    operations, died = 0, True
    while died:
        store = Memory()
        grow(opened(store), 4)
        repository = opened(DyingStore(store, operations, failed_is_done=failed_is_done))
        died = False
        try:
            tags.tag(repository, "good", 2)
            child = fork(repository, "two", MASTER, number=3)
            repository.prune(NOTHING)
            collect(repository)
            for one in (repository, child, repository, child):
                grow(one, 1)
            repository.prune(NOTHING)
            collect(repository)
        except StoreUnavailable:
            died = True
        whole = opened(store)
        assert_all_readable(whole)
        for name in tags.names(whole.blobs):
            assert_readable(whole, tags.resolve(whole, name))
        child = fork(whole, "two", MASTER) if not whole_fork(store) else opened(store, "two")
        assert_all_readable(child)
        collect(whole, offline=True)
        assert packs(store) == named(whole, child)
        assert_all_readable(whole)
        assert_all_readable(child)
        operations += 1
    assert operations > 15


def whole_fork(store: Memory) -> bool:
    return "sessions/two/manifests/00000001" in store.objects


class Pool(RuleBasedStateMachine):
    """Writers, forks, tags, prunes, collections and crashes of all of them, against what was
    reported as committed."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Memory()
        self.sessions: dict[str, Repository] = {"s0": opened(self.store, "s0")}
        self.writers: dict[str, Writer] = {}
        self.ready: dict[str, Body] = {}
        self.tagged: dict[tuple[str, str], Manifest] = {}
        self.committed: dict[tuple[str, int], Manifest] = {}
        self.recent: dict[str, list[bytes]] = {"s0": []}
        self.go_on(0, 3)

    which = st.sampled_from([0, 0, 1, 2])
    crash = st.sampled_from([None, None, None, 0, 1, 2, 3])

    def _name(self, which: int) -> str:
        names = sorted(self.sessions)
        return names[which % len(names)]

    def _writer(self, name: str) -> Writer:
        if name not in self.writers:
            repository = self.sessions[name]
            self.writers[name] = repository.writer(repository.newest())
            self.ready.pop(name, None)
        return self.writers[name]

    @rule(which=which, old=st.integers(0, 3))
    def finish(self, which: int, old: int) -> None:
        """A body, of a new chunk and chunks that the writer holds; it is committed later."""
        name = self._name(which)
        writer = self._writer(name)
        assume(name not in self.ready)
        new = secrets.token_bytes(100)
        again = self.recent[name][-old:] if old else []
        self.recent[name] = [*again, new]
        self.ready[name] = body(writer, new, *again)

    @rule(which=which)
    def store_and_give_up(self, which: int) -> None:
        """Packs that a later checkpoint of the same writer may name."""
        writer = self._writer(self._name(which))
        content = secrets.token_bytes(100)
        writer.add(content)
        with writer._lock:
            writer._close_pack()
        writer.abort()
        self.recent[self._name(which)].append(content)

    @rule(which=which)
    def commit(self, which: int) -> None:
        name = self._name(which)
        ready = self.ready.pop(name, None)
        if ready is not None:
            manifest = commit(self.sessions[name], ready)
            self.committed[name, manifest.number] = manifest

    @rule(which=which, times=st.integers(1, 3))
    def go_on(self, which: int, times: int) -> None:
        for _ in range(times):
            if self._name(which) not in self.ready:
                self.finish(which, 1)
            self.commit(which)

    @rule(which=which, node=st.booleans())
    def lose_body(self, which: int, node: bool) -> None:
        """Its answer, or the whole node."""
        name = self._name(which)
        self.ready.pop(name, None)
        if node and name in self.writers:
            self.writers.pop(name).close()

    @rule(which=which, at=st.integers(0, 9), crash=crash)
    @precondition(lambda self: len(self.sessions) < 3)
    def fork(self, which: int, at: int, crash: int | None) -> None:
        parent = self.sessions[self._name(which)]
        numbers = parent.numbers()
        assume(numbers)
        name = f"s{len(self.sessions)}"
        number = numbers[at % len(numbers)]
        store = self.store if crash is None else DyingStore(self.store, crash)
        try:
            made = fork(opened(store, parent.session_id), name, MASTER, number=number)
        except StoreUnavailable:
            return
        self.sessions[name] = opened(self.store, name)
        self.committed[name, 1] = made.load(1)
        self.recent[name] = []

    @rule(which=which, at=st.integers(0, 9), name=st.sampled_from("ab"))
    def tag(self, which: int, at: int, name: str) -> None:
        session = self._name(which)
        numbers = self.sessions[session].numbers()
        assume(numbers)
        number = tags.tag(self.sessions[session], name, numbers[at % len(numbers)])
        self.tagged[session, name] = self.committed[session, number]

    @rule(which=which, name=st.sampled_from("ab"))
    def untag(self, which: int, name: str) -> None:
        session = self._name(which)
        if self.tagged.pop((session, name), None):
            tags.untag(self.sessions[session], name)

    @rule(which=which, crash=crash)
    def prune(self, which: int, crash: int | None) -> None:
        name = self._name(which)
        store = self.store if crash is None else DyingStore(self.store, crash)
        with contextlib.suppress(StoreUnavailable):
            opened(store, name).prune(NOTHING)
        left = set(self.sessions[name].numbers())
        kept = {
            manifest.number for (session, _), manifest in self.tagged.items() if session == name
        }
        known = {number for session, number in self.committed if session == name}
        assert kept <= left
        assert not known or max(known) in left
        for number in known - left:
            del self.committed[name, number]

    @rule(which=which, crash=crash, first=st.booleans())
    def collect(self, which: int, crash: int | None, first: bool) -> None:
        """After something to collect was made, at times."""
        if first:
            self.prune(which, None)
        store = self.store if crash is None else DyingStore(self.store, crash)
        with contextlib.suppress(StoreUnavailable):
            collect(opened(store, self._name(which)))

    @invariant()
    def all_that_was_committed_and_not_pruned_is_readable(self) -> None:
        for (name, number), manifest in self.committed.items():
            assert self.sessions[name].load(number) == manifest
            assert_readable(self.sessions[name], manifest)

    def teardown(self) -> None:
        for writer in self.writers.values():
            writer.close()
        first = self.sessions["s0"]
        marks = 0
        while marks < 2:  # garbage goes while all go on, without anybody saying that they are idle
            for repository in self.sessions.values():
                checkpoint(repository, secrets.token_bytes(10))
                checkpoint(repository, secrets.token_bytes(10))
            marks += 1
            unfinished = {f"s{n}" for n in range(4)} - set(self.sessions)
            collect(first, idle=unfinished)
        assert packs(self.store, "s0") >= named(*self.sessions.values())
        collect(first, offline=True)
        assert packs(self.store, "s0") == named(*self.sessions.values())


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)


def test_fork_that_nobody_runs_keeps_no_garbage_of_its_parent() -> None:
    """Nor does one whose making ended after its marker was there."""
    store = Memory()
    parent = opened(store)
    grow(parent, 3)
    never_run = fork(parent, "two", MASTER)
    store.create(marker_key("one", "three"), encode_marker(parent, "three"))
    holder.say(parent, "a machine")
    for _ in range(3):
        grow(parent, 4)
        parent.prune(NOTHING)
        found = collect(parent, idle=holder.idle(parent))
        assert found.waits_for == ()
    assert found.deleted
    assert len(parent.numbers()) <= 5
    assert_all_readable(parent)
    assert_all_readable(never_run)


def test_fork_of_a_checkpoint_that_goes_meanwhile_is_refused_and_undone() -> None:
    store = Memory()
    parent = opened(store)
    grow(parent, 3)

    class Prunes(Memory):
        """Before the fork's first checkpoint is there, its parent's is not any more."""

        def create(self, key: str, data: bytes | bytearray | memoryview) -> None:
            if key == "sessions/two/manifests/00000001":
                for _ in range(2):
                    parent.prune(NOTHING)
                    collect(parent, idle=holder.idle(parent))
                    grow(parent, 2)
            super().create(key, data)

    prunes = Prunes()
    prunes.objects = store.objects
    with pytest.raises(UnknownCheckpoint):
        fork(opened(prunes), "two", MASTER, number=2)
    assert not [key for key in store.list("sessions/") if "two" in key]
    assert_all_readable(parent)


def test_collection_goes_on_when_checkpoints_go_while_it_looks() -> None:
    store = Memory()
    parent = opened(store)
    grow(parent, 20)
    collect(parent)
    looks: list[int] = []

    def progress(what: str, done: int, total: int) -> None:
        if not looks:
            parent.prune(NOTHING)
        looks.append(done)

    collect(parent, progress=progress)
    collect(parent, offline=True)
    assert_all_readable(parent)
