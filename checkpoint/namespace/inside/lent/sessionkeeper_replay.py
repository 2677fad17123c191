"""Generators that may be run again: ``from sessionkeeper_replay import replayable``.

A generator's position in its code cannot be saved, so a kernel that comes back by its variables has
lost its generators. One that always gives the same items can be allowed to be made anew::

    @replayable
    def rows(path):
        with open(path) as file:
            for line in file:
                yield line.split(",")

    numbers = rows("numbers.csv")

In another kernel ``numbers`` is made again from its function and a copy of the arguments, taken at
the call, when it is used next; the items that were taken are skipped, and compared by a digest with
what they were. If they differ it raises :class:`ReplayFailed` and never gives a wrong item. This
module needs the standard library alone; in a kernel that is not saved it does nothing else.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import pickle
import random
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["ReplayFailed", "replayable"]


class ReplayFailed(RuntimeError):
    """Run again, the function gave other items than before."""


def replayable(make: Callable[..., Iterator[Any]], *, check: bool = True) -> Recipe:
    """``make``, a generator function, such that what it gives can be made again.

    Without ``check`` the items are not compared: for those that cannot be pickled, or are large.
    """
    return Recipe(make, check)


class Recipe:
    """A function whose iterators are :class:`Replay`."""

    def __init__(self, make: Callable[..., Iterator[Any]], check: bool) -> None:
        self.make = make
        self.check = check
        functools.update_wrapper(self, make)

    def __call__(self, *args: Any, **kwargs: Any) -> Replay:
        running = self.make(*args, **kwargs)
        if not hasattr(running, "__next__"):
            raise TypeError(f"{self.name} gives no iterator, but a {type(running).__name__}")
        try:
            given, why = copy.deepcopy((args, kwargs)), ""
        except Exception as error:
            given, why = ((), {}), f"its arguments cannot be copied ({error})"
        replay = Replay(self, given, 0, b"", False)
        replay._running, replay._why_not = running, why
        return replay

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    @property
    def name(self) -> str:
        return str(getattr(self.make, "__qualname__", self.make))


class Replay:
    """An iterator that knows how it was made, how many items were taken, and a digest of them."""

    def __init__(
        self,
        recipe: Recipe,
        given: tuple[tuple[Any, ...], dict[str, Any]],
        taken: int,
        digest: bytes,
        ended: bool,
    ) -> None:
        self._recipe = recipe
        self._given = given
        self._taken = taken
        self._digest = digest
        self._ended = ended
        self._running: Iterator[Any] | None = None
        self._why_not = ""

    def __iter__(self) -> Replay:
        return self

    def __next__(self) -> Any:
        return self._step(next)

    def send(self, value: Any) -> Any:
        """As a generator's; one that was sent something cannot be made again."""
        if value is None:
            return next(self)
        self._why_not = self._why_not or "something was sent into it"
        return self._step(lambda running: running.send(value))

    def throw(self, error: Any, *more: Any) -> Any:
        """As a generator's; one that went on after it cannot be made again."""
        self._why_not = self._why_not or "an exception was thrown into it"
        return self._step(lambda running: running.throw(error, *more))

    def close(self) -> None:
        """As a generator's."""
        running, self._running, self._ended = self._running, None, True
        if running is not None and hasattr(running, "close"):
            running.close()

    def __repr__(self) -> str:
        state = "ended" if self._ended else f"{self._taken} items taken"
        return f"<replayable {self._recipe.name}: {state}>"

    def __deepcopy__(self, memo: dict[int, Any]) -> Replay:
        if self._why_not:
            raise TypeError(f"{self!r}: {self._why_not}")
        return Replay(self._recipe, self._given, self._taken, self._digest, self._ended)

    def __reduce__(self) -> Any:
        if self._why_not:
            raise TypeError(f"it cannot be run again: {self._why_not}")
        state = (self._recipe, self._given, self._taken, self._digest, self._ended)
        return Replay, state

    def _step(self, step: Callable[[Any], Any]) -> Any:
        if self._ended:
            raise StopIteration
        if self._running is None:
            self._running = self._caught_up()
        try:
            item = step(self._running)
        except BaseException as error:
            if isinstance(error, StopIteration) or isinstance(self._running, types.GeneratorType):
                self._ended, self._running = True, None  # a generator that raises is over
            else:
                self._why_not = self._why_not or f"it raised {type(error).__name__}"
            raise
        self._taken += 1
        if self._recipe.check and not self._why_not:
            try:
                self._digest = _further(self._digest, item)
            except Exception as error:
                self._why_not = f"its items cannot be compared ({error}); see check=False"
        return item

    def _caught_up(self) -> Iterator[Any]:
        """Make it again, and take what was taken before; random numbers elsewhere are not used."""
        args, kwargs = copy.deepcopy(self._given)
        if self._taken:
            told = f"{self._recipe.name} is run again, its first {self._taken} items are skipped"
            print(f"sessionkeeper: {told}", file=sys.stderr)
        numpy = sys.modules.get("numpy")
        before = random.getstate(), numpy and numpy.random.get_state()
        digest = b""
        try:
            running = self._recipe.make(*args, **kwargs)
            for at in range(self._taken):
                try:
                    item = next(running)
                except StopIteration:
                    raise self._failed(f"it ended after {at} items") from None
                digest = _further(digest, item) if self._recipe.check else digest
        finally:
            random.setstate(before[0])
            if numpy is not None:
                numpy.random.set_state(before[1])
        if digest != self._digest:
            raise self._failed("the items are others")
        return running

    def _failed(self, what: str) -> ReplayFailed:
        text = f"{self._recipe.name} was run again: {what}; {self._taken} had been taken before"
        return ReplayFailed(text)


def _further(digest: bytes, item: Any) -> bytes:
    return hashlib.blake2b(digest + pickle.dumps(item, 5), digest_size=32).digest()
