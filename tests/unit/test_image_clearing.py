"""Which images a gateway clears away, and that no session's is among them."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoint.errors import StoreUnavailable
from sessionkeeper.images.clearing import JUST_NOW, Clearing, Limits, to_forget
from sessionkeeper.images.reference import Reference, parse
from sessionkeeper.images.store import ImageStore, KeptImage
from sessionkeeper.images.writing import File, layer, put

DAY = 86400.0
NOW = 1000 * DAY


def kept(name: str, days: float, **parts: int) -> KeptImage:
    return KeptImage(parse(f"{name}:1"), name, {"own-" + name: 1, **parts}, NOW - days * DAY)


def gone(
    images: list[KeptImage],
    limits: Limits,
    used: Iterable[str] = (),
) -> list[str]:
    return [one.name.name for one in to_forget(images, frozenset(used), limits, NOW)]


def test_what_nobody_used_for_long_goes_unless_a_session_has_it() -> None:
    images = [kept("new", 1), kept("old", 31), kept("older", 40), kept("slept-in", 400)]
    assert gone(images, Limits(unused=30 * DAY), {"slept-in"}) == ["older", "old"]
    assert gone(images, Limits()) == []


def test_beyond_a_size_those_go_that_were_used_longest_ago_and_only_until_it_fits() -> None:
    images = [kept("a", 3, base=100, of_a=50), kept("b", 2, base=100), kept("c", 1, of_c=100)]
    assert gone(images, Limits(size=300)) == []
    # Without `a` its own layer goes, and not the one that `b` has as well.
    assert gone(images, Limits(size=210)) == ["a"]
    assert gone(images, Limits(size=150)) == ["a", "b"]
    assert gone(images, Limits(size=150), {"a"}) == ["b", "c"], "what is in use counts, and stays"


def test_what_was_used_just_now_stays_however_large_it_is() -> None:
    assert gone([kept("huge", JUST_NOW / DAY / 2, all=10**12)], Limits(0.0, 1)) == []


@given(
    st.lists(st.tuples(st.floats(0, 100), st.dictionaries(st.sampled_from("pqrs"), st.just(7)))),
    st.sets(st.integers(0, 9)),
    st.one_of(st.none(), st.floats(1, 90)),
    st.one_of(st.none(), st.integers(0, 60)),
)
def test_one_in_use_is_never_among_them_and_what_is_left_fits_if_it_can(
    ages: list[tuple[float, dict[str, int]]], using: set[int], days: float | None, size: int | None
) -> None:
    images = [kept(f"i{n}", age, **parts) for n, (age, parts) in enumerate(ages)]
    used = frozenset(f"i{n}" for n in using)
    went = to_forget(images, used, Limits(days and days * DAY, size), NOW)
    assert not used & {one.digest for one in went}
    left = [one for one in images if one not in went]
    could = [one for one in left if one.digest not in used and NOW - one.used_at >= JUST_NOW]
    if size is not None and could:
        assert sum({part: n for one in left for part, n in one.parts.items()}.values()) <= size
    assert days is None or all(NOW - one.used_at <= days * DAY for one in could)


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


def add(store: ImageStore, name: str, days: float = 0) -> Reference:
    image = put(store, f"{name}:1", [(layer([File("x", name.encode() * 1000)]), "")])
    then = time.time() - days * DAY
    os.utime(store.directory / "names" / name / ":1", (then, then))
    return image


async def test_images_are_deleted_and_what_a_session_has_counts_as_used_until_its_end(
    store: ImageStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    old, asleep, other = add(store, "old", 40), add(store, "asleep", 40), add(store, "other", 1)
    images = [str(asleep), "registry.example/a/b:1@" + asleep.digest]

    async def in_use() -> list[str]:
        return images

    clearing = Clearing(store, Limits(30 * DAY), in_use)
    assert [str(one) for one in await clearing.once()] == ["old:1"]
    assert not store.blob(old.digest).exists()
    assert store.has(asleep)
    assert store.has(other)
    assert "old:1 is cleared away: unused for 40.0 days" in caplog.text
    images.clear()
    assert await clearing.once() == [], "it was in use a moment ago"
    assert store.has(asleep)


async def test_nothing_goes_while_it_is_not_known_which_images_sessions_have(
    store: ImageStore, caplog: pytest.LogCaptureFixture
) -> None:
    old, looked = add(store, "old", 40), asyncio.Event()

    async def in_use() -> list[str]:
        looked.set()
        raise StoreUnavailable("it is away")

    running = asyncio.create_task(Clearing(store, Limits(30 * DAY, 1), in_use).run())
    await looked.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert store.has(old)
    assert "it is away" in caplog.text


async def test_blobs_stay_while_somebody_adds_an_image_that_may_want_them(
    store: ImageStore,
) -> None:
    old = add(store, "old", 40)

    async def in_use() -> list[str]:
        return []

    clearing = Clearing(store, Limits(30 * DAY), in_use)
    with store.incoming():
        assert [str(one) for one in await clearing.once()] == ["old:1"]
        assert store.blob(old.digest).exists()
    assert await clearing.once() == []
    assert not store.blob(old.digest).exists()
