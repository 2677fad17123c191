"""Generators that the user allows to be run again, and those that nobody may run again."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint.namespace.engine import INSIDE, LENT

from .conftest import Kernel

sys.path.append(str(INSIDE / LENT))
from sessionkeeper_replay import ReplayFailed, replayable  # type: ignore[import-not-found]

MADE = """
from sessionkeeper_replay import replayable
ran = []
@replayable
def rows(upto, step=1):
    ran.append(upto)
    for n in range(0, upto, step):
        yield (n, "x" * n)
@replayable
def pairs(one):
    for item in one:
        yield item, next(one)
plain = (n for n in range(9))
taken, fresh, ended = rows(9, step=2), rows(3), rows(1)
first = [next(taken), next(taken)]
list(ended)
alias = {"same": taken}
inner = pairs(rows(6)); next(inner)
fed = replayable(lambda: (yield))(); next(fed)
try: fed.send(3)
except StopIteration: pass
other = replayable(lambda: iter([1, lambda: 2]))(); next(other); next(other)
noise = replayable(lambda: (__import__("random").random() for _ in range(5)))(); next(noise)
ran.clear()
"""

NewKernel = Callable[[], Kernel]


@pytest.fixture
def lent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(INSIDE / LENT))


def test_a_generator_goes_on_where_it_was_when_that_is_allowed(
    lent: None, start_kernel: NewKernel, tmp_path: Path
) -> None:
    one = start_kernel()
    one.run(MADE)
    dumped = one.dump(tmp_path / "dump").variables
    assert dumped["plain"].state == "lost"
    assert dumped["fresh"].state == dumped["ended"].state == dumped["rows"].state == "exact"
    assert dumped["taken"].state == "degraded"
    assert "run again when it is used next, and its first 2 items" in str(dumped["taken"].why)
    assert dumped["other"].state == "lost"
    assert "its items cannot be compared" in str(dumped["other"].why)
    one.kill()
    two = start_kernel()
    loaded = two.load(tmp_path / "dump").variables
    assert loaded["taken"].state == "degraded"
    assert two.value("ran") == "[]"  # nothing is run before it is used
    said = two.run("item = next(taken)")
    assert [m["content"]["text"] for m in said] == [
        "sessionkeeper: rows is run again, its first 2 items are skipped\n"
    ]
    assert two.value("item, [n for n, _ in taken], alias['same'] is taken") == (
        "((4, 'xxxx'), [6, 8], True)"
    )
    assert two.value("list(ended), [n for n, _ in fresh]") == "([], [0, 1, 2])"
    assert two.value("[(a[0], b[0]) for a, b in inner]") == "[(2, 3), (4, 5)]"
    state = two.value("__import__('random').getstate()")
    with pytest.raises(RuntimeError, match="the items are others; 1 had been taken before"):
        two.run("next(noise)")
    assert two.value("__import__('random').getstate()") == state
    again = two.dump(tmp_path / "again").variables
    assert again["taken"].state == "exact"  # it has ended


def test_it_is_loaded_where_the_module_is_not_on_the_path(
    start_kernel: NewKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as there:
        there.setenv("PYTHONPATH", str(INSIDE / LENT))
        one = start_kernel()
    one.run(MADE)
    one.dump(tmp_path / "dump")
    two = start_kernel()
    two.load(tmp_path / "dump")
    assert two.value("next(taken)[0], next(rows(1))") == "(4, (0, ''))"


@replayable
def letters(text: str) -> object:
    yield from text


def as_saved(replay: object) -> object:
    """As it is in another kernel."""
    return copy.deepcopy(replay)


def test_a_copy_goes_on_from_where_the_original_was() -> None:
    one = letters("abcd")
    assert [next(one), next(one)] == ["a", "b"]
    two = as_saved(one)
    assert "".join(two) == "".join(one) == "cd"


def test_arguments_are_those_of_the_call_whatever_became_of_them() -> None:
    given = ["a", "b", "c"]

    @replayable
    def taken_from(there: list[str]) -> object:
        while there:
            yield there.pop(0)

    one = taken_from(given)
    assert next(one) == "a"
    given.clear()
    assert list(as_saved(one)) == ["b", "c"]


def test_other_items_are_an_error_and_no_item() -> None:
    items = [1, 2, 3]

    @replayable
    def outside() -> object:
        yield from items

    one = outside()
    next(one)
    two, three = as_saved(one), as_saved(one)
    items[0] = 7
    for _ in range(2):
        with pytest.raises(ReplayFailed, match="the items are others; 1 had been taken"):
            next(two)
    items.clear()
    with pytest.raises(ReplayFailed, match="it ended after 0 items"):
        next(three)


def test_what_was_sent_something_or_has_no_copy_of_its_arguments_is_not_run_again() -> None:
    @replayable
    def echo(*_: object) -> object:
        got = None
        while True:
            got = yield got

    one, two = echo(), echo(n for n in range(3))
    next(one)
    assert one.send(5) == 5
    for replay, why in ((one, "something was sent into it"), (two, "arguments cannot be copied")):
        with pytest.raises(TypeError, match=why):
            replay.__reduce__()


def test_it_is_a_generator_otherwise() -> None:
    @replayable
    def fails() -> object:
        yield random.random()
        raise KeyError("x")

    one = fails()
    next(one)
    with pytest.raises(KeyError):
        next(one)
    assert list(one) == []
    closed = letters("ab")
    closed.close()
    assert list(closed) == []
    assert repr(letters("ab")) == "<replayable letters: 0 items taken>"
    with pytest.raises(TypeError, match="gives no iterator, but a int"):
        replayable(lambda: 3)()
