"""What modules hold, that is not code: it may have changed since the import.

Of the user's own modules the values are saved, like variables, and put back into them. A library's
object that the notebook imported stays the library's: what tells whether it was changed is a
digest of its pickle, which the object of the new kernel must have too.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any

from . import kinds
from .groups import Entry, is_atom
from .pickler import Pickler, Stream

Seed = tuple[str, str]

PROOF_LIMIT = 16 << 20  # bytes; of a larger object no digest is made
_CODE = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)
_CLASS_SPACE = type.__dict__["__dict__"].__get__


def entries() -> list[Entry]:
    """The values in the user's own modules, and in classes of those."""
    found = []
    for name, module in list(sys.modules.items()):
        if type(name) is not str or name == "__main__" or not kinds.is_users(name):
            continue
        space = kinds.content(module)
        for key, value in space.items():
            if type(key) is not str or key.startswith("__"):
                continue
            if not issubclass(type(value), _CODE):
                found.append(Entry("module", f"{name}:{key}", value))
            elif type(value).__name__ in ("type", "ABCMeta") and _defined(value, name):
                found += _of_class(name, value)
    return found


def _defined(kind: type, module: str) -> bool:
    return kinds.text_of(kind, "__module__") == module


def _of_class(module: str, kind: type) -> Iterator[Entry]:
    name = kinds.text_of(kind, "__qualname__")
    for key, value in dict(_CLASS_SPACE(kind)).items():
        hidden = key.startswith(("__", "_abc_"))
        if not hidden and not hasattr(type(value), "__get__") and not isinstance(value, type):
            yield Entry("module", f"{module}:{name}.{key}", value)


def bind(where: str, value: Any) -> None:
    """Put ``value`` where :func:`entries` found it."""
    module, _, path = where.partition(":")
    owner: Any = importlib.import_module(module)
    *above, name = path.split(".")
    for part in above:
        owner = getattr(owner, part)
    if isinstance(owner, type):
        type.__setattr__(owner, name, value)
    else:
        setattr(owner, name, value)


def shown(where: str) -> str:
    return where.replace(":", ".")


def of_libraries(cells: list[str], values: list[Entry], own: list[Entry]) -> Iterator[Seed]:
    """Objects of libraries that the user imported: ``from matplotlib import rcParams``.

    They are found by their names again. ``own`` are the values of the user's modules.
    """
    ours = {entry.name for entry in own}
    wanted = {
        id(entry.value)
        for entry in values
        if not is_atom(entry.value) and not issubclass(type(entry.value), _CODE)
    }
    for cell in cells:
        if "import" not in cell:
            continue
        if cell not in _parsed:
            _parsed[cell] = list(_imported_names(cell))
        for module, name in _parsed[cell]:
            space = kinds.content(sys.modules.get(module))
            for one in list(space) if name == "*" else [name]:
                value = space.get(one)
                if id(value) in wanted and value is not None and f"{module}:{one}" not in ours:
                    yield module, one


_parsed: dict[str, list[Seed]] = {}


def _imported_names(cell: str) -> Iterator[Seed]:
    try:
        tree = ast.parse(cell)
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield node.module, alias.name


def proof(value: Any) -> str | None:
    """A digest that two equal objects have in common; None where there is none."""
    if issubclass(type(value), types.MethodType):
        return None  # what it is of has a proof of its own, or a state that changes
    stream = Stream(PROOF_LIMIT)
    pickler = Pickler(stream, [], {})
    try:
        if pickler.save(value):
            return None
    except Exception:
        return None
    digest = hashlib.blake2b(stream.getvalue(), digest_size=16)
    for buffer in pickler.buffers:
        digest.update(buffer.raw())
    return digest.hexdigest()
