"""What the notebook changed inside imported modules. It is told, not carried over.

A module is imported anew on the next node, so a function put into it, a constant set in it or an
entry added to one of its registries is gone there. Two looks find such changes: at the cells, for
statements that change a module or a class of one, and at the imported modules themselves, for
functions and classes of the notebook.
"""

from __future__ import annotations

import ast
import sys
import types
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from . import kinds

TOLD = "set by the notebook; the module is imported anew, without it"


class Target(NamedTuple):
    """``root.a.b = …`` is ``("root", ("a", "b"))``; ``item`` when it is ``root.a.b[…] = …``."""

    root: str
    path: tuple[str, ...]
    item: bool


_parsed: dict[str, list[Target]] = {}


def found(
    cells: Iterable[str], user_ns: dict[str, Any], modules: Iterable[str], kept: Iterable[Any]
) -> list[str]:
    """Dotted names of what the notebook changed, in the order of its cells.

    ``modules`` are those bound to names of the notebook. ``kept`` are objects that a restored
    kernel gets back changed, as ``sys.path``; what is changed in them is no loss.
    """
    spared = set(map(id, kept))
    names: dict[str, None] = {}
    for cell in cells:
        for target in _targets(cell):
            name = _changed(target, user_ns, spared)
            if name is not None:
                names[name] = None
    for module_name in modules:
        for name, value in kinds.content(sys.modules.get(module_name)).items():
            if _is_of_notebook(value, user_ns):
                names[f"{module_name}.{name}"] = None
    return list(names)


def _targets(cell: str) -> list[Target]:
    if cell not in _parsed:
        if "=" not in cell and "del" not in cell and "setattr" not in cell:
            return []
        try:
            tree = ast.parse(cell)
        except (SyntaxError, ValueError, RecursionError):
            tree = ast.Module([], [])
        _parsed[cell] = [target for node in ast.walk(tree) for target in _of(node)]
    return _parsed[cell]


def _of(node: ast.AST) -> Iterator[Target]:
    if isinstance(node, (ast.Attribute, ast.Subscript)):
        if not isinstance(node.ctx, ast.Load):
            target = _dotted(node)
            if target is not None:
                yield target
    elif (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("setattr", "delattr")
        and len(node.args) > 1
        and isinstance(node.args[1], ast.Constant)
    ):
        owner = _dotted(node.args[0])
        if owner is not None:
            yield Target(owner.root, (*owner.path, str(node.args[1].value)), False)


def _dotted(node: ast.AST) -> Target | None:
    item = isinstance(node, ast.Subscript)
    if isinstance(node, ast.Subscript):
        node = node.value
    path: list[str] = []
    while isinstance(node, ast.Attribute):
        path.append(node.attr)
        node = node.value
    return Target(node.id, tuple(reversed(path)), item) if isinstance(node, ast.Name) else None


def _changed(target: Target, user_ns: dict[str, Any], spared: set[int]) -> str | None:
    """The full name of what ``target`` changes, when that belongs to an imported module."""
    owner: Any = user_ns.get(target.root)
    path = target.path
    if not path or not _is_imported(owner):
        return None
    for part in path[:-1]:
        # Without getattr: a module or class may run code for a name that it does not have.
        owner = vars(owner).get(part)
        if not _is_imported(owner):
            return None
    value = vars(owner).get(path[-1])
    if id(value) in spared or _is_own(value, path[-1], owner):
        return None
    if target.item and not isinstance(value, (dict, list)):
        return None
    name = owner.__name__
    if isinstance(owner, type):
        name = f"{owner.__module__}.{owner.__qualname__}"
    return f"{name}.{path[-1]}"


def _is_imported(owner: Any) -> bool:
    """Whether ``owner`` is a module, or a class of one, that is not the notebook itself."""
    if kinds.is_module(owner):
        return kinds.module_name(owner) not in (None, "__main__")
    if not issubclass(type(owner), type):
        return False
    return kinds.text_of(owner, "__module__") in sys.modules.keys() - {"__main__"}


def _is_own(value: Any, name: str, owner: Any) -> bool:
    """Whether ``value`` was defined there under this name: a change that was taken back."""
    module = owner.__module__ if isinstance(owner, type) else owner.__name__
    return (
        issubclass(type(value), (type, types.FunctionType))
        and value.__module__ == module
        and value.__name__ == name
    )


def _is_of_notebook(value: Any, user_ns: dict[str, Any]) -> bool:
    if type(value) is types.FunctionType:
        return value.__globals__ is user_ns
    return issubclass(type(value), type) and kinds.text_of(value, "__module__") == "__main__"
