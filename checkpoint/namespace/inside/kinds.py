"""What an object is, asked without running any of its code: its class may answer with an error."""

from __future__ import annotations

import functools
import os
import sys
import types
from typing import Any

from . import is_installed

_NAMES = {name: type.__dict__[name].__get__ for name in ("__module__", "__qualname__")}
_SPACE: Any = vars(types.ModuleType)["__dict__"]


def text_of(kind: type, name: str) -> str:
    """``__module__`` or ``__qualname__`` of a class, whatever its metaclass says of it."""
    try:
        return str(_NAMES[name](kind))
    except Exception:
        return "?"


def type_name(obj: Any) -> str:
    """The qualified name of the class of ``obj``."""
    kind = type(obj)
    module, name = text_of(kind, "__module__"), text_of(kind, "__qualname__")
    return name if module == "builtins" else f"{module}.{name}"


def is_module(obj: Any) -> bool:
    return issubclass(type(obj), types.ModuleType)


def content(module: Any) -> dict[str, Any]:
    """The names in ``module``, without its own way to look them up; of anything else, none."""
    return dict(_SPACE.__get__(module)) if is_module(module) else {}


def module_name(obj: Any) -> str | None:
    """The name under which ``obj`` is imported; None when it is not an imported module."""
    name = content(obj).get("__name__")
    return name if type(name) is str and sys.modules.get(name) is obj else None


def is_users(module: str) -> bool:
    """Whether the module of this name is the notebook, or a file of the user's."""
    if module.startswith(("_sessionkeeper_namespace", "sessionkeeper_replay")):
        return False
    found = sys.modules.get(module)
    file = _SPACE.__get__(found).get("__file__") if is_module(found) else None
    if module == "__main__" or type(file) is not str:
        return module == "__main__"
    return not file.startswith(_libraries(tuple(map(str, sys.path))))


@functools.lru_cache(4)
def _libraries(path: tuple[str, ...]) -> tuple[str, ...]:
    found = [entry for entry in path if is_installed(entry)]
    return tuple(entry + os.sep for entry in (*found, os.path.dirname(os.__file__)))


def is_users_code(function: Any) -> bool:
    """Whether it is a function that the user wrote."""
    function = getattr(function, "__func__", function)
    return type(function) is types.FunctionType and is_users(str(function.__module__))


def lends(kind: type, name: str) -> type | None:
    """The class that ``kind`` would have method ``name`` from, had its user not written one; None
    when it is that one which it has.
    """
    for base in kind.__mro__:
        found = base.__dict__.get(name)
        if found is not None and not is_users_code(found):
            return None if base is _first(kind, name) else base
    return None


def _first(kind: type, name: str) -> type | None:
    return next((base for base in kind.__mro__ if name in base.__dict__), None)
