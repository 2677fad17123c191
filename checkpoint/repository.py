"""The repository of one session: a chain of numbered manifests over chunks in packs.

sessions/<id>/key                     session key, wrapped by the master key
sessions/<id>/manifests/<08d>         created only if absent: first come owns it
sessions/<id>/packs/<hex>             see `checkpoint.packs`
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

from checkpoint.blobs import BlobStore, Prefixed
from checkpoint.chunks import chunk_id, unseal
from checkpoint.errors import AlreadyExists, Damaged, NotFound, StaleWriter, UnknownFormat
from checkpoint.keys import MasterKey, SessionKeys
from checkpoint.manifest import Manifest, decode_manifest, encode_manifest
from checkpoint.packs import PackRef, decode_index, pack_id, tail_size
from checkpoint.reader import Reader
from checkpoint.writer import Writer

_SESSION_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_NUMBER = re.compile(r"manifests/(\d{8,})")


@dataclass(frozen=True)
class Skipped:
    """A checkpoint that was passed over, and why (a sentence)."""

    number: int
    reason: str


def create_or_open_key(store: BlobStore, session_id: str, master: MasterKey) -> SessionKeys:
    """The session's keys, made and stored if it has none yet; the same for all who ask at once.

    Raises `Damaged`, `WrongKey`, `UnknownFormat`, and what the store raises.
    """
    key = f"sessions/{_checked(session_id)}/key"
    try:
        wrapped = store.get(key)
    except NotFound:
        keys = SessionKeys.generate()
        try:
            store.create(key, master.wrap(keys.session_key, session_id))
        except AlreadyExists:
            wrapped = store.get(key)
        else:
            return keys
    return SessionKeys(master.unwrap(wrapped, session_id))


class Repository:
    """Checkpoints of one session. Every method may raise what the store raises.

    `blobs` is the session's part of the store: what a `Writer` or `Reader` on a node works with.
    """

    def __init__(self, store: BlobStore, session_id: str, keys: SessionKeys) -> None:
        self.session_id = _checked(session_id)
        self.keys = keys
        self.blobs = Prefixed(store, f"sessions/{session_id}/")

    @classmethod
    def open(cls, store: BlobStore, session_id: str, master: MasterKey) -> Self:
        """The session's repository, begun if there is none. Raises as `create_or_open_key`."""
        return cls(store, session_id, create_or_open_key(store, session_id, master))

    def numbers(self) -> list[int]:
        """The numbers of all checkpoints, ascending."""
        matches = map(_NUMBER.fullmatch, self.blobs.list("manifests/"))
        return sorted(int(match[1]) for match in matches if match)

    def load(self, number: int) -> Manifest:
        """The manifest of that number. Raises `NotFound`, `Damaged`, `UnknownFormat`."""
        data = self.blobs.get(_manifest_key(number))
        return decode_manifest(data, self.keys, self.session_id, number)

    def newest(self) -> Manifest | None:
        """The manifest of the highest number, None when there is none. Raises as `load`."""
        numbers = self.numbers()
        return self.load(numbers[-1]) if numbers else None

    def newest_intact(self, *, verify: bool = False) -> tuple[Manifest | None, list[Skipped]]:
        """The newest checkpoint that is intact, and those that were passed over for it.

        With `verify` every byte of its packs is read; without, only manifest and pack indices are.
        """
        skipped: list[Skipped] = []
        for number in reversed(self.numbers()):
            try:
                manifest = self.load(number)
                if verify:
                    self.verify(manifest)
                else:
                    self.reader(manifest).close()
            except (Damaged, UnknownFormat, NotFound) as error:
                skipped.append(Skipped(number, str(error)))
            else:
                return manifest, skipped
        return None, skipped

    def commit(self, manifest: Manifest) -> None:
        """Make `manifest` the next checkpoint: created under its number only if there is none.

        Committing the same manifest again is no error (the first answer may have been lost).
        Raises `StaleWriter` when the number is taken or the newest manifest has a higher epoch,
        and `ValueError` when the number is not the next one.
        """
        numbers = self.numbers()
        newest = numbers[-1] if numbers else 0
        if newest >= manifest.number:
            self._refuse_unless_same(manifest)
            return
        if manifest.number != newest + 1:
            raise ValueError(f"the next checkpoint is {newest + 1}, not {manifest.number}")
        epoch = self._epoch(newest) if newest else None
        if epoch is not None and epoch > manifest.epoch:
            raise StaleWriter(self.session_id, newest, epoch)
        data = encode_manifest(manifest, self.keys, self.session_id)
        try:
            self.blobs.create(_manifest_key(manifest.number), data)
        except AlreadyExists:
            self._refuse_unless_same(manifest)

    def verify(self, manifest: Manifest) -> None:
        """Read every byte of the manifest's packs. Raises `Damaged`, naming what is not intact."""
        with ThreadPoolExecutor(3, "verify") as pool:
            held: set[bytes] = set()
            for names in pool.map(self._verify_pack, manifest.packs):
                held |= names
        for root in manifest.body.roots():
            if root not in held:
                raise Damaged(f"Chunk {root.hex()}", "no pack of the checkpoint holds it")

    def writer(self, base: Manifest | None) -> Writer:
        """A writer that goes on from `base`."""
        return Writer(self.blobs, self.keys, () if base is None else base.packs)

    def reader(self, manifest: Manifest) -> Reader:
        """A reader of the chunks of `manifest`."""
        return Reader(self.blobs, self.keys, manifest.packs)

    def _refuse_unless_same(self, manifest: Manifest) -> None:
        try:
            if self.load(manifest.number) == manifest:
                return
        except (Damaged, UnknownFormat):
            pass
        newest = self.numbers()[-1]
        raise StaleWriter(self.session_id, newest, self._epoch(newest))

    def _epoch(self, number: int) -> int | None:
        """The epoch of a manifest; None when it cannot be read."""
        try:
            return self.load(number).epoch
        except (Damaged, UnknownFormat):
            return None

    def _verify_pack(self, ref: PackRef) -> set[bytes]:
        what = f"Pack {ref.id.hex()}"
        try:
            data = self.blobs.get(ref.key)
        except NotFound:
            raise Damaged(what, "it is missing from the store") from None
        if len(data) != ref.size:
            raise Damaged(what, f"it has {len(data)} bytes instead of {ref.size}")
        view = memoryview(data)
        names = set()
        for entry in decode_index(self.keys, ref, data[-tail_size(ref) :]):
            chunk = f"Chunk {entry.id.hex()} in pack {ref.id.hex()}"
            sealed = view[entry.offset : entry.offset + entry.length]
            content = unseal(self.keys, entry.id, sealed, chunk)
            if chunk_id(self.keys, content) != entry.id or len(content) != entry.plain:
                raise Damaged(chunk, "its content is not what its id says")
            names.add(entry.id)
        if pack_id(self.keys, data) != ref.id:
            raise Damaged(what, "its bytes are not what its id says")
        return names


def _manifest_key(number: int) -> str:
    return f"manifests/{number:08d}"


def _checked(session_id: str) -> str:
    if not _SESSION_ID.fullmatch(session_id):
        raise ValueError(f"not a valid session id: {session_id!r}")
    return session_id
