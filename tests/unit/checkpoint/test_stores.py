"""What is put around a store: retries, limits, figures."""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from checkpoint.blobs import (
    Backoff,
    BandwidthLimited,
    Buffer,
    ConcurrencyLimited,
    LocalDirectory,
    Memory,
    Metered,
    Pausable,
    Retrying,
    open_store,
)
from checkpoint.errors import (
    AlreadyExists,
    NotFound,
    StoreError,
    StoreNotWritable,
    StoreUnavailable,
    TransferBroken,
    UnsupportedStore,
)
from checkpoint.stores.opening import S3Place, parse_s3
from checkpoint.stores.pausable import Ended

BRISK = Backoff(first=0.001, most=0.002, limit=5.0)


class Failing(Memory):
    """Raises these errors, one per operation, the operation done or not; then all is well."""

    def __init__(self, *errors: StoreError, done: bool = False) -> None:
        super().__init__()
        self.errors = list(errors)
        self.done = done
        self.calls = 0

    def _fail(self, operation: Callable[[], object]) -> None:
        self.calls += 1
        if self.errors:
            if self.done:
                operation()
            raise self.errors.pop(0)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        self._fail(lambda: None)
        return super().get(key, start, length)

    def create(self, key: str, data: Buffer) -> None:
        self._fail(lambda: super(Failing, self).create(key, data))
        super().create(key, data)

    def list(self, prefix: str) -> Iterator[str]:
        for number, key in enumerate(super().list(prefix)):
            if number == 2:
                self._fail(lambda: None)
            yield key


AWAY = StoreUnavailable("away")


@pytest.mark.parametrize(
    ("failures", "longest"), [(1, 0.1), (2, 0.2), (3, 0.4), (6, 3.2), (7, 5.0), (10_000, 5.0)]
)
def test_pauses_grow_up_to_a_limit_and_are_spread_from_zero(failures: int, longest: float) -> None:
    backoff = Backoff(first=0.1, most=5.0)
    assert backoff.pause(failures, 0.0) == 0.0
    assert backoff.pause(failures, 0.5) == pytest.approx(longest / 2)
    assert backoff.pause(failures, 1.0) == pytest.approx(longest)


def test_what_may_pass_is_tried_again() -> None:
    store = Failing(AWAY, AWAY, AWAY)
    Retrying(store, BRISK).create("key", b"x")
    assert (store.calls, store.objects) == (4, {"key": b"x"})


def test_what_will_not_pass_is_raised_at_once() -> None:
    for error in (StoreNotWritable("no"), NotFound("key"), UnsupportedStore("no")):
        store = Failing(error)
        with pytest.raises(type(error)):
            Retrying(store, BRISK).get("key")
        assert store.calls == 1


def test_retries_end_in_time_with_what_was_said_last() -> None:
    store = Failing(*[AWAY] * 10_000, StoreUnavailable("last"))
    begin = time.monotonic()
    with pytest.raises(StoreUnavailable, match="away"):
        Retrying(store, Backoff(first=0.01, most=0.02, limit=0.1)).get("key")
    assert 2 < store.calls < 10_000
    assert time.monotonic() - begin < 5


def test_create_whose_answer_was_lost_is_no_conflict() -> None:
    store = Failing(AWAY, done=True)
    Retrying(store, BRISK).create("key", b"x")
    assert store.objects == {"key": b"x"}


def test_create_is_a_conflict_when_it_was_there_or_is_anothers() -> None:
    store = Failing()
    store.create("key", b"mine")
    with pytest.raises(AlreadyExists):
        Retrying(store, BRISK).create("key", b"mine")
    store.errors = [AWAY]
    with pytest.raises(AlreadyExists):
        Retrying(store, BRISK).create("key", b"another")
    assert store.objects == {"key": b"mine"}


