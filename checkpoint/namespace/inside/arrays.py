"""numpy arrays: memory that is shared stays shared, and mapped files are mapped again."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

from . import rebuild
from .files import Unsaved
from .kinds import text_of, type_name


def reducer_for(kind: type) -> Callable[[Any, Any], Any] | None:
    """The rule for objects of type ``kind``, or None."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not hasattr(numpy, "ndarray"):
        return None
    if issubclass(kind, numpy.ndarray):
        if kind is numpy.memmap:
            return _memmap
        known = kind in (numpy.ndarray, numpy.matrix, numpy.recarray)
        return _array if known else _array_of_its_own
    if kind in (numpy.finfo, numpy.iinfo):
        return _type_limits
    if kind.__name__ in ("BlockManager", "SingleBlockManager"):
        return _block_manager if text_of(kind, "__module__").startswith("pandas.") else None
    return None


def _array(pickler: Any, array: Any) -> Any:
    """An array that shares another array's memory goes on sharing it."""
    numpy = sys.modules["numpy"]
    root = _root(array)
    if root is array or id(array) in pickler.private:
        return _array_of_its_own(pickler, array)
    start = root.__array_interface__["data"][0]
    offset = array.__array_interface__["data"][0] - start
    # numpy 1 has it at the top.
    bounds = getattr(numpy.lib, "array_utils", numpy).byte_bounds
    low, high = bounds(array) if array.size else (start, start)
    if (
        array.dtype.hasobject
        or root.dtype.hasobject
        or isinstance(root, numpy.ma.MaskedArray)
        or not (root.flags.c_contiguous or root.flags.f_contiguous)
        or low < start
        or high > start + root.nbytes
    ):
        return _array_of_its_own(pickler, array)
    args = (root, type(array), array.dtype, array.shape, array.strides, offset)
    return rebuild.array_view, (*args, array.flags.writeable)


def _root(array: Any) -> Any:
    """The array whose memory it is: of a view, and of what `as_strided` made."""
    numpy = sys.modules["numpy"]
    while True:
        base = array.base
        if type(base).__name__ == "DummyArray":
            base = base.base
        if not isinstance(base, numpy.ndarray):
            return array
        array = base


def _array_of_its_own(pickler: Any, array: Any) -> Any:
    """One that gets memory of its own; told, if somebody has the same memory."""
    base = array.base
    if id(array) in pickler.private or base is None:
        return NotImplemented
    if type(base) is memoryview:
        base = base.obj
    # Who lends the memory, `base` and the argument; a base that nobody else has is no loss.
    others = sys.getrefcount(base) > 3
    if isinstance(base, sys.modules["numpy"].ndarray):
        others = others or _root(base) is not base
    elif type(base) is not bytearray or not array.flags.writeable:
        return NotImplemented
    if others:
        pickler.degrade(array, f"it no longer shares memory with another {type_name(base)}")
    return NotImplemented


def _type_limits(_pickler: Any, limits: Any) -> Any:
    return type(limits), (limits.dtype,)


def _memmap(pickler: Any, array: Any) -> Any:
    numpy = sys.modules["numpy"]
    path, mode = array.filename, array.mode
    if isinstance(array.base, numpy.ndarray) or path is None or mode not in ("r", "r+", "w+"):
        raise Unsaved(
            "only a whole array mapped from a file, not copied on write, can be mapped again"
        )
    array.flush()
    pickler.degrade(array, "the file is mapped again, not truncated")
    order = "C" if array.flags.c_contiguous else "F"
    mode = "r" if mode == "r" else "r+"
    return rebuild.memmap, (str(path), array.dtype, mode, array.offset, array.shape, order)


def _block_manager(pickler: Any, manager: Any) -> Any:
    """Arrays inside frames are saved as copies, where pandas means them so.

    Copy-on-write notes who shares memory outside the arrays, and a restored frame has no such
    notes. Without it (pandas 2) a column is a view of its frame, as arrays are of each other.
    """
    numpy = sys.modules["numpy"]
    if not _copies_on_write(sys.modules["pandas"]):
        return NotImplemented
    seen = [block.values for block in manager.blocks]
    while seen:
        values = seen.pop()
        if isinstance(values, numpy.ndarray):
            pickler.private[id(values)] = values
        elif (type(values).__module__ or "").startswith("pandas."):
            seen += [part for part in gc.get_referents(values) if not isinstance(part, type)]
    return NotImplemented


def _copies_on_write(pandas: Any) -> bool:
    if int(pandas.__version__.partition(".")[0]) >= 3:
        return True
    return bool(pandas.get_option("mode.copy_on_write") is True)
