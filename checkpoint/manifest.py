"""Manifests: what a checkpoint consists of.

Stored form: magic `SKMF` | version u8 | nonce 12 | AES-256-GCM of zstd of JSON, where the seal
binds the session's id and the manifest's number. JSON: `number`, `epoch`, `parent` (or null),
`created` (unix seconds), `packs` (list of `[hex id, size, index size]`), `tree` (hex chunk id or
null), `processes` (name to `{"engine", "root", "detail"}`, perhaps with `"beside"`, another of
these), `meta`. What a node builds is the *body* (the last four); the number and its neighbours are
the committer's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import zstandard

from checkpoint.chunks import ID_BYTES
from checkpoint.errors import Damaged, UnknownFormat
from checkpoint.keys import SessionKeys
from checkpoint.packs import PACK_ID_BYTES, PackRef

_MAGIC = b"SKMF"
_VERSION = 1
_HEAD = _MAGIC + bytes([_VERSION])
_MAX_PLAIN = 256 << 20

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """One process in a checkpoint: the engine that wrote it, its root chunk, the engine's JSON.

    `beside` is the same process at the same moment by another engine, for where the first one's
    cannot be restored.
    """

    engine: str
    root: bytes | None
    detail: Mapping[str, Any] = field(default_factory=dict)
    beside: Part | None = None


@dataclass(frozen=True)
class Body:
    """What a node saved: the packs that hold every chunk, and the roots in them."""

    packs: tuple[PackRef, ...] = ()
    tree: bytes | None = None
    processes: Mapping[str, Part] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def roots(self) -> list[bytes]:
        """The chunk ids everything else is reached from."""
        parts = [*self.processes.values()]
        parts += [part.beside for part in parts if part.beside is not None]
        return [root for root in (self.tree, *(part.root for part in parts)) if root is not None]


@dataclass(frozen=True)
class Manifest:
    """One checkpoint of a session. `created` is in unix seconds, `parent` a number or None."""

    number: int
    epoch: int
    parent: int | None
    created: float
    body: Body

    @property
    def packs(self) -> tuple[PackRef, ...]:
        return self.body.packs

    @property
    def tree(self) -> bytes | None:
        return self.body.tree

    @property
    def processes(self) -> Mapping[str, Part]:
        return self.body.processes

    @property
    def meta(self) -> Mapping[str, Any]:
        return self.body.meta


def encode_body(body: Body) -> bytes:
    """The body as bytes that travel from node to committer."""
    return json.dumps(_body_json(body), separators=(",", ":"), allow_nan=False).encode()


def decode_body(data: bytes) -> Body:
    """Inverse of `encode_body`. Raises `Damaged` for anything else."""
    what = "The description of a checkpoint"
    return _body(_parse(data, what), what)


def encode_manifest(manifest: Manifest, keys: SessionKeys, session_id: str) -> bytes:
    """The manifest as it is stored."""
    fields = {
        "number": manifest.number,
        "epoch": manifest.epoch,
        "parent": manifest.parent,
        "created": manifest.created,
        **_body_json(manifest.body),
    }
    plain = json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()
    context = _context(session_id, manifest.number)
    return _HEAD + b"".join(keys.sealer.seal(zstandard.compress(plain), context))


def decode_manifest(data: bytes, keys: SessionKeys, session_id: str, number: int) -> Manifest:
    """The manifest stored under `number`. Raises `Damaged`, `UnknownFormat`."""
    what = f"Checkpoint {number} of session {session_id!r}"
    if not data.startswith(_MAGIC) or len(data) < len(_HEAD):
        raise Damaged(what, "it does not begin as a manifest")
    if data[4] > _VERSION:
        raise UnknownFormat(what, data[4], _VERSION)
    packed = keys.sealer.open(
        memoryview(data)[len(_HEAD) :], _context(session_id, number, data[4]), what
    )
    try:
        if zstandard.frame_content_size(packed) > _MAX_PLAIN:
            raise Damaged(what, f"it claims to hold more than {_MAX_PLAIN} bytes")
        plain = zstandard.ZstdDecompressor().decompress(packed, max_output_size=_MAX_PLAIN)
    except zstandard.ZstdError as error:
        raise Damaged(what, f"it does not decompress ({error})") from None
    fields = _parse(plain, what)
    created = fields.get("created")
    if fields.get("number") != number or not isinstance(created, int | float):
        raise Damaged(what, "its fields are not those of a manifest")
    parent = fields.get("parent")
    return Manifest(
        number=number,
        epoch=_int(fields.get("epoch"), what),
        parent=None if parent is None else _int(parent, what),
        created=created,
        body=_body(fields, what),
    )


def _context(session_id: str, number: int, version: int = _VERSION) -> bytes:
    return f"manifest {version} {number} {session_id}".encode()


def _body_json(body: Body) -> dict[str, Any]:
    return {
        "packs": [[ref.id.hex(), ref.size, ref.index_size] for ref in body.packs],
        "tree": None if body.tree is None else body.tree.hex(),
        "processes": {name: _part_json(part) for name, part in body.processes.items()},
        "meta": dict(body.meta),
    }


def _part_json(part: Part) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "engine": part.engine,
        "root": None if part.root is None else part.root.hex(),
        "detail": dict(part.detail),
    }
    if part.beside is not None:
        fields["beside"] = _part_json(part.beside)
    return fields


def _parse(data: bytes, what: str) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        raise Damaged(what, "it is not JSON") from None
    if not isinstance(fields, dict):
        raise Damaged(what, "it is not a JSON object")
    return fields


def _body(fields: dict[str, Any], what: str) -> Body:
    try:
        return Body(
            packs=tuple(
                PackRef(_id(name, PACK_ID_BYTES, what), _int(size, what), _int(index_size, what))
                for name, size, index_size in _of(list, fields["packs"], what)
            ),
            tree=_root(fields["tree"], what),
            processes={
                name: _part(part, what)
                for name, part in _of(dict, fields["processes"], what).items()
            },
            meta=_of(dict, fields["meta"], what),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Damaged(what, "its fields are not those of a checkpoint") from None


def _part(fields: dict[str, Any], what: str, beside: bool = True) -> Part:
    other = fields.get("beside") if beside else None
    return Part(
        _of(str, fields["engine"], what),
        _root(fields["root"], what),
        _of(dict, fields["detail"], what),
        None if other is None else _part(_of(dict, other, what), what, beside=False),
    )


def _root(value: Any, what: str) -> bytes | None:
    return None if value is None else _id(value, ID_BYTES, what)


def _id(value: Any, size: int, what: str) -> bytes:
    name = bytes.fromhex(value)
    if len(name) != size:
        raise Damaged(what, "an id in it has the wrong length")
    return name


def _int(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Damaged(what, "a number in it is not one")
    return value


def _of(kind: type[T], value: Any, what: str) -> T:
    if not isinstance(value, kind):
        raise Damaged(what, f"{value!r} in it is not a {kind.__name__}")
    return value
