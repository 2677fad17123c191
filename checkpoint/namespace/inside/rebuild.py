"""What pickles in a checkpoint call when they are loaded.

These names are part of the checkpoint's format: a function here may be added, never renamed or
given another meaning, or older checkpoints would no longer load.
"""

from __future__ import annotations

import importlib
import io
import os
import stat
import sys
import types
from typing import Any, NoReturn

from . import moves
from .kinds import lends


class LostError(RuntimeError):
    """An object was used that could not be carried over to this kernel."""


class Lost:
    """Stands where a part of an object could not be saved. Any use of it raises :class:`LostError`.

    Only its identity, hash and ``repr`` work, so that containers holding it stay whole.
    """

    __slots__ = ("__weakref__", "_lost_kind", "_lost_why")

    def __init__(self, kind: str, why: str) -> None:
        object.__setattr__(self, "_lost_kind", kind)
        object.__setattr__(self, "_lost_why", why)

    def __repr__(self) -> str:
        return f"<lost {self._lost_kind}: {self._lost_why}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Lost, (self._lost_kind, self._lost_why)

    def _raise(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise LostError(f"this {self._lost_kind} was lost: {self._lost_why}")

    def __getattr__(self, name: str) -> NoReturn:
        # AttributeError for dunder look-ups: copy, pickle and display probe for those.
        if name.startswith(("__", "_repr_", "_ipython_")):
            raise AttributeError(name)
        raise LostError(f"this {self._lost_kind} was lost: {self._lost_why}")

    __call__ = __iter__ = __next__ = __enter__ = __exit__ = __await__ = _raise
    __setattr__ = __delattr__ = __bool__ = __len__ = __contains__ = _raise
    __getitem__ = __setitem__ = __delitem__ = __index__ = __int__ = __float__ = _raise
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _raise
    __lt__ = __le__ = __gt__ = __ge__ = __str__ = __fspath__ = _raise


def recipe(make: Any, check: bool) -> Any:
    """A function that was allowed to be run again."""
    return importlib.import_module("sessionkeeper_replay").Recipe(make, check)


def replay(recipe: Any, given: Any, taken: int, digest: bytes, ended: bool) -> Any:
    """What such a function gave, after ``taken`` items."""
    module = importlib.import_module("sessionkeeper_replay")
    return module.Replay(recipe, given, taken, digest, ended)


streams: dict[str, Any] = {}
"""The kernel's own `sys.stdout` and `sys.stderr`, while a session is loaded."""


def kernel_stream(name: str) -> Any:
    """The kernel's own `sys.stdout` or `sys.stderr`."""
    return streams[name]


def function(code: Any, globals_: dict[str, Any], closure: Any) -> Any:
    """A function whose state :func:`set_function` fills in, so that it may refer to itself."""
    return types.FunctionType(code, globals_, code.co_name, None, closure)


def module_function(code: Any, module: str, closure: Any) -> Any:
    """A function made at run time inside module ``module``: it keeps that module's globals."""
    __import__(module)
    return function(code, sys.modules[module].__dict__, closure)


def set_function(func: Any, state: dict[str, Any]) -> None:
    func.__dict__.update(state.pop("dict"))
    for name, value in state.items():
        setattr(func, name, value)


def make_class(meta: Any, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> Any:
    """A class without its attributes, which come as its state.

    Code of the user's that runs when a class is made (`__init_subclass__`, a metaclass) has run
    already, in the first kernel: it must not count or register this class once more.
    """
    hooks = {
        base: base.__dict__["__init_subclass__"]
        for parent in bases
        for base in parent.__mro__
        if base.__module__ == "__main__" and "__init_subclass__" in base.__dict__
    }
    maker = next(kind for kind in meta.__mro__ if kind.__module__ != "__main__")
    if maker.__name__ == "_TypedDictMeta":
        maker = type  # it knows of fields and bases from the class statement only
    for base in hooks:
        type.__delattr__(base, "__init_subclass__")
    try:
        return maker.__new__(meta, name, bases, namespace)
    finally:
        for base, hook in hooks.items():
            type.__setattr__(base, "__init_subclass__", hook)


def ctypes_class(name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> Any:
    """A structure or union with its fields; the classes of such classes have no names."""
    return make_class(type(bases[0]), name, bases, namespace)


def cell() -> Any:
    """An empty closure cell; :func:`fill_cell` gives it its content, and it can be shared."""
    return types.CellType()


def fill_cell(target: Any, state: tuple[Any]) -> None:
    target.cell_contents = state[0]


def exception(cls: Any, args: tuple[Any, ...]) -> Any:
    """An exception without a call of its ``__init__``, whose signature is the user's."""
    error = (lends(cls, "__new__") or cls).__new__(cls, *args)
    error.args = args
    return error


def made_by(cls: Any, maker: Any, args: tuple[Any, ...]) -> Any:
    """An object of ``cls`` as its base ``maker`` makes it, without the user's own ``__new__``."""
    return maker.__new__(cls, *args)


def fill(made: Any, content: tuple[Any, list[Any], list[Any]]) -> None:
    """Give a container its items and its state, without the user's own methods for that."""
    state, items, pairs = content
    kind: Any = type(made)
    if items:
        made_list: Any = lends(kind, "extend") or kind
        made_list.extend(made, items)
    made_dict: Any = lends(kind, "__setitem__") or kind
    for key, value in pairs:
        made_dict.__setitem__(made, key, value)
    if state is None:
        return
    if hasattr(made, "__setstate__"):
        made.__setstate__(state)
        return
    attributes, slots = state if isinstance(state, tuple) else (state, None)
    vars(made).update(attributes or {})
    for name, value in (slots or {}).items():
        object.__setattr__(made, name, value)


def set_exception(error: Any, state: dict[str, Any]) -> None:
    error.__dict__.update(state["dict"])
    error.__cause__ = state["cause"]
    error.__context__ = state["context"]
    error.__suppress_context__ = state["suppress"]


def dict_view(mapping: Any, which: str) -> Any:
    """``mapping.keys()``, ``.values()`` or ``.items()``: a live view of the restored dict."""
    return getattr(mapping, which)()


def lru_cache(func: Any, maxsize: int | None, typed: bool) -> Any:
    import functools

    return functools.lru_cache(maxsize=maxsize, typed=typed)(func)


def array_view(
    root: Any, cls: Any, dtype: Any, shape: Any, strides: Any, offset: int, writeable: bool
) -> Any:
    """A numpy array over the memory of ``root``, ``offset`` bytes from its start."""
    import numpy

    array = numpy.ndarray.__new__(cls, shape, dtype, root, offset, strides)
    array.flags.writeable = writeable and root.flags.writeable
    return array


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


def memmap(path: str, dtype: Any, mode: str, offset: int, shape: Any, order: str) -> Any:
    import numpy

    path = moves.path(path)
    size = os.stat(path).st_size
    need = offset + int(numpy.dtype(dtype).itemsize) * int(numpy.prod(shape))
    if size < need:
        raise LostError(f"{path!r} has {size} bytes, the mapped array needs {need}")
    return numpy.memmap(path, dtype=dtype, mode=mode, offset=offset, shape=shape, order=order)  # type: ignore[call-overload]


def tensor_storage(data: Any) -> Any:
    """Memory of a torch tensor, holding a copy of ``data``: torch's own, so that it can grow."""
    torch: Any = importlib.import_module("torch")

    whole = torch.empty(len(data), dtype=torch.uint8)
    if len(data):
        whole.copy_(torch.frombuffer(data, dtype=torch.uint8))
    return whole.untyped_storage()


def tensor(
    parameter: bool,
    storage: Any,
    dtype: str,
    offset: int,
    shape: Any,
    stride: Any,
    requires_grad: bool,
) -> Any:
    """A torch tensor, or a parameter, over ``storage``; :func:`set_tensor` gives the rest."""
    torch: Any = importlib.import_module("torch")

    made = torch.empty(0, dtype=getattr(torch, dtype)).set_(storage, offset, shape, stride)
    if parameter:
        return torch.nn.Parameter(made, requires_grad)
    return made.requires_grad_(requires_grad)


def set_tensor(made: Any, state: dict[str, Any]) -> None:
    made.__dict__.update(state["dict"])
    made.grad = state["grad"]


def polars_series(name: str, dtype: Any, numbers: Any) -> Any:
    """A polars column of ``numbers``, a numpy array of what ``dtype`` is made of."""
    polars: Any = importlib.import_module("polars")
    series = polars.Series(name, numbers)
    return series if series.dtype == dtype else series.cast(dtype)


def polars_frame(columns: list[Any]) -> Any:
    polars: Any = importlib.import_module("polars")
    return polars.DataFrame(columns)


def _open(path: Any, mode: str, text: dict[str, Any], buffering: int, opener: Any) -> Any:
    if "b" in mode:
        return io.open(path, mode, buffering=buffering, opener=opener)  # noqa: UP020
    options = {name: text[name] for name in ("encoding", "errors") if name in text}
    return io.open(path, mode, opener=opener, **options)  # noqa: UP020


def open_file(
    path: Any, cwd: str, mode: str, position: int, size: int, text: dict[str, Any], buffering: int
) -> Any:
    """Open ``path`` again at ``position``, as it was, without ever changing the file.

    ``O_CREAT``, ``O_TRUNC`` and ``O_EXCL`` are taken out of what ``mode`` asks for. Raises
    :class:`LostError` when the file is not the one of the checkpoint, as far as its size tells.
    """
    path, cwd = moves.path(path), moves.path(cwd)

    def opener(name: str, flags: int) -> int:
        flags &= ~(os.O_CREAT | os.O_TRUNC | os.O_EXCL)
        descriptor = os.open(os.path.join(cwd, name), flags | os.O_CLOEXEC)
        now = os.fstat(descriptor)
        if not stat.S_ISREG(now.st_mode) or now.st_size != size:
            os.close(descriptor)
            raise LostError(f"{name!r} has {now.st_size} bytes now, it had {size}")
        return descriptor

    file = _open(path, mode, text, buffering, opener)
    if "b" not in mode and text.get("line_buffering"):
        file.reconfigure(line_buffering=True)
    file.seek(position)
    return file


def closed_file(path: Any, mode: str, text: dict[str, Any], buffering: int) -> Any:
    """A file object that is closed already, with the name and mode it had."""
    file = _open(path, mode, text, buffering, lambda _n, _f: os.open(os.devnull, os.O_RDWR))
    file.close()
    return file
