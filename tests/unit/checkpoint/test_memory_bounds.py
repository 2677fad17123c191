"""Memory of writer and reader does not grow with a checkpoint: measured in processes of their own,
with caches of a tenth of the usual ones and as much less to keep.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from checkpoint.blobs import Memory
from checkpoint.chunks import chunk_id
from checkpoint.files.tree import Segment, encode_segments
from checkpoint.keys import SessionKeys
from checkpoint.objects import ObjectWriter, load_object, store_object, stream_objects
from checkpoint.pack_index import PackIndex
from checkpoint.packs import PACK_CHUNKS, Entry, PackRef
from checkpoint.reader import Reader
from checkpoint.writer import Writer

KEYS = SessionKeys(b"k" * 32)

BEFORE = """
import hashlib, os, sys
from pathlib import Path
from checkpoint import scratch, writer as writer_module
from checkpoint.blobs import LocalDirectory
from checkpoint.files import TreeView, listing, materialize, scan
from checkpoint.files.scanned import LISTED
from checkpoint.files.tree import Entry, Kind, Segment, encode_directory, encode_segments
from checkpoint.keys import SessionKeys
from checkpoint.objects import ObjectWriter, store_object
from checkpoint.pack_index import PackIndex
from checkpoint.packs import Entry as Place, PackRef
from checkpoint.reader import Reader
from checkpoint.writer import Writer

scratch._CACHE_KIB = 1600
listing._MEMORY = 800 << 10
writer_module.PACK_CHUNKS = 3200
KEYS = SessionKeys(b"k" * 32)
here = Path(sys.argv[1])
store = LocalDirectory(here / "store")

def most():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

with Writer(store, KEYS) as writer:  # what is allocated once is there already
    (here / "few").mkdir()
    (here / "few" / "file").write_bytes(b"x")
    root = scan(here / "few", None, writer).store(writer)
    with Reader(store, KEYS, writer.finish()) as reader:
        materialize(reader, root, here / "few again")
before = most()
"""

FILES = """
with Writer(store, KEYS) as writer:
    tree = scan(here / "many", None, writer)
    tree.store(writer)
    writer.finish()
    tree = scan(here / "many", tree, writer)
    tree = scan(here / "many", tree, writer, copy=True)
    root = tree.store(writer)
    packs = writer.finish()
with Reader(store, KEYS, packs) as reader:
    assert materialize(reader, root, here / "again").problems == []
"""

CHUNKS = """
index = PackIndex(store, KEYS)
for number in range(0, 200_000, 50):
    entries = [
        Place(hashlib.sha256(b"%d" % chunk).digest(), chunk % 50 << 18, 1 << 18, 1 << 18)
        for chunk in range(number, number + 50)
    ]
    index.add(PackRef(b"%016d" % number, 1 << 23, 2000), entries)
assert len(index) == 200_000
"""

LENGTH = """
COMMON = {"mode": 0o644, "uid": 0, "gid": 0, "mtime_ns": 0}
with Writer(store, KEYS) as writer:
    byte = writer.add(b"x")
    listed = ObjectWriter(writer, LISTED)
    for number in range(200_000):
        listed.write(encode_segments([Segment(2 * number, 1, byte)]))
    file = Entry(Kind.FILE, size=400_000, content=listed.close(), **COMMON)
    inside = store_object(writer, encode_directory([(b"long", file)])).id
    top = Entry(Kind.DIRECTORY, content=inside, **COMMON)
    root = store_object(writer, encode_directory([(b"", top)])).id
    packs = writer.finish()
with Reader(store, KEYS, packs) as reader:
    assert TreeView(reader, root).read("long", 399_996) == b"x\\0x\\0"
    tree = materialize(reader, root, here / "long").tree
assert (here / "long" / "long").read_bytes() == b"x\\0" * 200_000
with Writer(store, KEYS, packs) as writer:
    assert tree.store(writer) == root
"""


@pytest.fixture
def many(tmp_path: Path) -> Path:
    for number in range(12_000):
        path = tmp_path / "many" / f"{number // 200}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number)
    return tmp_path


def _grows(code: str, here: Path) -> int:
    """By how many KiB."""
    code = f"{BEFORE}{code}\nprint(most() - before)"
    command = [sys.executable, "-c", code, str(here)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_memory_of_scan_and_restore_does_not_grow_with_the_number_of_files(many: Path) -> None:
    assert _grows(FILES, many) < 15_000  # in memory they were 21 MB


def test_memory_does_not_grow_with_the_number_of_chunks_that_a_session_has(tmp_path: Path) -> None:
    assert _grows(CHUNKS, tmp_path) < 8_000  # in memory they were 40 MB


def test_memory_does_not_grow_with_the_length_of_a_file(tmp_path: Path) -> None:
    assert _grows(LENGTH, tmp_path) < 16_000  # in memory its segments were 50 MB


def test_a_pack_that_is_forgotten_takes_its_chunks_along_and_no_others() -> None:
    index = PackIndex(Memory(), KEYS)
    first, second = (PackRef(bytes([n]) * 16, 1000, 100) for n in (1, 2))
    index.add(first, [Entry(b"a" * 32, 0, 10, 20), Entry(b"b" * 32, 10, 11, 21)])
    index.add(second, [Entry(b"b" * 32, 5, 12, 21), Entry(b"c" * 32, 2**32 - 1, 1, 2**32 - 1)])
    index.forget([first])
    assert index.packs == {second}
    assert [row.length for row in index.rows()] == [12, 1]
    assert index.number(b"a" * 32) is None
    assert index.locate(b"b" * 32) == (second, 5, 12, 21)
    assert index.locate(b"c" * 32) == (second, 2**32 - 1, 1, 2**32 - 1)


def test_many_small_chunks_make_more_packs_instead_of_larger_lists() -> None:
    store = Memory()
    with Writer(store, KEYS) as writer:
        for number in range(PACK_CHUNKS + 1):
            writer.add(b"%d" % number)
        packs = writer.finish()
        assert len(packs) == 2
        assert max(ref.size for ref in packs) > 1 << 20  # or they would count as small ones
    with Reader(store, KEYS, packs) as reader:
        names = [chunk_id(KEYS, b"%d" % number) for number in (0, PACK_CHUNKS)]
        assert list(reader.read(names)) == [b"0", b"%d" % PACK_CHUNKS]


@pytest.mark.parametrize("segments", [0, 1, 5957, 5958, 5959, 100_000])
def test_an_object_in_pieces_is_the_object_at_once(
    segments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("checkpoint.objects._FANOUT", 4)
    data = encode_segments(Segment(n, 1, n.to_bytes(32, "big")) for n in range(segments))
    with Writer(Memory(), KEYS) as writer:
        whole = store_object(writer, data).id
        piecewise = ObjectWriter(writer)
        for at in range(0, len(data), 100_003):
            piecewise.write(data[at : at + 100_003])
        assert piecewise.close() == whole
        with Reader(writer._store, KEYS, writer.finish()) as reader:
            assert load_object(reader, whole) == data
            [pieces] = stream_objects(reader, [whole])
            assert b"".join(pieces) == data
