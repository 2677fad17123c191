"""Whatever bytes a decoder is given, it reads a value or raises a `CheckpointError`.

Never another exception, and never much time or memory: these bytes come from a store, or from a
node, that may be damaged or hostile. What is sealed is fuzzed inside its seal, as a node that has
the session's key could write it. `SESSIONKEEPER_FUZZ_EXAMPLES` sets how many inputs each decoder
gets; what was once found stays as an example.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from blake3 import blake3
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from checkpoint import garbage, tags
from checkpoint.blobs import Memory
from checkpoint.chunks import chunk_id, seal, unseal
from checkpoint.criu.identity import OPEN_FILES, OpenFiles, image_messages, note_open_files
from checkpoint.criu.image import decode_table, load_image
from checkpoint.criu.locks import keep_locks
from checkpoint.criu.pagemap import PRESENT, Pagemap, decode_pagemap, encode_pagemap
from checkpoint.errors import CheckpointError, Damaged
from checkpoint.files import Entry, Kind, TreeView, materialize
from checkpoint.files.ignore import parse
from checkpoint.files.tree import (
    Segment,
    decode_directory,
    decode_segments,
    encode_directory,
    entries_in,
    segments_in,
)
from checkpoint.keys import MasterKey, SessionKeys, unwrap_key, wrap_key
from checkpoint.manifest import (
    Body,
    Manifest,
    Part,
    decode_body,
    decode_manifest,
    encode_body,
    encode_manifest,
)
from checkpoint.objects import load_list, load_object, split_ids, stream_objects
from checkpoint.packs import PackRef, decode_index, encode_pack, tail_size
from checkpoint.reader import Reader
from checkpoint.sealed import GARBAGE, TAG
from checkpoint.writer import Writer

KEYS = SessionKeys(b"k" * 32)
MASTER = MasterKey(b"m" * 32)
EXAMPLES = int(os.environ.get("SESSIONKEEPER_FUZZ_EXAMPLES", "60"))
ROOM = 1 << 30  # of address space beyond what the process has: more is a huge allocation

fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=5000,  # a hang, even on a busy machine
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True, scope="module")
def little_memory() -> Iterator[None]:
    """A huge allocation fails, and is a `MemoryError`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _reads_or_refuses(decode: Callable[[], object]) -> None:
    with contextlib.suppress(CheckpointError):
        decode()


extremes = st.sampled_from(
    [b"\0", b"\xff", b"\xff" * 4, b"\xff" * 8, b"\0" * 8, b"\x80" * 12, b"\x7f" + b"\xff" * 7]
)


