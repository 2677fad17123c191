"""Tags: names for checkpoints, which keep them for good.

A tag holds the number of its checkpoint and a copy of the stored manifest. So a checkpoint that is
deleted at the very moment it gets a name stays readable, and a damaged manifest can be put back.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from checkpoint.blobs import BlobStore
from checkpoint.errors import Damaged, NotFound, UnknownCheckpoint, UnknownFormat, UnknownTag
from checkpoint.keys import SessionKeys
from checkpoint.manifest import Manifest, decode_manifest
from checkpoint.sealed import TAG

if TYPE_CHECKING:
    from checkpoint.repository import Repository

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_NUMBER = struct.Struct("<Q")


class Tag(NamedTuple):
    """A name, the checkpoint that has it, and that checkpoint's manifest as it is stored."""

    name: str
    number: int
    stored: bytes


def tag(repository: Repository, name: str, number: int | None = None) -> int:
    """Give checkpoint `number`, or the newest, a name; its number. A tag of that name is replaced.

    Raises `ValueError` for a name that is none, `UnknownCheckpoint`, `Damaged`, `UnknownFormat`.
    """
    key = _key(name)
    if name.isdecimal():
        raise ValueError(f"not a valid tag: {name!r} (it would be taken for a checkpoint's number)")
    if number is None:
        newest = repository.newest()
        if newest is None:
            raise UnknownCheckpoint(repository.session_id, None)
        number = newest.number
    blobs, at = repository.blobs, f"manifests/{number:08d}"
    try:
        stored = blobs.get(at)
        decode_manifest(stored, repository.keys, repository.session_id, number)
        blobs.put(key, encode(Tag(name, number, stored), repository.keys, repository.session_id))
        blobs.get(at, 0, 1)
    except NotFound:
        _withdraw(repository, name, number)
        raise UnknownCheckpoint(repository.session_id, number) from None
    return number


def untag(repository: Repository, name: str) -> None:
    """Take a name away; the checkpoint is then as any other. Raises `UnknownTag`."""
    if _key(name) not in repository.blobs.list(_key(name)):
        raise UnknownTag(repository.session_id, name)
    repository.blobs.delete(_key(name))


def _withdraw(repository: Repository, name: str, number: int) -> None:
    """Take a name away from a checkpoint that has gone, if it has it."""
    try:
        found = load(repository.blobs, repository.keys, repository.session_id, name)
    except (NotFound, Damaged, UnknownFormat):
        return
    if found.number == number:
        repository.blobs.delete(_key(name))


def resolve(repository: Repository, name: str) -> Manifest:
    """The checkpoint of that name. Raises `UnknownTag`, `Damaged`, `UnknownFormat`."""
    try:
        found = load(repository.blobs, repository.keys, repository.session_id, name)
    except NotFound:
        raise UnknownTag(repository.session_id, name) from None
    return decode_manifest(found.stored, repository.keys, repository.session_id, found.number)


def names(blobs: BlobStore) -> list[str]:
    """The names of all tags of a session's part of a store, sorted."""
    found = (key.removeprefix("tags/") for key in blobs.list("tags/"))
    return [name for name in found if _NAME.fullmatch(name)]


def load_all(blobs: BlobStore, keys: SessionKeys, session_id: str) -> Iterator[Tag]:
    """All tags. Raises as `load`, but not for one that was removed meanwhile."""
    for name in names(blobs):
        try:
            yield load(blobs, keys, session_id, name)
        except NotFound:
            continue


def numbers(blobs: BlobStore, keys: SessionKeys, session_id: str) -> dict[int, list[str]]:
    """The numbers that have names, and which. Raises as `load_all`."""
    found: dict[int, list[str]] = {}
    for each in load_all(blobs, keys, session_id):
        found.setdefault(each.number, []).append(each.name)
    return found


def load(blobs: BlobStore, keys: SessionKeys, session_id: str, name: str) -> Tag:
    """A tag. Raises `NotFound`, `Damaged`, `UnknownFormat`."""
    return decode(blobs.get(_key(name)), keys, session_id, name)


def encode(what: Tag, keys: SessionKeys, session_id: str) -> bytes:
    """A tag as it is stored."""
    plain = _NUMBER.pack(what.number) + what.stored
    return TAG.encode(keys, plain, f"{session_id} {what.name}")


def decode(data: bytes, keys: SessionKeys, session_id: str, name: str) -> Tag:
    """Inverse of `encode`. Raises `Damaged`, `UnknownFormat`."""
    what = f"Tag {name!r} of session {session_id!r}"
    plain = TAG.decode(keys, data, f"{session_id} {name}", what)
    if len(plain) < _NUMBER.size:
        raise Damaged(what, "it is cut short")
    return Tag(name, _NUMBER.unpack_from(plain)[0], plain[_NUMBER.size :])


def _key(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a valid tag: {name!r} (letters, digits, '.', '_' and '-')")
    return f"tags/{name}"
