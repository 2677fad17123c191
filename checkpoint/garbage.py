"""The list of packs that may go, and how far every chain of the pool was when it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from checkpoint.blobs import BlobStore
from checkpoint.errors import Damaged, NotFound
from checkpoint.keys import SessionKeys
from checkpoint.sealed import GARBAGE


@dataclass(frozen=True)
class Mark:
    """`packs` (hex ids) that nothing named when the chain of each session ended at `chains[id]`
    (0: it had no checkpoint)."""

    packs: frozenset[str]
    chains: Mapping[str, int]


def mark_key(pool: str) -> str:
    """Where the list is in the store."""
    return f"sessions/{pool}/garbage"


def encode(mark: Mark, keys: SessionKeys, pool: str) -> bytes:
    """The list as it is stored."""
    fields = {"packs": sorted(mark.packs), "chains": dict(mark.chains)}
    return GARBAGE.encode(keys, json.dumps(fields, separators=(",", ":")).encode(), pool)


def decode(data: bytes, keys: SessionKeys, pool: str) -> Mark:
    """Inverse of `encode`. Raises `Damaged`, `UnknownFormat`."""
    what = f"The list of garbage of session {pool!r}"
    plain = GARBAGE.decode(keys, data, pool, what)
    try:
        fields = json.loads(plain)
        chains = {str(name): int(number) for name, number in fields["chains"].items()}
        return Mark(frozenset(map(str, fields["packs"])), chains)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        raise Damaged(what, "its fields are not those of one") from None


def load(store: BlobStore, pool: str, keys: SessionKeys) -> Mark | None:
    """The list; None when there is none, or it is damaged: then it is simply made anew.

    Raises `UnknownFormat`.
    """
    try:
        return decode(store.get(mark_key(pool)), keys, pool)
    except (NotFound, Damaged):
        return None


def prunable(store: BlobStore, pool: str, keys: SessionKeys, session_id: str) -> int | None:
    """The highest checkpoint of a session that may be deleted while the list is not worked off;
    None when there is no list. What came after it is proof of what is not garbage."""
    mark = load(store, pool, keys)
    return None if mark is None else mark.chains.get(session_id, 0)
