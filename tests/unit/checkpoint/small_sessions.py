"""Sessions with checkpoints of a few chunks, and what must be readable of them."""

from __future__ import annotations

import secrets

from checkpoint.blobs import BlobStore
from checkpoint.keys import MasterKey, SessionKeys
from checkpoint.manifest import Body, Manifest
from checkpoint.reader import Reader
from checkpoint.repository import Repository
from checkpoint.writer import Writer

KEYS = SessionKeys(b"k" * 32)
MASTER = MasterKey(b"m" * 32)


def opened(store: BlobStore, session_id: str = "one") -> Repository:
    return Repository.open(store, session_id, MASTER)


def body(writer: Writer, *contents: bytes) -> Body:
    """A finished body with these chunks; `meta` says what they hold."""
    names = [writer.add(content) for content in contents]
    packs = writer.finish()
    held = {name.hex(): content.hex() for name, content in zip(names, contents, strict=True)}
    return Body(packs, names[0], {}, held)


def commit(repository: Repository, what: Body, created: float | None = None) -> Manifest:
    number = (repository.numbers() or [0])[-1] + 1
    at = 1000.0 * number if created is None else created
    manifest = Manifest(number, 1, number - 1 or None, at, what)
    repository.commit(manifest)
    return manifest


def checkpoint(repository: Repository, *contents: bytes, created: float | None = None) -> Manifest:
    """A checkpoint by a writer of its own, which goes on from the newest one."""
    with repository.writer(repository.newest()) as writer:
        return commit(repository, body(writer, *contents), created)


def grow(repository: Repository, checkpoints: int) -> None:
    """Checkpoints that share a chunk with the one before and have a new one."""
    old = secrets.token_bytes(1000)
    for _ in range(checkpoints):
        new = secrets.token_bytes(1000)
        checkpoint(repository, old, new)
        old = new


def assert_readable(repository: Repository, manifest: Manifest) -> None:
    with Reader(repository.blobs, repository.keys, manifest.packs) as reader:
        for name, content in manifest.meta.items():
            assert reader.one(bytes.fromhex(name)) == bytes.fromhex(str(content))


def assert_all_readable(repository: Repository) -> None:
    for number in repository.numbers():
        assert_readable(repository, repository.load(number))


def packs(store: BlobStore, pool: str = "one") -> set[str]:
    return {key.rpartition("/")[2] for key in store.list(f"sessions/{pool}/packs/")}


def named(*repositories: Repository) -> set[str]:
    return {
        ref.id.hex()
        for repository in repositories
        for number in repository.numbers()
        for ref in repository.load(number).packs
    }
