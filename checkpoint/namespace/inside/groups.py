"""Which variables belong together: those that share an object are pickled into one stream."""

from __future__ import annotations

import collections
import datetime
import pickle
import sys
import types
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .kinds import type_name
from .pickler import LostVariable, Pickler, Stream, TooLarge

# Sharing these means nothing: they cannot be changed, or are found by name.
_ATOMS = (int, float, complex, str, bytes, bool, type(None), range, datetime.tzinfo)
_NAMED = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, types.CodeType)
_FLAT = {int, float, complex, bool, type(None), str, bytes}
LARGE = 4096  # characters or bytes from which on a shared text is not saved twice


Hint = frozenset[tuple[str, str, int]]


@dataclass
class Entry:
    """One value of the session: a variable, or something IPython keeps."""

    kind: str  # "variable", "output" (of a cell) or "hook" (``_``, ``__``, ``___``)
    name: str
    value: Any
    state: str = "exact"
    why: str | None = None
    bytes: int = 0

    @property
    def shown(self) -> str:
        return f"Out[{self.name}]" if self.kind == "output" else self.name


@dataclass
class Group:
    """Entries in one stream. ``shared`` are the objects whose identity binds them."""

    entries: list[Entry]
    stream: bytes = b""
    buffers: list[pickle.PickleBuffer] = field(default_factory=list)
    shared: dict[int, Any] = field(default_factory=dict)
    has_code: bool = False
    exact: bool = True


def is_atom(value: Any) -> bool:
    return type(value) in (int, float, complex, bool, type(None)) or (
        type(value) in (str, bytes) and len(value) < LARGE
    )


def collect(entries: list[Entry], seeds: list[Any], limit: int, hints: set[Hint]) -> list[Group]:
    """Pickle all entries; those that cannot be are marked lost and left out.

    First each alone, to learn what it is made of and what is wrong with it; then those that share
    objects once more, together. Nothing here keeps an object alive longer than the returned groups.
    """
    rules: dict[Any, Any] = {}
    atoms = [entry for entry in entries if is_atom(entry.value)]
    alone = _hinted(entries, seeds, limit, rules, hints)
    placed = {id(entry) for group in alone for entry in group.entries}
    seen = {key: group for group in alone for key in group.shared}
    for entry in entries:
        if is_atom(entry.value) or id(entry) in placed:
            continue
        whole = seen.get(id(entry.value))
        if whole is not None and whole.exact:
            # Part of something saved without a loss: nothing new to learn.
            group = Group([entry], shared={id(entry.value): entry.value})
        else:
            group = _pickle([entry], seeds, limit, rules)
        alone.append(group)
        seen.update(dict.fromkeys(group.shared, group))
    groups = [_pickle(atoms, seeds, limit, rules, together=True)] if atoms else []
    for members in _connected(alone):
        live = [entry for group in members for entry in group.entries if entry.state != "lost"]
        if len(members) == 1:
            groups += members if live else []
        elif live:
            groups.append(_pickle(live, seeds, limit, rules, together=True))
    groups = [group for group in groups if group.entries]
    hints.clear()
    hints.update(hint(g.entries) for g in groups if g.exact and not is_atom(g.entries[0].value))
    return _within(groups, limit)


def hint(entries: list[Entry]) -> Hint:
    """What tells in the next dump that ``entries`` were pickled together."""
    return frozenset((e.kind, e.name, id(e.value)) for e in entries if e.kind != "hook")


def _hinted(
    entries: list[Entry], seeds: list[Any], limit: int, rules: dict[Any, Any], hints: set[Hint]
) -> list[Group]:
    """Groups of the last dump, pickled together at once; only those that come out exact.

    Being together needlessly is no harm; what they share with others is looked for as ever.
    """
    known = {(e.kind, e.name, id(e.value)): e for e in entries if not is_atom(e.value)}
    groups = []
    for keys in hints:
        members = [entry for key, entry in known.items() if key in keys]
        if 1 < len(keys) == len(members):
            group = _pickle(members, seeds, limit, rules)
            if group.exact and len(group.entries) == len(members):
                groups.append(group)
                continue
            for entry in members:
                entry.state, entry.why = "exact", None
    return groups


