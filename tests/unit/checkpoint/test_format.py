"""`docs/checkpoint-format.md` against the library: its vectors are read by a decoder written from
that page, and by the library, and both must see the same."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from checkpoint import garbage, tags
from checkpoint.blobs import Memory
from checkpoint.errors import UnknownFormat
from checkpoint.fork import check_marker, marker_key
from checkpoint.keys import MasterKey, SessionKeys, unwrap_key
from checkpoint.manifest import Part, decode_manifest
from checkpoint.packs import PackRef, read_index, verify_pack
from checkpoint.reader import Reader
from checkpoint.repository import Repository

PAGE = Path(__file__).parents[3] / "docs" / "checkpoint-format.md"


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    text = PAGE.read_text()
    found: dict[str, Any] = json.loads(text.split("```json\n")[1].split("```")[0])
    return {
        name: [bytes.fromhex(one) for one in value]
        if isinstance(value, list)
        else bytes.fromhex(value)
        for name, value in found.items()
    }


@pytest.fixture(scope="module")
def keys(vectors: dict[str, Any]) -> SessionKeys:
    return SessionKeys(vectors["session_key"])


def _derive(key: bytes, purpose: str) -> bytes:
    return blake3(key, derive_key_context=f"sessionkeeper 2026-11 {purpose}").digest()


def _open(key: bytes, sealed: bytes, context: bytes) -> bytes:
    return AESGCM(key).decrypt(sealed[:12], sealed[12:], context)


def test_wrapped_keys_open_as_the_page_says(vectors: dict[str, Any]) -> None:
    master = vectors["master_key"]
    wrap = _derive(master, "master wrap")
    for name, version, session_id, pool in (
        ("wrapped_key_v1", 1, "lab", "lab"),
        ("wrapped_key_v2", 2, "copy", "lab"),
    ):
        data = vectors[name]
        assert data[:5] == b"SKKY" + bytes([version])
        assert data[5:13] == _derive(master, "master fingerprint")[:8]
        assert data[-8:] == blake3(data[:-8]).digest()[:8]
        sealed, context = data[13:-8], session_id
        if version == 2:
            pool_size, size = struct.unpack_from("<HH", data, 13)
            assert data[17 : 17 + pool_size].decode() == pool
            sealed, context = data[17 + pool_size : -8], f"session key 2 {session_id} {pool}"
            assert len(sealed) == size
        assert _open(wrap, sealed, context.encode()) == vectors["session_key"]
        found = unwrap_key(data, session_id, MasterKey(master))
        assert found[:2] == (vectors["session_key"], pool)


def test_pack_and_chunks_open_as_the_page_says(vectors: dict[str, Any], keys: SessionKeys) -> None:
    session_key, pack = vectors["session_key"], vectors["pack"]
    seal = _derive(session_key, "seal")
    assert vectors["pack_id"] == blake3(pack, key=_derive(session_key, "pack id")).digest(16)
    magic, version, index_size, count = struct.unpack("<4sIII", pack[-16:])
    assert (magic, version, count) == (b"SKPK", 1, 2)
    entries = _open(seal, pack[-16 - index_size : -16], b"pack index 1")
    at = 0
    seen = []
    for name, length, plain in struct.iter_unpack("<32sII", entries):
        sealed = pack[at : at + length]
        content = _open(seal, sealed[2:], sealed[:2] + name)
        if sealed[1] == 1:
            content = zstandard.decompress(content)
        assert len(content) == plain
        assert blake3(content, key=_derive(session_key, "chunk id")).digest() == name
        seen.append((name, content, sealed[1]))
        at += length
    assert at == len(pack) - 16 - index_size
    assert [name for name, _, _ in seen] == vectors["chunk_ids"]
    assert [content for _, content, _ in seen] == vectors["chunks"]
    assert [codec for _, _, codec in seen] == [0, 1]  # both kinds are among the vectors
    ref = PackRef(vectors["pack_id"], len(pack), index_size)
    store = Memory()
    store.objects[ref.key] = pack
    assert [entry.id for entry in read_index(store, keys, ref)] == vectors["chunk_ids"]
    assert verify_pack(store, keys, ref) == set(vectors["chunk_ids"])
    with Reader(store, keys, [ref]) as reader:
        assert list(reader.read(vectors["chunk_ids"])) == vectors["chunks"]


def test_manifest_opens_as_the_page_says(vectors: dict[str, Any], keys: SessionKeys) -> None:
    data = vectors["manifest_7_of_lab"]
    assert data[:5] == b"SKMF\x01"
    sealed = _open(_derive(vectors["session_key"], "seal"), data[5:], b"manifest 1 7 lab")
    fields = json.loads(zstandard.decompress(sealed))
    assert fields == {
        "number": 7,
        "epoch": 3,
        "parent": 6,
        "created": 1700000000.5,
        "packs": [[vectors["pack_id"].hex(), len(vectors["pack"]), fields["packs"][0][2]]],
        "tree": vectors["chunk_ids"][0].hex(),
        "processes": {
            "kernel": {
                "engine": "criu",
                "root": vectors["chunk_ids"][1].hex(),
                "detail": {"pid": 2},
            }
        },
        "meta": {"writes": 4},
    }
    manifest = decode_manifest(data, keys, "lab", 7)
    assert (manifest.number, manifest.epoch, manifest.created) == (7, 3, 1700000000.5)
    assert manifest.packs[0].id == vectors["pack_id"]


def test_what_is_beside_a_process_opens_as_the_page_says(
    vectors: dict[str, Any], keys: SessionKeys
) -> None:
    data = vectors["manifest_8_of_lab"]
    sealed = _open(_derive(vectors["session_key"], "seal"), data[5:], b"manifest 1 8 lab")
    kernel = json.loads(zstandard.decompress(sealed))["processes"]["kernel"]
    beside = vectors["chunk_ids"][0]
    assert kernel.pop("beside") == {
        "engine": "namespace",
        "root": beside.hex(),
        "detail": {"applied": 5},
    }
    manifest = decode_manifest(data, keys, "lab", 8)
    [part] = manifest.processes.values()
    before = decode_manifest(vectors["manifest_7_of_lab"], keys, "lab", 7).processes["kernel"]
    # A reader that does not know it finds what was there before.
    assert Part(kernel["engine"], bytes.fromhex(kernel["root"]), kernel["detail"]) == before
    assert part == replace(before, beside=Part("namespace", beside, {"applied": 5}))
    assert beside in manifest.body.roots()


def test_tag_marker_and_garbage_open_as_the_page_says(
    vectors: dict[str, Any], keys: SessionKeys
) -> None:
    seal = _derive(vectors["session_key"], "seal")

    def content(vector: str, magic: bytes, name: bytes) -> bytes:
        data = vectors[vector]
        assert data[:5] == magic + b"\x01"
        return _open(seal, data[5:], data[:5] + name)

    tag = content("tag_good_of_lab", b"SKTG", b"lab good")
    assert tag == struct.pack("<Q", 7) + vectors["manifest_7_of_lab"]
    assert tags.decode(vectors["tag_good_of_lab"], keys, "lab", "good")[1:] == (7, tag[8:])
    marker = json.loads(content("fork_copy_of_lab", b"SKFK", b"lab copy"))
    assert marker == {"parent": "lab"}
    found = json.loads(content("garbage_of_lab", b"SKGB", b"lab"))
    mark = garbage.decode(vectors["garbage_of_lab"], keys, "lab")
    assert found == {"packs": ["ab" * 16], "chains": {"lab": 7, "copy": 1}}
    assert (mark.packs, mark.chains) == (frozenset(found["packs"]), found["chains"])
    repository = Repository(Memory(), "lab", keys)
    repository.store.put(marker_key("lab", "copy"), vectors["fork_copy_of_lab"])
    check_marker(repository, "copy")


def test_newer_version_of_any_object_is_named_and_not_read(
    vectors: dict[str, Any], keys: SessionKeys
) -> None:
    newer = {
        name: data[:4] + b"\x63" + data[5:]
        for name, data in vectors.items()
        if isinstance(data, bytes) and data.startswith(b"SK")
    }
    repository = Repository(Memory(), "lab", keys)
    repository.store.put(marker_key("lab", "copy"), newer["fork_copy_of_lab"])
    master = MasterKey(vectors["master_key"])
    pack = vectors["pack"]
    ref = PackRef(vectors["pack_id"], len(pack), struct.unpack("<I", pack[-8:-4])[0])
    repository.blobs.put(ref.key, pack[:-12] + struct.pack("<I", 99) + pack[-8:])
    for read in (
        lambda: unwrap_key(newer["wrapped_key_v2"], "copy", master),
        lambda: decode_manifest(newer["manifest_7_of_lab"], keys, "lab", 7),
        lambda: tags.decode(newer["tag_good_of_lab"], keys, "lab", "good"),
        lambda: check_marker(repository, "copy"),
        lambda: garbage.decode(newer["garbage_of_lab"], keys, "lab"),
        lambda: read_index(repository.blobs, keys, ref),
    ):
        with pytest.raises(UnknownFormat, match="format version 99; this release reads up to"):
            read()