@st.composite
def mutated(draw: st.DrawFn, valid: bytes) -> bytes:
    """`valid` with a few places overwritten, cut out, doubled or extended."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        new = draw(extremes | st.binary(max_size=8))
        match draw(st.integers(0, 3)):
            case 0:
                data[at : at + len(new)] = new
            case 1:
                data[at:at] = new
            case 2:
                del data[at : at + draw(st.integers(1, 40))]
            case _:
                data += data[at : at + 200]
    return bytes(data)


def near(valid: bytes) -> st.SearchStrategy[bytes]:
    """Bytes that are nearly `valid`, or anything at all."""
    return mutated(valid) | st.binary(max_size=200)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([2**64, -1, 1e300, "00", "00" * 32, "\ud800", "../x", "a\0b", "."]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=6,
)


@st.composite
def near_json(draw: st.DrawFn, valid: Any) -> bytes:
    """JSON of the shape of `valid` with some places replaced, or mutated as bytes."""

    def changed(value: Any, depth: int) -> Any:
        if draw(st.integers(0, 9)) == 0:
            return draw(json_values)
        if isinstance(value, dict):
            kept = {k: changed(v, depth + 1) for k, v in value.items() if draw(st.integers(0, 19))}
            if draw(st.integers(0, 9)) == 0:
                kept[draw(st.text(max_size=5))] = draw(json_values)
            return kept
        if isinstance(value, list):
            return [changed(inner, depth + 1) for inner in value]
        return value

    data = json.dumps(changed(valid, 0)).encode()
    return draw(mutated(data)) if draw(st.booleans()) else data


DEEP = b"[" * 5000
ALL_ZERO = b"\xff\xff\xff\xff\0\0" + b"\xff" * 4  # 2^32 - 1 pages
LONG_NUMBER = b'{"version": ' + b"9" * 5000 + b"}"
BODY = Body(
    (PackRef(b"p" * 16, 9, 8),), b"t" * 32, {"k": Part("criu", b"r" * 32, {"x": 1})}, {"a": 1}
)
MANIFEST = Manifest(7, 3, 6, 1.5, BODY)


@fuzzed
@given(near_json(json.loads(encode_body(BODY))) | st.binary(max_size=200))
@example(DEEP)
@example(LONG_NUMBER)
def test_body(data: bytes) -> None:
    _reads_or_refuses(lambda: decode_body(data))


MANIFEST_JSON = {
    "number": 7,
    "epoch": 3,
    "parent": 6,
    "created": 1.5,
    **json.loads(encode_body(BODY)),
}


def _sealed_manifest(packed: bytes) -> bytes:
    nonce, ciphertext = KEYS.sealer.seal(packed, b"manifest 1 7 one")
    return b"SKMF\x01" + nonce + ciphertext


def test_what_is_fuzzed_inside_the_seal_of_a_manifest_is_opened() -> None:
    packed = zstandard.compress(json.dumps(MANIFEST_JSON).encode())
    assert decode_manifest(_sealed_manifest(packed), KEYS, "one", 7) == MANIFEST


@fuzzed
@given(near(encode_manifest(MANIFEST, KEYS, "one")))
def test_manifest(data: bytes) -> None:
    _reads_or_refuses(lambda: decode_manifest(data, KEYS, "one", 7))


@fuzzed
@given(near_json(MANIFEST_JSON))
@example(DEEP)
def test_manifest_inside_its_seal(data: bytes) -> None:
    packed = zstandard.compress(data)
    _reads_or_refuses(lambda: decode_manifest(_sealed_manifest(packed), KEYS, "one", 7))


def _zstd_claiming(size: int) -> bytes:
    """A frame whose header says that it holds `size` bytes (RFC 8878, 3.1.1.1)."""
    return b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", size) + b"\x03\x00\x00x"


@fuzzed
@given(near(zstandard.compress(b"some content " * 20)))
@example(_zstd_claiming(1 << 40))
@example(_zstd_claiming(2**64 - 1))
@example(_zstd_claiming(0))
@example(zstandard.ZstdCompressor(write_content_size=False).compress(bytes(300 << 20)))
def test_frame_inside_the_seal_of_a_manifest(packed: bytes) -> None:
    _reads_or_refuses(lambda: decode_manifest(_sealed_manifest(packed), KEYS, "one", 7))


NAME = chunk_id(KEYS, b"x" * 100)


@fuzzed
@given(near(seal(KEYS, NAME, b"x" * 100)))
def test_sealed_chunk(data: bytes) -> None:
    _reads_or_refuses(lambda: unseal(KEYS, NAME, data, "it"))


@fuzzed
@given(st.integers(0, 3), st.integers(0, 3), near(zstandard.compress(b"x" * 100)))
@example(1, 1, _zstd_claiming(1 << 40))
@example(1, 1, _zstd_claiming(2**64 - 1))
@example(1, 1, zstandard.ZstdCompressor(write_content_size=False).compress(bytes(300 << 20)))
def test_chunk_inside_its_seal(version: int, codec: int, payload: bytes) -> None:
    head = bytes((version, codec))
    sealed = head + b"".join(KEYS.sealer.seal(payload, head + NAME))
    _reads_or_refuses(lambda: unseal(KEYS, NAME, sealed, "it"))


PACK_REF, _, PACK = encode_pack(KEYS, [(NAME, seal(KEYS, NAME, b"x" * 100), 100)])


@fuzzed
@given(near(PACK[-tail_size(PACK_REF) :]))
def test_pack_index(tail: bytes) -> None:
    _reads_or_refuses(lambda: decode_index(KEYS, PACK_REF, tail))
    ref = PackRef(PACK_REF.id, PACK_REF.size, max(0, len(tail) - 16))
    _reads_or_refuses(lambda: decode_index(KEYS, ref, tail))


@fuzzed
@given(near(struct.pack("<32sII", NAME, 128, 100) * 3), st.integers(0, 2**32 - 1))
def test_pack_index_inside_its_seal(plain: bytes, count: int) -> None:
    sealed = b"".join(KEYS.sealer.seal(plain, b"pack index 1"))
    for number in (count, len(plain) // 40):
        tail = sealed + struct.pack("<4sIII", b"SKPK", 1, len(sealed), number)
        size = 128 * number + len(tail)
        _reads_or_refuses(lambda: decode_index(KEYS, PackRef(b"p" * 16, size, len(sealed)), tail))  # noqa: B023


WRAPPED = wrap_key(MASTER, b"s" * 32, "one", "pool")


@fuzzed
@given(near(WRAPPED))
@example(b"")
def test_wrapped_key(data: bytes) -> None:
    _reads_or_refuses(lambda: unwrap_key(data, "one", MASTER))
    summed = data + blake3(data).digest()[:8]
    _reads_or_refuses(lambda: unwrap_key(summed, "one", MASTER))


@fuzzed
@given(near(WRAPPED[:-8]))
def test_wrapped_key_inside_its_checksum(body: bytes) -> None:
    _reads_or_refuses(lambda: unwrap_key(body + blake3(body).digest()[:8], "one", MASTER))


@fuzzed
@given(near(TAG.encode(KEYS, struct.pack("<Q", 7) + b"stored", "one name")))
def test_tag(data: bytes) -> None:
    _reads_or_refuses(lambda: tags.decode(data, KEYS, "one", "name"))


@fuzzed
@given(near(struct.pack("<Q", 7) + b"stored"))
def test_tag_inside_its_seal(plain: bytes) -> None:
    data = TAG.encode(KEYS, plain, "one name")
    _reads_or_refuses(lambda: tags.decode(data, KEYS, "one", "name"))


@fuzzed
@given(near_json({"packs": ["00" * 16], "newest": {"one": 7}}) | st.binary(max_size=50))
@example(DEEP)
@example(LONG_NUMBER)
def test_list_of_garbage(plain: bytes) -> None:
    data = GARBAGE.encode(KEYS, plain, "pool")
    _reads_or_refuses(lambda: garbage.decode(data, KEYS, "pool"))


@fuzzed
@given(near(b"0" * 64 + b"\n"))
def test_master_key_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "key").write_bytes(data)
    _reads_or_refuses(lambda: MasterKey.from_file(tmp_path / "key"))


# -- file trees ------------------------------------------------------------------------------------

STORE = Memory()
with Writer(STORE, KEYS) as _writer:
    CONTENT = _writer.add(b"content")
    EMPTY = _writer.add(b"\0\x01")  # a directory with nothing in it
    PACKS = _writer.finish()

COMMON = {"mode": 0o644, "uid": 1, "gid": 2, "mtime_ns": 3}
DIRECTORY = encode_directory(
    [
        (b"a", Entry(Kind.FILE, size=7, segments=(Segment(0, 7, CONTENT),), link=9, **COMMON)),
        (b"b", Entry(Kind.FILE, size=7, segments=(Segment(0, 7, CONTENT),), link=9, **COMMON)),
        (b"c", Entry(Kind.DIRECTORY, content=EMPTY, **COMMON)),
        (b"d", Entry(Kind.SYMLINK, target=b"../..", **COMMON)),
        (b"e", Entry(Kind.FIFO, xattrs=((b"user.x", b"y"),), **COMMON)),
        (b"f", Entry(Kind.FILE, size=99, content=CONTENT, **COMMON)),
    ]
)


def _same_in_pieces(
    decode: Callable[[Iterator[bytes]], Iterator[object]], data: bytes, piece: int
) -> None:
    """However it is cut, the same is read, up to the same error."""

    def read(pieces: list[bytes]) -> list[object]:
        found: list[object] = []
        try:
            found.extend(decode(iter(pieces)))  # keeps what came before an error
        except CheckpointError as error:
            found.append(str(error))
        return found

    cut = [data[at : at + piece] for at in range(0, len(data), piece)] or [data]
    assert read(cut) == read([data])


@fuzzed
@given(near(DIRECTORY), st.integers(1, 300))
def test_directory(data: bytes, piece: int) -> None:
    _reads_or_refuses(lambda: decode_directory(data))
    _same_in_pieces(entries_in, data, piece)


@fuzzed
@given(
    near(struct.pack("<QI32s", 0, 7, CONTENT) * 2), st.integers(0, 2**64 - 1), st.integers(1, 99)
)
def test_segments(data: bytes, size: int, piece: int) -> None:
    _reads_or_refuses(lambda: list(decode_segments(data, size)))
    _same_in_pieces(lambda pieces: segments_in(pieces, size), data, piece)


def _tree_of(objects: dict[bytes, bytes]) -> Reader:
    """A reader of a store with these objects too. Their chunks are what they are named for."""
    store = Memory()
    with Writer(store, KEYS, ()) as writer:
        for data in (b"content", b"\0\x01", *objects.values()):
            writer.add(data)
        return Reader(store, KEYS, writer.finish(), threads=1)


def _root_entry(content: bytes) -> bytes:
    return encode_directory([(b"", Entry(Kind.DIRECTORY, content=content, **COMMON))])


@fuzzed
@given(near(DIRECTORY), near(_root_entry(EMPTY)))
@example(DIRECTORY, b"\x01")
def test_tree_is_written_below_its_directory_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, root: bytes
) -> None:
    inner = b"\0" + data
    for top in (_root_entry(chunk_id(KEYS, inner)), root):
        with _tree_of({b"inner": inner, b"top": b"\0" + top}) as reader:
            root_id = chunk_id(KEYS, b"\0" + top)
            place = tmp_path_factory.mktemp("tree")
            _reads_or_refuses(lambda: materialize(reader, root_id, place / "x" / "y"))  # noqa: B023
            assert os.listdir(place) in ([], ["x"])
            assert os.listdir(place / "x") in ([], ["y"]) if (place / "x").exists() else True
            _browse(reader, root_id)


def _browse(reader: Reader, root_id: bytes) -> None:
    with contextlib.suppress(CheckpointError):
        view = TreeView(reader, root_id)
        for name in view.list(""):
            _reads_or_refuses(lambda: view.read(name, 0, 1 << 20))  # noqa: B023
            _reads_or_refuses(lambda: view.list(name))  # noqa: B023


@fuzzed
@given(st.binary(max_size=100) | mutated(b"*.pyc\n!/a/**/b\n\\#x\n[a-z]\n"))
def test_ignore_file(data: bytes) -> None:
    rules = parse(b"", data)
    for path in (b"a", b"a/", b"x/y.pyc", b"\xff", b"a/b/c/"):
        assert rules.verdict(path) in (True, False, None)


# -- objects ---------------------------------------------------------------------------------------


@fuzzed
@given(st.binary(max_size=200))
def test_chunk_ids(data: bytes) -> None:
    _reads_or_refuses(lambda: split_ids(data))


@fuzzed
@given(near(b"\x02" + EMPTY + CONTENT), st.integers(0, 255))
def test_object(data: bytes, level: int) -> None:
    for chunk in (data, bytes([level]) + data):
        with _tree_of({b"it": chunk}) as reader:
            _reads_or_refuses(lambda: load_object(reader, chunk_id(KEYS, chunk)))  # noqa: B023
            _reads_or_refuses(lambda: load_list(reader, chunk_id(KEYS, chunk)))  # noqa: B023
            _reads_or_refuses(lambda: _unfolded(reader, chunk_id(KEYS, chunk)))  # noqa: B023


def _unfolded(reader: Reader, root: bytes) -> bytes:
    [pieces] = stream_objects(reader, [root])
    return b"".join(pieces)


def test_small_object_that_unfolds_into_a_huge_one_is_refused() -> None:
    """Each level names the one below a thousand times."""
    chunks = [b"\0" + b"x" * 1000]
    for level in range(1, 6):
        chunks.append(bytes([level]) + chunk_id(KEYS, chunks[-1]) * 1000)
    with _tree_of({chunk[:1]: chunk for chunk in chunks}) as reader, pytest.raises(Damaged):
        load_object(reader, chunk_id(KEYS, chunks[-1]))


# -- process images --------------------------------------------------------------------------------


def _column(*values: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return np.array(values, dtype=np.uint64)


PAGEMAP = encode_pagemap(
    Pagemap(1, _column(0x1000, 0x9000), _column(2, 1), _column(PRESENT, PRESENT))
)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _pagemap_entry(count: int, address: int = 0x1000) -> bytes:
    entry = b"\x08" + _varint(address) + b"\x20\x04\x28" + _varint(count)
    return PAGEMAP[:8] + struct.pack("<I", 2) + b"\x08\x01" + struct.pack("<I", len(entry)) + entry


@fuzzed
@given(near(PAGEMAP) | st.binary(max_size=60).map(lambda data: PAGEMAP[:8] + data))
@example(_pagemap_entry(1 << 40))
@example(_pagemap_entry(2**64 - 1))
@example(_pagemap_entry(1 << 80))
@example(_pagemap_entry(1, 2**64 - 1))
@example(PAGEMAP[:8] + struct.pack("<I", 100_001) + b"\xff" * 100_000 + b"\x01")
def test_pagemap(data: bytes) -> None:
    _reads_or_refuses(lambda: decode_pagemap(data, "it").present().page_numbers())


@fuzzed
@given(near(struct.pack("<IHI", 0, 0, 3)), st.integers(0, 5))
@example(struct.pack("<IHI", 0, 0, 2**32 - 1), 3)
def test_table_of_pages(data: bytes, chunks: int) -> None:
    pages = _column(1, 2, 9)
    _reads_or_refuses(lambda: decode_table(data, pages, chunks, "it"))


IMAGE = {
    "version": 1,
    "chunks": "@ids",
    "tables": {"pagemap-1.img": "@table"},
    "files": {"pagemap-1.img": [0, len(PAGEMAP)], "core-1.img": [0, 4], "big": "@table"},
    "small": "@small",
}


@fuzzed
@given(near_json(IMAGE), near(PAGEMAP), near(struct.pack("<IHI", 0, 0, 3)))
@example(DEEP, PAGEMAP, b"")
@example(LONG_NUMBER, PAGEMAP, b"")
@example(json.dumps(IMAGE).encode(), _pagemap_entry(2**64 - 1), struct.pack("<IHI", 0, 0, 3))
@example(
    json.dumps(IMAGE).encode(), _pagemap_entry(2**32 - 1), b"\xff\xff\xff\xff\0\0" + b"\xff" * 4
)
def test_process_image(root: bytes, pagemap: bytes, table: bytes) -> None:
    objects = {b"@ids": b"\0" + CONTENT, b"@table": b"\0" + table, b"@small": b"\0" + pagemap}
    for name, data in objects.items():
        root = root.replace(name, chunk_id(KEYS, data).hex().encode())
    with _tree_of({**objects, b"root": b"\0" + root}) as reader:
        _reads_or_refuses(lambda: load_image(reader, chunk_id(KEYS, b"\0" + root)))


def _message(*fields: bytes) -> bytes:
    body = b"".join(fields)
    return struct.pack("<I", len(body)) + body


REG_FILE = b"\x1a\x06\x32\x04/a/b"
FILES_IMG = bytes(8) + _message(b"\x08\x01\x10\x05", REG_FILE)
FDINFO_IMG = bytes(8) + _message(b"\x08\x05\x10\x00\x18\x01\x20\x03")
LOCKS_IMG = bytes(8) + _message(b"\x08\x01\x10\x00\x18\x01\x20\x03\x28\x80\x01\x30\x01")


@fuzzed
@given(near(FILES_IMG), near(FDINFO_IMG), near(LOCKS_IMG))
@example(FILES_IMG, bytes(8) + struct.pack("<I", 100_001) + b"\xff" * 100_000 + b"\x01", LOCKS_IMG)
@example(bytes(8) + _message(b"\x08\x01\x10\x05\x1a\x02\x32\x00"), FDINFO_IMG, LOCKS_IMG)
@example(bytes(8) + _message(b"\x08\x01\x10\x05\x1a\x05\x32\x03a\0b"), FDINFO_IMG, LOCKS_IMG)
def test_images_of_open_files(tmp_path: Path, files: bytes, fdinfo: bytes, locks: bytes) -> None:
    images = {"files.img": files, "fdinfo-2.img": fdinfo, "filelocks.img": locks}
    for name, data in images.items():
        (tmp_path / name).write_bytes(data)
        _reads_or_refuses(lambda: list(image_messages(tmp_path / name)))  # noqa: B023
    _reads_or_refuses(lambda: note_open_files(tmp_path, tmp_path))
    _reads_or_refuses(lambda: keep_locks(tmp_path))


NOTED = {"version": 1, "files": [["/a", 1, 2]], "marks": [["pagemap-1.img", 4096, 0]]}


@fuzzed
@given(near_json(NOTED) | st.binary(max_size=100))
@example(DEEP)
@example(LONG_NUMBER)
@example(b'{"version": 1, "files": [["/a", 1e999, 2]], "marks": []}')
def test_list_of_open_files(tmp_path: Path, data: bytes) -> None:
    (tmp_path / OPEN_FILES).write_bytes(data)
    _reads_or_refuses(lambda: OpenFiles.read(tmp_path))