def _pickle(
    entries: list[Entry],
    seeds: list[Any],
    limit: int,
    rules: dict[Any, Any],
    together: bool = False,
) -> Group:
    """One stream of all entries. An entry that fails is marked lost, and the others start again.

    What they share with others is not looked for when they are ``together`` already.
    """
    live = list(entries)
    while True:
        stream = Stream(limit)
        pickler = Pickler(stream, seeds, rules)
        for entry in live:
            start = stream.tell() + sum(b.raw().nbytes for b in pickler.buffers)
            try:
                notes = pickler.save(entry.value)
            except (LostVariable, TooLarge) as error:
                entry.state, entry.why = "lost", str(error)
                live = [other for other in live if other is not entry]
                break
            entry.bytes = stream.tell() + sum(b.raw().nbytes for b in pickler.buffers) - start
            if notes and entry.state == "exact":
                entry.state, entry.why = "degraded", "; ".join(notes[:3])
                if len(notes) > 3:
                    entry.why += f"; and {len(notes) - 3} more"
        else:
            break
    shared: dict[int, Any] = {}
    if len(entries) == 1 and _is_flat(entries[0].value):
        # The memo of a million words takes longer to read than they took to pickle.
        shared[id(entries[0].value)] = entries[0].value
    elif not together:
        shared = _shared(pickler, len(seeds))
    return Group(
        live,
        stream.getvalue(),
        pickler.buffers,
        shared,
        pickler.has_code,
        all(entry.state == "exact" for entry in live),
    )


def _shared(pickler: Pickler, seeds: int) -> dict[int, Any]:
    """The objects in this stream that another variable may refer to too, by id.

    The memo holds them, so that no id is used again while groups are compared.
    """
    by_kind: dict[type, bool | None] = {}
    shared: dict[int, Any] = {}
    for key, (index, obj) in pickler.memo.copy().items():
        kind = type(obj)
        try:
            counts = by_kind[kind]
        except KeyError:
            counts = by_kind[kind] = _counts(kind)
        if counts is None:
            text = issubclass(kind, (str, bytes))
            counts = len(obj) >= LARGE if text else key in pickler.by_value
        if counts and index >= seeds:
            shared[key] = obj
    return shared


def _counts(kind: type) -> bool | None:
    """Whether it matters that two variables share an object of this kind; None: it depends."""
    if kind in (str, bytes) or issubclass(kind, _NAMED):
        return None
    numpy = sys.modules.get("numpy")
    return not issubclass(kind, _ATOMS) and (numpy is None or not issubclass(kind, numpy.dtype))


def _is_flat(value: Any) -> bool:
    """Whether ``value`` is a container of nothing but numbers and text."""
    if type(value) in (list, tuple, set, frozenset, collections.deque):
        return set(map(type, value)) <= _FLAT
    return type(value) is dict and {*map(type, value), *map(type, value.values())} <= _FLAT


def _connected(groups: list[Group]) -> Iterable[list[Group]]:
    """Groups in connected components: two are connected when they share an object."""
    parent = list(range(len(groups)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[int, int] = {}
    for i, group in enumerate(groups):
        for key in first.keys() & group.shared.keys():
            parent[root(i)] = root(first[key])
        first.update(dict.fromkeys(group.shared, i))
    components: dict[int, list[Group]] = {}
    for i, group in enumerate(groups):
        components.setdefault(root(i), []).append(group)
    return components.values()


def _within(groups: list[Group], limit: int) -> list[Group]:
    """The groups that fit into ``limit`` bytes, small ones first; the others are marked lost."""

    def size(group: Group) -> int:
        return len(group.stream) + sum(b.raw().nbytes for b in group.buffers)

    kept: list[Group] = []
    for group in sorted(groups, key=size):
        limit -= size(group)
        if limit >= 0:
            kept.append(group)
            continue
        for entry in group.entries:
            entry.state, entry.why = "lost", "the dump would exceed its size limit"
    return kept


__all__ = ["Entry", "Group", "collect", "type_name"]
