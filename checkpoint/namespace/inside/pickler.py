"""The pickler: cloudpickle's, told what must not be guessed.

What cannot be pickled does not end the whole: the variable that *is* it is lost, and where it is a
part of something, a :class:`~.rebuild.Lost` stands there. Both are noted with a reason.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
from typing import Any

from . import cloudpickle, rebuild, reducers, stalls  # type: ignore[attr-defined]
from .files import Unsaved
from .kinds import lends, text_of, type_name

SMALL = 64 * 1024  # bytes; smaller buffers go into the pickle, larger ones into files of their own


class LostVariable(Exception):
    """The variable itself cannot be saved; the message says why."""


class TooLarge(Exception):
    """The dump would exceed its size limit."""


class Stream(io.BytesIO):
    """A pickle in memory that refuses to grow beyond ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._left = limit

    def write(self, data: Any) -> int:
        stalls.progress()
        size = super().write(data)
        self._left -= size
        if self._left < 0:
            raise TooLarge("the dump would exceed its size limit")
        return size


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles several values one after the other into one stream, with one memo.

    ``seeds`` are objects the loading side has already (the namespace, ``sys.stdout``, ...): they
    are put into the memo beforehand and so are never copied, wherever they occur.
    """

    def __init__(self, stream: Stream, seeds: list[Any], known: dict[Any, Any]) -> None:
        self.buffers: list[pickle.PickleBuffer] = []
        # One dict instead of a chain of them: it is asked for every object.
        self.dispatch_table = known.setdefault("table", dict(cloudpickle.Pickler.dispatch_table))
        super().__init__(stream, protocol=5, buffer_callback=self._take)
        self.memo = {id(seed): (i, seed) for i, seed in enumerate(seeds)}
        self.by_value: set[int] = set()  # ids of functions and classes saved whole
        self.private: dict[int, Any] = {}  # arrays whose memory nobody else is to see
        # Storages of torch tensors by address.
        self.storages: dict[int, Any] = known.setdefault("storages", {})
        self.notes: list[str] = []
        self.has_code = False
        self._rules: dict[type, reducers.Reducer | None] = known
        # Kinds that can only be pickled in the ordinary way, which C does ten times faster.
        self._plain: set[type] = known.setdefault("plain", set())
        self._root: Any = None

    def _take(self, buffer: pickle.PickleBuffer) -> bool:
        if buffer.raw().nbytes < SMALL:
            return True
        self.buffers.append(buffer)
        return False

    def save(self, value: Any) -> list[str]:
        """Append ``value``; the notes say in what it will differ (none: exact).

        Raises :class:`LostVariable`; the stream is then broken.
        """
        self.notes = []
        self._root = value
        stalls.progress()
        try:
            pickle.Pickler.dump(self, value)
        except (LostVariable, TooLarge):
            raise
        except stalls.Stalled as error:
            raise LostVariable(str(error)) from None
        except RecursionError:
            raise LostVariable("it is nested too deeply") from None
        except BaseException as error:
            raise LostVariable(_reason(error)) from error
        finally:
            stalls.rest()
        return list(dict.fromkeys(self.notes))

    def degrade(self, obj: Any, why: str) -> None:
        """Note that ``obj``, now being saved, comes back with a difference."""
        where = "" if obj is self._root else f"a {type_name(obj)} inside: "
        self.notes.append(where + why)

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) in self._plain:
            return NotImplemented
        try:
            return self._reduce(obj)
        except (LostVariable, TooLarge, RecursionError, MemoryError):
            raise
        except BaseException as error:
            why = _reason(error)
            if isinstance(error, (Unsaved, stalls.Stalled)):
                why = str(error)
            if isinstance(error, stalls.Stalled):
                stalls.kinds.add(type(obj))
            if obj is self._root:
                raise LostVariable(why) from error
            name = type_name(obj)
            self.notes.append(f"a {name} inside is lost: {why}")
            return rebuild.Lost, (name, why)

    def _refuse_cycle(self, obj: Any) -> None:
        """An object that is put into a set or a dict before it has its attributes has no hash then.

        A container that was begun before the object gets it afterwards.
        """
        inside = reducers.containers_of(obj)
        if inside:
            begun = self.memo.copy()
            if any(id(container) not in begun for container in inside):
                raise Unsaved("it hashes by attributes, and is in a set or dict that it refers to")

    def _reduce(self, obj: Any) -> Any:
        kind = type(obj)
        try:
            rule = self._rules[kind]
        except KeyError:
            rule = self._rules[kind] = reducers.reducer_for(kind)
        if kind in stalls.kinds:
            raise Unsaved(stalls.WHY)
        if reducers.hashes_itself(kind):
            self._refuse_cycle(obj)
        reduced = NotImplemented if rule is None else rule(self, obj)
        if reduced is NotImplemented and kind is not types.FunctionType:
            if issubclass(kind, type):
                reduced = super().reducer_override(obj)
                if reduced is NotImplemented:
                    return NotImplemented
                if text_of(obj, "__module__") != "builtins":
                    self.by_value.add(id(obj))
                    self.has_code = True
                return reducers.made_class(obj, reduced)
            custom = self.dispatch_table.get(kind)
            reduced = custom(obj) if custom is not None else obj.__reduce_ex__(5)
            if custom is None and isinstance(reduced, tuple):
                reduced = reducers.without_users_code(obj, reduced)
            if rule is None and custom is None and _is_plain(kind):
                self._plain.add(kind)
        if isinstance(reduced, str):
            _check_global(obj, reduced)
        elif isinstance(reduced, tuple):
            _check_parts(reduced)
        elif reduced is not NotImplemented:
            raise Unsaved(f"its __reduce__ returned a {type_name(reduced)}")
        return reduced


def _is_plain(kind: type) -> bool:
    """Whether ``kind`` leaves all of its pickling to `object`."""
    return (
        not reducers.hashes_itself(kind)
        and getattr(kind, "__reduce_ex__", None) is object.__reduce_ex__
        and getattr(kind, "__reduce__", None) is object.__reduce__
        and getattr(kind, "__getstate__", None) is getattr(object, "__getstate__", None)
        and not hasattr(kind, "__getnewargs__")
        and not hasattr(kind, "__getnewargs_ex__")
        and all(lends(kind, name) is None for name in reducers.MAKING)
    )


def _reason(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _check_global(obj: Any, name: str) -> None:
    """An object that is saved by its name only must be found under it, and not in the notebook."""
    module = pickle.whichmodule(obj, name)  # type: ignore[attr-defined]
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not obj or module == "__main__":
        raise Unsaved(f"it is saved by its name {module}.{name} only, where it is not found")


def _check_parts(reduced: tuple[Any, ...]) -> None:
    """An object made *from* something hopeless (`map` over a generator) is lost with it."""
    if not 2 <= len(reduced) <= 6 or not callable(reduced[0]) or not isinstance(reduced[1], tuple):
        raise Unsaved("its __reduce__ returned something that is not a recipe")
    if len(reduced) > 2 and reduced[2] is not None:
        return
    for part in reduced[1][:8]:
        if reducers.is_hopeless(part):
            raise Unsaved(f"it is made from a {type_name(part)}, which cannot be saved")
