"""How objects that plain pickling gets wrong, or refuses, are saved.

A reducer takes ``(pickler, object)`` and returns what ``__reduce__`` returns, or raises `Unsaved`
with the reason. `pickler.degrade(object, why)` notes that the object comes back, but not quite as
it was.
"""

from __future__ import annotations

import copyreg
import functools
import gc
import io
import logging
import operator
import sys
import threading
import types
import typing
import weakref
from collections.abc import Callable
from typing import Any

from . import arrays, files, frames, rebuild, tensors
from .files import Unsaved
from .kinds import is_users_code, lends, text_of

Reducer = Callable[[Any, Any], Any]

# Types that hold a process's own things; by name, because most modules are not loaded.
_LOST = {
    "builtins.generator": "a generator's position in its code cannot be saved",
    "builtins.coroutine": "a coroutine's position in its code cannot be saved",
    "builtins.async_generator": "a generator's position in its code cannot be saved",
    "builtins.frame": "a frame belongs to code that is running",
    "builtins.traceback": "a traceback belongs to frames of this process",
    "weakref.finalize": "what is to be done when an object goes is this process's own",
    "weakref.ProxyType": "a weak proxy hides what it stands for",
    "weakref.CallableProxyType": "a weak proxy hides what it stands for",
    "threading.Thread": "a thread cannot be moved to another process",
    "_thread._local": "data of a thread stays with the thread",
    "_queue.SimpleQueue": "its content cannot be read without taking it",
    "concurrent.futures._base.Executor": "its workers belong to this process",
    "concurrent.futures._base.Future": "the work it stands for belongs to this process",
    "multiprocessing.process.BaseProcess": "a child process cannot be moved",
    "multiprocessing.pool.Pool": "its workers belong to this process",
    "subprocess.Popen": "a child process cannot be moved",
    "sqlite3.Connection": "a connection to a database cannot be saved; connect again",
    "sqlite3.Cursor": "a cursor belongs to a connection, which cannot be saved",
    "_socket.socket": "a network connection cannot be saved",
    "asyncio.events.AbstractEventLoop": "an event loop belongs to this process",
    "_asyncio.Future": "the work it stands for belongs to this process",
    "_asyncio.Task": "the work it stands for belongs to this process",
    "mmap.mmap": "a mapping of memory cannot be saved",
    "_contextvars.ContextVar": "a context variable belongs to this process",
    "_contextvars.Context": "a context belongs to this process",
    "unittest.mock.NonCallableMock": "a mock has a class of its own, which cannot be made again",
}


def _lost(_pickler: Any, obj: Any, why: str) -> Any:
    raise Unsaved(why)


def reducer_for(kind: type) -> Reducer | None:
    """The rule for objects of type ``kind``; None: as they say themselves."""
    if kind in _EXACT:
        return _EXACT[kind]
    if text_of(kind, "__module__") == "ipykernel.iostream":
        return _kernel_stream
    for base in kind.__mro__:
        name = f"{text_of(base, '__module__')}.{text_of(base, '__qualname__')}"
        why = _LOST.get(name)
        if why is not None:
            return functools.partial(_lost, why=why)
    if issubclass(kind, io.IOBase) and not issubclass(kind, (io.BytesIO, io.StringIO)):
        return _file
    if issubclass(kind, BaseException) and kind.__reduce__ is BaseException.__reduce__:
        return _exception
    if issubclass(kind, logging.Logger):
        return _logger
    module = text_of(kind, "__module__")
    if module == "_ctypes" and kind.__name__ in _CTYPES:
        return _CTYPES[kind.__name__]
    if module == "sessionkeeper_replay" and kind.__name__ in _REPLAY:
        return _REPLAY[kind.__name__]
    if module == "matplotlib.cbook" and kind.__name__ == "CallbackRegistry":
        return _callbacks
    return arrays.reducer_for(kind) or tensors.reducer_for(kind) or frames.reducer_for(kind)


def is_hopeless(obj: Any) -> bool:
    """Whether ``obj`` is of a kind that is always lost."""
    rule = reducer_for(type(obj))
    return isinstance(rule, functools.partial) and rule.func is _lost


# --- code ---------------------------------------------------------------------------------------


def _importable(func: Any) -> bool:
    module = sys.modules.get(getattr(func, "__module__", None) or "")
    if module is None or func.__module__ == "__main__":
        return False
    found: Any = module
    for part in func.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is func


def _function(pickler: Any, func: Any) -> Any:
    if _importable(func):
        return NotImplemented
    pickler.by_value.add(id(func))
    pickler.has_code = True
    state = {
        "__name__": func.__name__,
        "__qualname__": func.__qualname__,
        "__module__": func.__module__,
        "__doc__": func.__doc__,
        "__defaults__": func.__defaults__,
        "__kwdefaults__": func.__kwdefaults__,
        "__annotations__": func.__annotations__,
        "dict": func.__dict__,
    }
    globals_ = func.__globals__
    module = globals_.get("__name__")
    made: tuple[Any, ...]
    if getattr(sys.modules.get(module), "__dict__", None) is globals_ and module != "__main__":
        made = (rebuild.module_function, (func.__code__, module, func.__closure__))
    else:
        made = (rebuild.function, (func.__code__, globals_, func.__closure__))
    return (*made, state, None, None, rebuild.set_function)


