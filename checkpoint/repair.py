"""Putting back what `checkpoint.fsck` found damaged, from a peer copy of the store or from what the
store itself still has.

An object is only ever replaced by one that was checked and is the object that belongs there: a pack
whose index alone is damaged has all that it takes (`checkpoint.salvage`). Where there is no such
copy, the newest checkpoint of a session is made anew, under the next number, of
chunks that other packs still hold.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from checkpoint import tags
from checkpoint.blobs import BlobStore
from checkpoint.chunks import unseal
from checkpoint.errors import Damaged, NotFound, UnknownFormat
from checkpoint.fork import encode_marker, marker_key
from checkpoint.fsck import Finding, Report
from checkpoint.keys import KeyWrapper, unwrap_key
from checkpoint.manifest import Manifest, decode_manifest
from checkpoint.packs import (
    PACK_TARGET,
    Entry,
    PackRef,
    decode_index,
    encode_pack,
    pack_id,
    tail_size,
)
from checkpoint.repository import Repository
from checkpoint.salvage import as_it_was, entries_of, is_whole


@dataclass(frozen=True)
class Repaired:
    """A damaged object that is intact again, and from where."""

    finding: Finding
    source: str


def repair_key(store: BlobStore, session_id: str, peer: BlobStore, *masters: KeyWrapper) -> None:
    """Put a session's key back from `peer`. Raises `NotFound`, `Damaged`, `WrongKey`."""
    key = f"sessions/{session_id}/key"
    wrapped = peer.get(key)
    unwrap_key(wrapped, session_id, *masters)
    store.put(key, wrapped)


def repair(repository: Repository, report: Report, peer: BlobStore | None = None) -> list[Repaired]:
    """Put back what can be; what is not in the answer is as it was. Raises what a store raises."""
    repaired = []
    for finding in report.findings:
        source = _repair_one(repository, report, finding, peer)
        if source is not None:
            repaired.append(Repaired(finding, source))
    return repaired


def rebuild(repository: Repository, report: Report) -> Manifest | None:
    """Make the newest checkpoint of this session anew, as the next one, without the packs that
    `report` has as damaged; None when it is not touched, or a chunk of it is in no other pack.

    Only while nobody writes the session: a writer would find itself stale. Raises `StaleWriter`,
    and what the store raises.
    """
    newest = repository.newest()
    if newest is None or not any(ref in report.lost for ref in newest.packs):
        return None
    bad = [ref for ref in newest.packs if ref in report.lost]
    wanted: set[bytes] = set()
    for ref in bad:
        try:
            entries = entries_of(repository.blobs, repository.keys, ref)
        except (Damaged, UnknownFormat):
            return None
        if report.lost[ref] is None and not is_whole(ref, entries):
            return None  # nobody knows what else it held
        wanted.update(entry.id for entry in entries)
    held = _search(repository, report, wanted)
    if wanted - held.keys():
        return None
    packs = tuple(sorted({*newest.packs, *_copy(repository, held)} - set(bad)))
    meta = {**newest.meta, "rebuilt_from": newest.number}
    made = dataclasses.replace(
        newest,
        number=newest.number + 1,
        parent=newest.number,
        body=dataclasses.replace(newest.body, packs=packs, meta=meta),
    )
    repository.commit(made)
    return made


def _repair_one(
    repository: Repository, report: Report, finding: Finding, peer: BlobStore | None
) -> str | None:
    if not finding.key:
        return None
    _, session_id, kind, *rest = finding.key.split("/")
    name = rest[0] if rest else ""
    session = repository.sharing(session_id)
    check = _check_of(session, report, kind, name)
    if peer is not None and check is not None:
        try:
            data = peer.get(finding.key)
            check(data)
        except (NotFound, Damaged, UnknownFormat):
            pass
        else:
            repository.store.put(finding.key, data)
            return "the peer"
    if kind == "packs":
        [ref] = [ref for ref in report.lost if ref.id.hex() == name]
        whole = None
        with contextlib.suppress(NotFound):
            whole = as_it_was(session.keys, ref, session.blobs.get(ref.key, 0, ref.size))
        if whole is not None:
            repository.store.put(finding.key, whole)
            return "the chunks in it"
    if kind == "manifests":
        for tag in _good_tags(session):
            if tag.number == int(name):
                repository.store.put(finding.key, tag.stored)
                return f"tag {tag.name!r}"
    if kind == "forks":
        repository.store.put(marker_key(repository.pool, name), encode_marker(repository, name))
        return "what is known of the fork"
    if kind == "garbage":
        repository.store.delete(finding.key)  # the next collection makes it anew
        return "nothing: it is made anew when it is needed"
    return None


def _check_of(
    session: Repository, report: Report, kind: str, name: str
) -> Callable[[bytes], object] | None:
    """What raises for bytes that are not the object of this name."""
    keys, session_id = session.keys, session.session_id
    match kind:
        case "manifests":
            return lambda data: decode_manifest(data, keys, session_id, int(name))
        case "tags":
            return lambda data: tags.decode(data, keys, session_id, name)
        case "packs":
            [ref] = [ref for ref in report.lost if ref.id.hex() == name]
            return lambda data: _check_pack(session, ref, data)
    return None


def _check_pack(session: Repository, ref: PackRef, data: bytes) -> None:
    decode_index(session.keys, ref, data[-tail_size(ref) :])
    if pack_id(session.keys, data) != ref.id:
        raise Damaged(f"Pack {ref.id.hex()}", "its bytes are not what its id says")


def _search(
    repository: Repository, report: Report, wanted: set[bytes]
) -> dict[bytes, tuple[PackRef, Entry]]:
    """Where intact copies of these chunks are: in what is whole of damaged packs, and in others."""
    refs = set(report.lost)
    for _, found in repository.load_all(repository.numbers()):
        if isinstance(found, Manifest):
            refs.update(found.packs)
    held: dict[bytes, tuple[PackRef, Entry]] = {}
    for ref in sorted(refs):
        lost = report.lost.get(ref, frozenset())
        if lost is None:
            continue
        for entry in entries_of(repository.blobs, repository.keys, ref):
            if entry.id in wanted and entry.id not in lost:
                held[entry.id] = ref, entry
    return held


def _copy(repository: Repository, held: dict[bytes, tuple[PackRef, Entry]]) -> list[PackRef]:
    """Store these chunks in new packs."""
    refs: list[PackRef] = []
    chunks: list[tuple[bytes, bytes, int]] = []

    def close() -> None:
        ref, _, data = encode_pack(repository.keys, chunks)
        repository.blobs.create(ref.key, data)
        refs.append(ref)
        chunks.clear()

    for name, (ref, entry) in held.items():
        sealed = repository.blobs.get(ref.key, entry.offset, entry.length)
        unseal(repository.keys, name, sealed, f"Chunk {name.hex()} in pack {ref.id.hex()}")
        chunks.append((name, sealed, entry.plain))
        if sum(len(sealed) for _, sealed, _ in chunks) >= PACK_TARGET:
            close()
    if chunks:
        close()
    return refs


def _good_tags(session: Repository) -> list[tags.Tag]:
    found = []
    for name in tags.names(session.blobs):
        try:
            tag = tags.load(session.blobs, session.keys, session.session_id, name)
            decode_manifest(tag.stored, session.keys, session.session_id, tag.number)
        except (NotFound, Damaged, UnknownFormat):
            continue
        found.append(tag)
    return found
