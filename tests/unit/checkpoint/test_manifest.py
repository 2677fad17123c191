from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint.errors import CheckpointError, Damaged, UnknownFormat
from checkpoint.keys import SessionKeys
from checkpoint.manifest import (
    Body,
    Manifest,
    Part,
    decode_body,
    decode_manifest,
    encode_body,
    encode_manifest,
)
from checkpoint.packs import PackRef

KEYS = SessionKeys(b"k" * 32)

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
json_objects = st.dictionaries(st.text(), json_values, max_size=4)
chunk_ids = st.binary(min_size=32, max_size=32)
sizes = st.integers(0, 2**50)
parts = st.builds(Part, st.text(), st.none() | chunk_ids, json_objects)
bodies = st.builds(
    Body,
    packs=st.lists(
        st.builds(PackRef, st.binary(min_size=16, max_size=16), sizes, sizes), max_size=5
    ).map(tuple),
    tree=st.none() | chunk_ids,
    processes=st.dictionaries(
        st.text(),
        st.builds(Part, st.text(), st.none() | chunk_ids, json_objects, st.none() | parts),
        max_size=3,
    ),
    meta=json_objects,
)
manifests = st.builds(
    Manifest,
    number=st.integers(1, 10**9),
    epoch=st.integers(0, 2**32),
    parent=st.none() | st.integers(1, 10**9),
    created=st.floats(0, 1e11),
    body=bodies,
)

EXAMPLE = Manifest(
    number=7,
    epoch=3,
    parent=6,
    created=1.5,
    body=Body((PackRef(b"p" * 16, 9, 8),), b"t" * 32, {"k": Part("criu", b"r" * 32)}, {"a": 1}),
)


@settings(deadline=None)
@given(bodies)
def test_body_travels_unchanged(body: Body) -> None:
    assert decode_body(encode_body(body)) == body


@settings(deadline=None)
@given(manifests)
def test_manifest_reads_as_it_was_written(manifest: Manifest) -> None:
    data = encode_manifest(manifest, KEYS, "one")
    assert decode_manifest(data, KEYS, "one", manifest.number) == manifest


def test_manifest_is_good_for_its_session_number_and_key_alone() -> None:
    data = encode_manifest(EXAMPLE, KEYS, "one")
    for keys, session_id, number in (
        (SessionKeys(b"x" * 32), "one", 7),
        (KEYS, "two", 7),
        (KEYS, "one", 8),
    ):
        with pytest.raises(Damaged, match=f"Checkpoint {number} of session '{session_id}'"):
            decode_manifest(data, keys, session_id, number)


def test_every_flipped_bit_and_every_cut_is_found() -> None:
    data = encode_manifest(EXAMPLE, KEYS, "one")
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((Damaged, UnknownFormat), match="Checkpoint 7 of session 'one'"):
            decode_manifest(bytes(damaged), KEYS, "one", 7)
    for end in range(len(data)):
        with pytest.raises(Damaged):
            decode_manifest(data[:end], KEYS, "one", 7)


def test_newer_version_is_named() -> None:
    data = bytearray(encode_manifest(EXAMPLE, KEYS, "one"))
    data[4] = 9
    with pytest.raises(UnknownFormat, match="format version 9; this release reads up to") as caught:
        decode_manifest(bytes(data), KEYS, "one", 7)
    assert "upgrade" in caught.value.hint


@settings(deadline=None)
@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_what_is_not_a_body_is_refused(data: bytes) -> None:
    with pytest.raises(Damaged):
        decode_body(data)


@settings(deadline=None)
@given(st.data())
def test_body_with_a_field_of_another_type_is_refused(data: st.DataObject) -> None:
    fields = json.loads(encode_body(EXAMPLE.body))
    name = data.draw(st.sampled_from(sorted(fields)))
    fields[name] = data.draw(json_values)
    try:
        body = decode_body(json.dumps(fields).encode())
    except CheckpointError:
        return
    assert json.loads(encode_body(body))[name] == fields[name]