_FAR = 200  # objects


def hashes_itself(kind: type) -> bool:
    """Whether objects of ``kind`` are hashed by Python code, as those of a dataclass are."""
    return type(getattr(kind, "__hash__", None)) is types.FunctionType


def containers_of(obj: Any) -> list[Any]:
    """The sets and dicts that ``obj`` is a member or a key of, among what it refers to nearby."""
    found, seen = [], {id(obj)}
    todo: list[Any] = [getattr(obj, "__dict__", None)]
    todo += [part for part in gc.get_referents(obj) if part is not type(obj)]
    while todo and len(seen) < _FAR:
        one = todo.pop()
        if type(one) in _WITHOUT_PARTS or id(one) in seen or isinstance(one, _NOT_DATA):
            continue
        seen.add(id(one))
        if isinstance(one, (set, frozenset, dict)) and any(part is obj for part in one):
            found.append(one)
        todo += gc.get_referents(one)
    return found


_WITHOUT_PARTS = {int, float, complex, bool, str, bytes, bytearray, type(None)}
_NOT_DATA = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)

MAKING = ("__new__", "__setitem__", "append", "extend", "add")
"""Methods that pickle calls to make an object again."""


def without_users_code(obj: Any, reduced: Any) -> Any:
    """The recipe ``reduced`` of `object`, without those of `MAKING` that the user wrote."""
    kind = type(obj)
    if reduced[0] not in (copyreg.__newobj__, copyreg.__newobj_ex__):  # type: ignore[attr-defined]
        return reduced
    maker = lends(kind, "__new__")
    if maker is not None:
        given = getattr(maker, "__getnewargs__", None)
        args = given(obj) if given is not None else ()
        reduced = (rebuild.made_by, (kind, maker, args), *reduced[2:])
    filled = [name for name in MAKING[1:] if lends(kind, name) is not None]
    if filled and any(reduced[3:5]):
        state, items, pairs = (*reduced[2:], None, None)[:3]
        content = (state, list(items or ()), list(pairs or ()))
        reduced = (*reduced[:2], content, None, None, rebuild.fill)
    return reduced


def made_class(kind: type, reduced: Any) -> Any:
    """cloudpickle's recipe for a class defined in the notebook, with its slots and metaclass."""
    if getattr(reduced[0], "__name__", "") != "_make_skeleton_class":
        return reduced
    first = ("__module__", "__slots__", "__orig_bases__")
    namespace = {name: kind.__dict__[name] for name in first if name in kind.__dict__}
    if any(text_of(base, "__module__") == "_ctypes" for base in kind.__mro__):
        return _ctypes_structure(kind, namespace, reduced)
    args = (type(kind), kind.__name__, kind.__bases__, namespace)
    return (rebuild.make_class, args, *reduced[2:])


def _ctypes_structure(kind: Any, namespace: dict[str, Any], reduced: Any) -> Any:
    """One without its fields cannot be had; what describes those comes with them."""
    if type(kind).__name__ not in ("PyCStructType", "UnionType"):
        raise Unsaved(f"a class made by {type(kind).__name__} cannot be made again")
    fields = {name for name, *_ in kind.__dict__.get("_fields_", ())}
    attributes, *rest = reduced[2]
    layout = {name: attributes[name] for name in _LAYOUT if name in attributes}
    left = {k: v for k, v in attributes.items() if k not in fields and k not in _LAYOUT}
    args = (kind.__name__, kind.__bases__, {**namespace, **layout})
    return (rebuild.ctypes_class, args, (left, *rest), *reduced[3:])


_LAYOUT = ("_pack_", "_align_", "_layout_", "_anonymous_", "_fields_")


def _ctypes_array(_pickler: Any, kind: Any) -> Any:
    """`c_int * 3` is made once; a second one would be another class."""
    if kind._type_ * kind._length_ is kind:
        return operator.mul, (kind._type_, kind._length_)
    return NotImplemented


def _ctypes_pointer(_pickler: Any, kind: Any) -> Any:
    ctypes = sys.modules["ctypes"]
    if hasattr(kind, "_type_") and ctypes.POINTER(kind._type_) is kind:
        return ctypes.POINTER, (kind._type_,)
    return NotImplemented


_CTYPES = {"PyCArrayType": _ctypes_array, "PyCPointerType": _ctypes_pointer}


def _cell(_pickler: Any, cell: Any) -> Any:
    try:
        content = cell.cell_contents
    except ValueError:
        return rebuild.cell, ()
    return rebuild.cell, (), (content,), None, None, rebuild.fill_cell


