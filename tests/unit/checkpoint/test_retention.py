from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_sessions import KEYS, assert_all_readable, checkpoint

from checkpoint.blobs import Memory
from checkpoint.errors import AlreadyExists, StaleWriter
from checkpoint.manifest import Body, Manifest
from checkpoint.repository import Repository
from checkpoint.retention import DAY, HOUR, Dated, Retention, retained

NOW = 1_700_000_000.0


def _every(seconds: float, count: int, newest: float = NOW) -> list[Dated]:
    return [Dated(n, newest - (count - n) * seconds) for n in range(1, count + 1)]


def test_all_of_the_last_hour_then_hourly_then_daily_is_kept() -> None:
    chain = _every(600, 6 * 24 * 40)  # every ten minutes for forty days
    kept = retained(chain, Retention())
    ages = [NOW - created for number, created in chain if number in kept]
    assert len([age for age in ages if age <= HOUR]) == 7
    assert len([age for age in ages if HOUR < age <= DAY]) in (22, 23, 24)
    assert len([age for age in ages if DAY < age <= 30 * DAY]) in (28, 29, 30)
    assert max(ages) <= 30 * DAY


def test_newest_and_tagged_are_kept_under_any_policy() -> None:
    nothing = Retention(all=0, hourly=0, daily=0)
    chain = _every(DAY, 100)
    assert retained(chain, nothing) == {100}
    assert retained(chain, nothing, {3, 50}) == {3, 50, 100}
    assert retained([], nothing, {3}) == set()


def test_session_that_slept_for_a_year_keeps_its_history() -> None:
    before = _every(HOUR, 24 * 10)
    after = Dated(len(before) + 1, NOW + 365 * DAY)
    kept = retained([*before, after], Retention())
    assert len(kept) >= 10  # one a day, as if it had slept for a day


@pytest.mark.parametrize("wrong", [0.0, NOW - 400 * DAY, NOW + 400 * DAY])
def test_one_wrong_clock_makes_nothing_old_at_once(wrong: float) -> None:
    chain = [*_every(60, 30), Dated(31, wrong)]
    assert len(retained(chain, Retention())) >= 2
    chain += [Dated(32 + n, NOW + 60 * n) for n in range(30)]
    kept = retained(chain, Retention())
    assert set(range(32, 62)) <= kept  # the last half hour, as ever
    if wrong > NOW:
        assert 31 in kept


@given(
    st.lists(st.integers(-3 * 86400, 3 * 86400), max_size=60),
    st.sets(st.integers(1, 60)),
    st.integers(0, 7200),
)
def test_any_chain_keeps_what_it_must_and_asking_again_keeps_the_same(
    steps: list[int], tagged: set[int], whole: int
) -> None:
    chain, at = [], NOW
    for number, step in enumerate(steps, 1):
        at += step
        chain.append(Dated(number, at))
    policy = Retention(all=float(whole))
    kept = retained(chain, policy, tagged)
    numbers = {item.number for item in chain}
    assert kept <= numbers
    assert tagged & numbers <= kept
    if chain:
        newest = chain[-1]
        assert newest.number in kept
        assert {item.number for item in chain if item.created > newest.created} <= kept
    again = retained([item for item in chain if item.number in kept], policy, tagged)
    assert again <= kept
    assert all(n in again for n in tagged & numbers)


@given(st.lists(st.integers(1, 7200), min_size=1, max_size=80))
def test_with_a_good_clock_pruning_twice_is_pruning_once(steps: list[int]) -> None:
    chain, at = [], NOW
    for number, step in enumerate(steps, 1):
        at += step
        chain.append(Dated(number, at))
    kept = retained(chain, Retention())
    left = [item for item in chain if item.number in kept]
    assert retained(left, Retention()) == kept


def test_pruned_chain_goes_on_and_no_number_is_used_again() -> None:
    repository = Repository(Memory(), "one", KEYS)
    for number in range(1, 6):
        checkpoint(repository, b"content %d" % number, created=number * 7 * DAY)
    gone = repository.prune(Retention(all=0, hourly=0, daily=3 * DAY))
    assert gone == [1]
    assert repository.prune(Retention(all=0, hourly=0, daily=0), dry=True) == [2, 3, 4]
    assert repository.prune(Retention(all=0, hourly=0, daily=0)) == [2, 3, 4]
    assert repository.numbers() == [5]
    checkpoint(repository, b"content 6", created=0.0)
    assert repository.numbers() == [5, 6]
    assert_all_readable(repository)


def test_stale_writer_is_refused_also_where_its_number_was_pruned() -> None:
    repository = Repository(Memory(), "one", KEYS)
    for number in range(1, 6):
        checkpoint(repository, b"content %d" % number, created=number * 90 * DAY)
    stale = Manifest(3, 1, 2, 1.0, Body())
    repository.prune(Retention(all=0, hourly=0, daily=0))
    with pytest.raises(StaleWriter, match="checkpoint 5 exists"):
        repository.commit(stale)
    assert repository.numbers() == [5]


class SlowCreate(Memory):
    """Lets others in between a writer's look at the chain and what it creates."""

    def __init__(self, meanwhile: list[str]) -> None:
        super().__init__()
        self.meanwhile = meanwhile

    def create(self, key: str, data: object) -> None:
        if key.endswith("00000003") and not self.meanwhile:
            self.meanwhile.append(key)
            others = Repository(self, "one", KEYS)
            for number in (3, 4, 5):
                others.commit(Manifest(number, 2, number - 1, number * 90 * DAY, Body()))
            others.prune(Retention(all=0, hourly=0, daily=0))
        super().create(key, data)  # type: ignore[arg-type]


def test_writer_that_stood_still_while_others_went_on_and_pruned_is_told_so() -> None:
    repository = Repository(SlowCreate([]), "one", KEYS)
    for number in (1, 2):
        repository.commit(Manifest(number, 1, number - 1 or None, number * 90 * DAY, Body()))
    with pytest.raises(StaleWriter, match="checkpoint 5 exists, written under epoch 2"):
        repository.commit(Manifest(3, 1, 2, 1.0, Body()))


def test_unreadable_checkpoint_is_kept_unless_asked_for() -> None:
    store = Memory()
    repository = Repository(store, "one", KEYS)
    for number in range(1, 4):
        checkpoint(repository, b"content %d" % number, created=number * 90 * DAY)
    nothing = Retention(all=0, hourly=0, daily=0)
    store.objects["sessions/one/manifests/00000001"] = b"not a manifest"
    assert repository.prune(nothing) == [2]
    assert repository.prune(nothing, damaged=True) == [1]
    store.objects["sessions/one/manifests/00000003"] = b"not a manifest"
    assert repository.prune(nothing, damaged=True) == []
    with pytest.raises(AlreadyExists):
        store.create("sessions/one/manifests/00000003", b"")
