"""What an object is, asked without running any of its code: its class may answer with an error."""

from __future__ import annotations

import sys
import types
from typing import Any

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