def _lru_cache(pickler: Any, func: Any) -> Any:
    if _importable(func):
        return NotImplemented
    options = func.cache_parameters()
    if func.cache_info().currsize:
        pickler.degrade(func, "cached results are not kept, they are computed again")
    state = dict(func.__dict__)
    state.pop("cache_parameters", None)
    args = (func.__wrapped__, options["maxsize"], options["typed"])
    return rebuild.lru_cache, args, state


def _exception(pickler: Any, error: Any) -> Any:
    if error.__traceback__ is not None:
        pickler.degrade(error, "an exception's traceback is not kept")
    state = {
        "dict": error.__dict__,
        "cause": error.__cause__,
        "context": error.__context__,
        "suppress": error.__suppress_context__,
    }
    return (
        rebuild.exception,
        (type(error), error.args),
        state,
        None,
        None,
        rebuild.set_exception,
    )


def _lost_part(pickler: Any, part: Any) -> Any:
    pickler.notes.append(f"a {part._lost_kind} inside is lost: {part._lost_why}")
    return NotImplemented


# --- the standard library -----------------------------------------------------------------------


def _file(pickler: Any, file: Any) -> Any:
    if not isinstance(file, files.KINDS):
        raise Unsaved("a stream of this kind cannot be opened again at its position")
    reduced, difference = files.reduce(file)
    if difference is not None:
        pickler.degrade(file, difference)
    return reduced


def _kernel_stream(_pickler: Any, stream: Any) -> Any:
    if stream.name not in ("stdout", "stderr"):
        raise Unsaved("a stream of this kind cannot be opened again")
    return rebuild.kernel_stream, (stream.name,)


def _new_type(_pickler: Any, made: Any) -> Any:
    if _importable(made):
        return NotImplemented
    return typing.NewType, (made.__name__, made.__supertype__), dict(vars(made))


def _lock(_pickler: Any, lock: Any) -> Any:
    if lock.locked():
        raise Unsaved("the lock is held")
    return threading.Lock, ()


def _rlock(_pickler: Any, lock: Any) -> Any:
    if repr(lock).startswith("<locked"):
        raise Unsaved("the lock is held")
    return threading.RLock, ()


def _logger(pickler: Any, logger: Any) -> Any:
    if logger.handlers or logger.level:
        pickler.degrade(logger, "a logger's level and handlers are not kept")
    return logging.getLogger, (() if isinstance(logger, logging.RootLogger) else (logger.name,))


def _memoryview(_pickler: Any, view: Any) -> Any:
    whole = memoryview(view.obj)
    if (whole.nbytes, whole.format, whole.shape) != (view.nbytes, view.format, view.shape):
        raise Unsaved("a view of a part of a buffer cannot be saved")
    return memoryview, (view.obj,)


def _dict_view(_pickler: Any, view: Any, which: str) -> Any:
    (mapping,) = gc.get_referents(view)
    return rebuild.dict_view, (mapping, which)


def _mapping_proxy(_pickler: Any, proxy: Any) -> Any:
    (mapping,) = gc.get_referents(proxy)
    return types.MappingProxyType, (mapping,)


def _weak_reference(_pickler: Any, reference: Any) -> Any:
    target = reference()
    if target is None or reference.__callback__ is not None:
        raise Unsaved("a weak reference that is dead or has a callback cannot be saved")
    return weakref.ref, (target,)


def _weak_dict(_pickler: Any, mapping: Any) -> Any:
    return type(mapping), (dict(mapping),)


def _recipe(_pickler: Any, recipe: Any) -> Any:
    return rebuild.recipe, (recipe.make, recipe.check)


def _replay(pickler: Any, replay: Any) -> Any:
    try:
        _, state = replay.__reduce__()
    except TypeError as error:
        raise Unsaved(str(error)) from None
    _, _, taken, _, ended = state
    if taken and not ended:
        told = f"it is run again when it is used next, and its first {taken} items are skipped"
        pickler.degrade(replay, told)
    return rebuild.replay, state


def _callbacks(pickler: Any, registry: Any) -> Any:
    kept = getattr(registry, "_pickled_cids", ())
    for connected in registry.callbacks.values():
        for number, function in connected.items():
            if number not in kept and is_users_code(function()):
                pickler.degrade(registry, "functions connected to its events are not kept")
    return NotImplemented


_REPLAY: dict[str, Reducer] = {"Recipe": _recipe, "Replay": _replay}
_EXACT: dict[type, Reducer] = {
    rebuild.Lost: _lost_part,
    types.FunctionType: _function,
    types.CellType: _cell,
    functools._lru_cache_wrapper: _lru_cache,
    type(threading.Lock()): _lock,
    type(threading.RLock()): _rlock,
    memoryview: _memoryview,
    typing.NewType: _new_type,
    weakref.ref: _weak_reference,
    weakref.WeakValueDictionary: _weak_dict,
    weakref.WeakKeyDictionary: _weak_dict,
    types.MappingProxyType: _mapping_proxy,
    type({}.keys()): functools.partial(_dict_view, which="keys"),
    type({}.values()): functools.partial(_dict_view, which="values"),
    type({}.items()): functools.partial(_dict_view, which="items"),
}
