"""What stays in memory per chunk and per file: a session may have 400,000 of each."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from checkpoint.blobs import LocalDirectory, Memory
from checkpoint.files import materialize, scan
from checkpoint.keys import SessionKeys
from checkpoint.pack_index import PackIndex
from checkpoint.packs import Entry, PackRef
from checkpoint.reader import Reader
from checkpoint.writer import Writer

KEYS = SessionKeys(b"k" * 32)
FILES = 4_000


class Measured:
    """Bytes that are kept, and those that there were at once; set at the end."""

    kept = most = 0


@contextmanager
def memory() -> Iterator[Measured]:
    measured = Measured()
    gc.collect()
    tracemalloc.start()
    try:
        yield measured
        gc.collect()
        measured.kept, measured.most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()


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


@pytest.fixture
def many(tmp_path: Path) -> Path:
    for number in range(FILES):
        path = tmp_path / "many" / f"{number // 100}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number)
    return tmp_path / "many"


def test_a_small_file_takes_under_2_kb_of_the_writer_and_of_the_reader(
    many: Path, tmp_path: Path
) -> None:
    store = LocalDirectory(tmp_path / "store")
    with Writer(store, KEYS) as writer:
        with memory() as measured:
            tree = scan(many, None, writer)
            root = tree.store(writer)
            packs = writer.finish()
        assert measured.most / FILES < 2000
    with memory() as measured, Reader(store, KEYS, packs) as reader:
        restored = materialize(reader, root, tmp_path / "restored")
    assert restored.problems == []
    assert measured.most / FILES < 2000