def test_list_that_breaks_goes_on_and_gives_each_key_once() -> None:
    store = Failing(AWAY, AWAY)
    for key in "abcde":
        store.put(key, b"")
    assert list(Retrying(store, BRISK).list("")) == list("abcde")
    assert store.calls == 3


def test_broken_transfer_is_resumed_and_has_its_time_anew() -> None:
    resumed: list[int] = []

    def resume() -> bytes:
        resumed.append(1)
        if len(resumed) < 50:
            raise TransferBroken("broke", 1, resume)
        return b"whole"

    store = Failing(TransferBroken("broke", 1, resume))
    begin = time.monotonic()
    slow = Backoff(first=0.01, most=0.01, limit=0.02)
    assert Retrying(store, slow).get("key") == b"whole"
    assert (store.calls, len(resumed)) == (1, 50)
    assert time.monotonic() - begin > slow.limit


def test_bandwidth_is_shared_by_all_who_write() -> None:
    store = BandwidthLimited(Memory(), write=1_000_000)
    begin = time.monotonic()
    threads = [
        threading.Thread(target=store.create, args=(f"key{i}", b"x" * 100_000)) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - begin >= 0.3  # the fourth begins when three are paid for
    begin = time.monotonic()
    for i in range(4):
        store.get(f"key{i}")
    assert time.monotonic() - begin < 0.3, "reading has no limit"


def test_reading_has_a_limit_of_its_own() -> None:
    store = BandwidthLimited(Memory(), read=1_000_000)
    store.put("key", b"x" * 100_000)
    begin = time.monotonic()
    for _ in range(4):
        store.get("key")
    assert 0.3 <= time.monotonic() - begin < 3


def test_no_more_operations_are_under_way_than_allowed() -> None:
    class Crowded(Memory):
        now = most = 0
        lock = threading.Lock()
        full = threading.Barrier(2)  # broken if fewer than two ever came together

        def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
            with self.lock:
                self.now += 1
                self.most = max(self.most, self.now)
            self.full.wait(timeout=10)
            with self.lock:
                self.now -= 1
            return b""

    crowded = Crowded()
    store = ConcurrencyLimited(crowded, 2)
    threads = [threading.Thread(target=store.get, args=("key",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert crowded.most == 2


def test_keys_can_be_deleted_while_they_are_listed() -> None:
    store = ConcurrencyLimited(Memory(), 1)
    for key in "abc":
        store.put(key, b"")
    for key in store.list(""):
        store.delete(key)
    assert list(store.list("")) == []


def test_figures_count_calls_errors_and_bytes() -> None:
    store = Metered(Memory())
    store.create("a", b"123")
    with pytest.raises(AlreadyExists):
        store.create("a", b"1234")
    store.put("b", b"12345")
    assert store.get("b", 1, 2) == b"23"
    assert next(store.list("")) == "a"
    assert list(store.list("")) == ["a", "b"]
    store.delete("a")
    found = store.figures()
    assert {n: (f.calls, f.errors, f.bytes) for n, f in found.items()} == {
        "create": (2, 1, 3),
        "put": (1, 0, 5),
        "get": (1, 0, 2),
        "list": (2, 0, 0),
        "delete": (1, 0, 0),
    }
    assert all(0 < f.seconds < 1 for f in found.values())
    store.delete("b")
    assert found["delete"].calls == 1, "a copy"


def test_s3_url_says_where() -> None:
    def place(url: str) -> S3Place:
        return parse_s3(urlsplit(url))

    assert place("s3://bucket") == place("s3://bucket/") == S3Place("bucket", "")
    assert place("s3://my.bucket/a/b/").prefix == "a/b/"
    assert place(
        "s3://b/p?endpoint=https%3A%2F%2Fs3.example.org:9000&region=fsn1&style=virtual"
    ) == S3Place("b", "p/", "https://s3.example.org:9000", "fsn1", "virtual")
    assert place("s3://b?endpoint=http://host:9000&style=path").endpoint == "http://host:9000"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://", "begins with the bucket"),
        ("s3:///prefix", "begins with the bucket"),
        ("s3://host:9000/bucket", "begins with the bucket"),
        ("s3://key:secret@bucket/p", "Credentials"),
        ("s3://bucket?endpoint=s3.example.org", "endpoint is a URL"),
        ("s3://bucket?style=both", "path or virtual"),
        ("s3://bucket?regoin=x", "'regoin'"),
        ("s3://bucket/a//b", "prefix"),
        ("s3://bucket/../b", "prefix"),
    ],
)
def test_s3_url_that_makes_no_sense_is_refused_with_words(url: str, said: str) -> None:
    with pytest.raises(UnsupportedStore, match=said) as caught:
        open_store(url)
    assert "s3://bucket/prefix" in caught.value.hint
    assert "secret" not in str(caught.value)


def test_paused_store_is_asked_nothing_until_it_goes_on_or_is_ended() -> None:
    memory = Memory()
    memory.put("a", b"1")
    store = Pausable(memory)
    store.pause()
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(store.get, "a"), pool.submit(store.put, "b", b"2")]
        assert not wait(asked, timeout=0.05).done
        assert list(memory.list("")) == ["a"]
        store.resume()
        assert [one.result(10) for one in asked] == [b"1", None]
        store.pause()
        waiting = pool.submit(store.delete, "a")
        store.end()
        with pytest.raises(Ended):
            waiting.result(10)
    with pytest.raises(Ended):
        store.list("")
    assert list(memory.list("")) == ["a", "b"]


def test_directory_that_is_away_is_not_one_without_objects(tmp_path: Path) -> None:
    """A disk that is not mounted: its place is missing, or empty."""
    place, away = tmp_path / "store", tmp_path / "away"
    store = LocalDirectory(place)
    store.put("sessions/one/a", b"1")
    place.rename(away)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            store.get("sessions/one/a")
        with pytest.raises(StoreUnavailable):
            store.list("sessions/")
        place.mkdir(exist_ok=True)
    place.rmdir()
    away.rename(place)
    assert list(store.list("sessions/")) == ["sessions/one/a"]
    assert list(store.list("sessions/two/")) == []
    with pytest.raises(NotFound):
        store.get("sessions/one/b")


def test_what_a_crash_left_is_swept_away_and_what_is_being_written_stays(tmp_path: Path) -> None:
    store = LocalDirectory(tmp_path)
    left = tmp_path / ".tmp/left"
    left.write_bytes(b"half an obj")
    with (tmp_path / ".tmp/written").open("wb") as being_written:
        fcntl.flock(being_written, fcntl.LOCK_EX)
        assert store.sweep() == 1
        assert [path.name for path in (tmp_path / ".tmp").iterdir()] == ["written"]
    assert store.sweep() == 1


def test_sweeping_takes_nothing_from_writers(tmp_path: Path) -> None:
    store, over = LocalDirectory(tmp_path), threading.Event()

    def sweeps() -> int:
        gone = 0
        while not over.is_set():
            gone += store.sweep()
        return gone

    with ThreadPoolExecutor(2) as pool:
        sweeping = pool.submit(sweeps)
        try:
            for number in range(150):
                store.create(f"a/{number}", b"%d" % number)
        finally:
            over.set()
        sweeping.result()
    assert [store.get(f"a/{number}") for number in range(150)] == [b"%d" % n for n in range(150)]


def test_directory_that_was_begun_and_is_not_there_is_no_empty_store(tmp_path: Path) -> None:
    """A disk that is not mounted: the store that it has must not be hidden by a new one."""
    there, away = tmp_path / "store", tmp_path / "away"
    LocalDirectory(there).put("sessions/one/key", b"key")
    there.rename(away)
    with pytest.raises(StoreUnavailable, match="not there"):
        open_store(str(there), begun=True)
    assert not there.exists()
    away.rename(there)
    assert open_store(str(there), begun=True).get("sessions/one/key") == b"key"
