"""Pages of process images against a model: a dictionary from address to content."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from capturing import capture
from faulty_stores import CountingStore
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint.criu import (
    Image,
    Materialized,
    encode,
    known,
    load_image,
    materialize,
    materialize_delta,
)
from checkpoint.criu.encode import CHUNK_PAGES, cut
from checkpoint.criu.image import ZERO, Table, decode_table, encode_table
from checkpoint.criu.pagemap import (
    IN_PARENT,
    LAZY,
    PAGE,
    PRESENT,
    Pagemap,
    decode_pagemap,
    encode_pagemap,
)
from checkpoint.criu.spent import PIECE
from checkpoint.errors import CheckpointError, Damaged, InvalidImage
from checkpoint.keys import SessionKeys
from checkpoint.reader import Reader
from checkpoint.writer import Writer

KEYS = SessionKeys(b"k" * 32)
BASE = 0x7F00_0000_0000 // PAGE

# Page number (from BASE) to content; 0 is a page of zeros.
Memory = dict[int, int]


def _content(value: int) -> bytes:
    return random.Random(value).randbytes(PAGE) if value else bytes(PAGE)


def _pagemap(rows: list[tuple[int, int, int]], pages_id: int = 1) -> Pagemap:
    table = np.array(rows, dtype=np.uint64).reshape(-1, 3)
    return Pagemap(pages_id, table[:, 0], table[:, 1], table[:, 2])


def _dump(
    directory: Path, memory: Memory, *, name: str = "pagemap-5.img", pages_id: int = 1
) -> Path:
    """Write what CRIU would: entries of neighbouring pages, and the pages in order."""
    directory.mkdir(exist_ok=True)
    rows: list[tuple[int, int, int]] = []
    for page in sorted(memory):
        if rows and rows[-1][0] // PAGE + rows[-1][1] == BASE + page and page % 7:
            rows[-1] = (rows[-1][0], rows[-1][1] + 1, rows[-1][2])
        else:
            rows.append(((BASE + page) * PAGE, 1, PRESENT | LAZY * (page % 2)))
    (directory / name).write_bytes(encode_pagemap(_pagemap(rows, pages_id)))
    pages = b"".join(_content(memory[page]) for page in sorted(memory))
    (directory / f"pages-{pages_id}.img").write_bytes(pages)
    (directory / "core-5.img").write_bytes(b"registers")
    return directory


def _read(directory: Path, name: str = "pagemap-5.img") -> Memory:
    """What a restore from `directory`, and its parents, would find."""
    pagemap = decode_pagemap((directory / name).read_bytes(), name)
    pages = (directory / f"pages-{pagemap.pages_id}.img").read_bytes()
    parent = _read(directory / "parent", name) if (directory / "parent").is_symlink() else {}
    found: Memory = {}
    at = 0
    rows = zip(pagemap.addresses, pagemap.counts, pagemap.flags, strict=True)
    for address, count, flags in rows:
        for page in range(int(address) // PAGE - BASE, int(address) // PAGE - BASE + int(count)):
            if int(flags) & PRESENT:
                assert not int(flags) & IN_PARENT
                found[page] = hash(pages[at : at + PAGE])
                at += PAGE
            else:
                assert int(flags) == IN_PARENT
                found[page] = parent[page]
    assert at == len(pages)
    return found


def _expected(memory: Memory) -> Memory:
    return {page: hash(_content(value)) for page, value in memory.items()}


class Session:
    def __init__(self) -> None:
        self.store = CountingStore()
        self.writer = Writer(self.store, KEYS)

    def checkpoint(self, directory: Path, previous: Image | None) -> tuple[Image, Reader]:
        image = encode(self.writer, directory, previous)
        return image, Reader(self.store, KEYS, self.writer.finish())


memories = st.dictionaries(st.integers(0, 400), st.integers(0, 6), max_size=150)
dense = st.lists(st.integers(0, 6), min_size=1, max_size=300).map(
    lambda values: dict(enumerate(values))
)


@st.composite
def histories(draw: st.DrawFn) -> list[Memory]:
    """A memory, and how it changed from checkpoint to checkpoint."""
    history = [draw(memories | dense)]
    for _ in range(draw(st.integers(1, 5))):
        memory = dict(history[-1])
        if memory and draw(st.booleans()):
            for page in draw(st.lists(st.sampled_from(sorted(memory)), max_size=200)):
                memory[page] = draw(st.integers(0, 9))
        memory.update(draw(st.dictionaries(st.integers(0, 400), st.integers(0, 9), max_size=5)))
        if memory and draw(st.booleans()):
            start = draw(st.sampled_from(sorted(memory)))
            memory = {page: value for page, value in memory.items() if not 0 <= page - start < 70}
        history.append(memory)
    return history


@settings(max_examples=60, deadline=None)
@given(histories(), st.data())
def test_every_checkpoint_of_a_history_comes_back_whole_and_as_increment(
    tmp_path_factory: pytest.TempPathFactory, history: list[Memory], data: st.DataObject
) -> None:
    work = tmp_path_factory.mktemp("history")
    session = Session()
    image: Image | None = None
    last: Materialized | None = None
    for number, memory in enumerate(history):
        dump = _dump(work / f"dump{number}", memory)
        if last is not None and data.draw(st.booleans(), label="restored in between"):
            image = last.image()
        image, reader = session.checkpoint(dump, image)
        whole = materialize(reader, image.root, work / f"whole{number}")
        for path in dump.iterdir():
            assert (whole.directory / path.name).read_bytes() == path.read_bytes()
        if last is None:
            last = whole
        else:
            last = materialize_delta(reader, image.root, work / f"delta{number}", last)
            assert _read(last.directory) == _expected(memory)
        _assert_little_waste(reader, load_image(reader, image.root))


@settings(max_examples=60, deadline=None)
@given(histories(), st.data())
def test_every_captured_checkpoint_of_a_history_comes_back(
    tmp_path_factory: pytest.TempPathFactory, history: list[Memory], data: st.DataObject
) -> None:
    work = tmp_path_factory.mktemp("history")
    session = Session()
    image: Image | None = None
    for number, memory in enumerate(history):
        dump = _dump(work / f"dump{number}", memory)
        for again in range(2):  # what a chunk holds that is used by little is brought then
            if data.draw(st.integers(0, 4), label="aborted before") == 0:
                session.writer.add(bytes(100))
                session.writer.abort()
            captured = capture(dump, work / f"{number}.{again}", known(session.writer, image))
            if again and captured.known is not None:
                kept = sum(file.content.size for file in captured.pages.values())
                assert kept <= 64 * PAGE * int(captured.known.but.sum())
            image = encode(session.writer, captured, image)
            reader = Reader(session.store, KEYS, session.writer.finish())
        whole = materialize(reader, image.root, work / f"whole{number}")
        for path in dump.iterdir():
            assert (whole.directory / path.name).read_bytes() == path.read_bytes()
        _assert_little_waste(reader, load_image(reader, image.root))


def _assert_little_waste(reader: Reader, image: Image) -> None:
    used = image.live()
    assert 2 * int(used.sum()) >= len(image.chunks)
    names = [name for name, live in zip(image.chunks, used, strict=True) if live]
    stored = sum(reader.size(name) // PAGE for name in names)
    assert stored <= 2 * sum(int((table.chunk != ZERO).sum()) for table in image.tables.values())


def test_unchanged_memory_writes_nothing_but_the_small_images(tmp_path: Path) -> None:
    session = Session()
    memory = {page: page + 1 for page in range(2000)}
    first, _ = session.checkpoint(_dump(tmp_path / "one", memory), None)
    written = session.writer.written_bytes
    assert written > 8_000_000
    dump = _dump(tmp_path / "two", memory)
    (dump / "core-5.img").write_bytes(b"other registers")
    session.checkpoint(dump, first)
    assert session.writer.written_bytes - written < 2000


def test_changed_pages_alone_are_written(tmp_path: Path) -> None:
    session = Session()
    memory = {page: page + 1 for page in range(20_000)}
    first, _ = session.checkpoint(_dump(tmp_path / "one", memory), None)
    written = session.writer.written_bytes
    for page in range(0, 20_000, 100):
        memory[page] += 100_000
    session.checkpoint(_dump(tmp_path / "two", memory), first)
    assert 200 * PAGE < session.writer.written_bytes - written < 200 * PAGE * 1.1


def test_pages_of_zeros_cost_nothing_and_stay_holes(tmp_path: Path) -> None:
    session = Session()
    image, reader = session.checkpoint(
        _dump(tmp_path / "dump", dict.fromkeys(range(3000), 0)), None
    )
    assert session.writer.written_bytes < 2000
    materialize(reader, image.root, tmp_path / "images")
    assert (tmp_path / "images" / "pages-1.img").stat().st_size == 3000 * PAGE
    assert (tmp_path / "images" / "pages-1.img").stat().st_blocks == 0


def test_spent_dump_is_given_back_while_it_is_stored_and_comes_back_whole(tmp_path: Path) -> None:
    session, image = Session(), None
    memory = {page: 1 + page for page in range(4 * PIECE // PAGE) if page % 5}
    for number, one in enumerate((memory, {**memory, 7: 10**6, 4000: 10**6 + 1})):
        directory = _dump(tmp_path / f"dump-{number}", one)
        pages = (directory / "pages-1.img").stat
        image = encode(session.writer, directory, image, spend=True)
        packs = session.writer.finish()
        if not number:
            assert pages().st_blocks * 512 < pages().st_size // 2
        with Reader(session.store, KEYS, packs) as reader:
            materialize(reader, image.root, tmp_path / f"back-{number}")
        assert _read(tmp_path / f"back-{number}") == _expected(one)


def test_same_memory_encoded_anew_after_an_agent_restart_is_mostly_recognised(
    tmp_path: Path,
) -> None:
    session = Session()
    memory = {page: page + 1 for page in range(4000)}
    session.checkpoint(_dump(tmp_path / "one", memory), None)
    written = session.writer.written_bytes
    memory.update({page: page + 1 for page in range(-90, 0)})  # moves everything in the file
    session.checkpoint(_dump(tmp_path / "two", memory), None)
    assert session.writer.written_bytes - written < 250 * PAGE


def test_previous_image_of_an_aborted_checkpoint_is_not_relied_on(tmp_path: Path) -> None:
    session = Session()
    memory = {page: page + 1 for page in range(500)}
    dump = _dump(tmp_path / "dump", memory)
    aborted = encode(session.writer, dump, None)
    session.writer.abort()
    image, reader = session.checkpoint(dump, aborted)
    materialize(reader, image.root, tmp_path / "images")
    assert _read(tmp_path / "images") == _expected(memory)


def test_shared_memory_is_kept_and_written_whole_beside_a_parent(tmp_path: Path) -> None:
    session = Session()
    private, shared = {1: 1, 2: 2}, {5: 5, 6: 6}
    dump = _dump(tmp_path / "dump", private)
    _dump(dump, shared, name="pagemap-shmem-77.img", pages_id=9)
    image, reader = session.checkpoint(dump, None)
    first = materialize(reader, image.root, tmp_path / "first")
    materialize_delta(reader, image.root, tmp_path / "second", first)
    assert (tmp_path / "second" / "pages-1.img").stat().st_size == 0
    assert (tmp_path / "second" / "pages-9.img").stat().st_size == 2 * PAGE
    assert _read(tmp_path / "second", "pagemap-shmem-77.img") == _expected(shared)


def test_large_image_files_come_back_and_logs_are_left_out(tmp_path: Path) -> None:
    session = Session()
    dump = _dump(tmp_path / "dump", {1: 1})
    ghost = random.Random(1).randbytes(3_000_001)
    (dump / "ghost-file-1.img").write_bytes(ghost)
    (dump / "empty.img").write_bytes(b"")
    (dump / "dump.log").write_bytes(b"noise")
    image, reader = session.checkpoint(dump, None)
    materialize(reader, image.root, tmp_path / "images")
    assert (tmp_path / "images" / "ghost-file-1.img").read_bytes() == ghost
    assert (tmp_path / "images" / "empty.img").read_bytes() == b""
    assert not (tmp_path / "images" / "dump.log").exists()


def test_dump_that_is_incomplete_is_refused_by_name(tmp_path: Path) -> None:
    session = Session()
    dump = _dump(tmp_path / "dump", {1: 1, 2: 2})
    (dump / "pages-1.img").write_bytes(bytes(PAGE))
    with pytest.raises(InvalidImage, match=r"pages-1\.img has 1 pages; pagemap-5\.img lists 2"):
        session.checkpoint(dump, None)
    (dump / "pages-1.img").unlink()
    with pytest.raises(InvalidImage, match=r"pages-1\.img.*missing"):
        session.checkpoint(dump, None)
    (dump / "pagemap-5.img").write_bytes(encode_pagemap(_pagemap([(BASE, 1, IN_PARENT)])))
    with pytest.raises(InvalidImage, match="full dump is needed"):
        session.checkpoint(dump, None)
    (dump / "pagemap-5.img").write_bytes(b"nonsense")
    with pytest.raises(InvalidImage, match=r"pagemap-5\.img is not a pagemap"):
        session.checkpoint(dump, None)


def test_damaged_image_is_named(tmp_path: Path) -> None:
    session = Session()
    image, reader = session.checkpoint(_dump(tmp_path / "dump", {1: 1, 2: 2}), None)
    [key] = session.store.objects
    whole = session.store.objects[key]
    session.store.objects[key] = whole[:100] + b"?" + whole[101:]
    with pytest.raises(Damaged, match=r"Chunk [0-9a-f]{64} in pack [0-9a-f]{32}"):
        materialize(reader, image.root, tmp_path / "images")


rows = st.lists(
    st.tuples(
        st.integers(0, 2**52 - 1).map(lambda n: n * PAGE), st.integers(0, 2**40), st.integers(0, 63)
    ),
    max_size=20,
)


@settings(deadline=None)
@given(rows, st.integers(0, 2**32 - 1))
def test_pagemap_reads_as_it_was_written(
    entries: list[tuple[int, int, int]], pages_id: int
) -> None:
    data = encode_pagemap(_pagemap(entries, pages_id))
    pagemap = decode_pagemap(data, "pagemap-1.img")
    columns = (pagemap.addresses, pagemap.counts, pagemap.flags)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == entries
    assert pagemap.pages_id == pages_id
    for end in range(len(data)):
        try:
            decode_pagemap(data[:end], "pagemap-1.img")
        except InvalidImage:
            continue
        except CheckpointError as error:
            pytest.fail(repr(error))


def test_pagemap_of_criu_is_understood() -> None:
    """The beginning of one that CRIU 4.2.1 wrote."""
    data = bytes.fromhex(
        "1943565425400856"
        "02000000"
        "0802"
        "0e000000"
        "0880a0a89ea0b015100020042801"
        "0f000000"
        "0880a0d7b7a0b01510002006288002"
    )
    pagemap = decode_pagemap(data, "pagemap-1.img")
    assert pagemap.pages_id == 2
    assert pagemap.counts.tolist() == [1, 256]
    assert pagemap.flags.tolist() == [PRESENT, PRESENT | LAZY]
    assert all(address % PAGE == 0 for address in pagemap.addresses.tolist())
    assert encode_pagemap(pagemap) == data


@settings(deadline=None)
@given(st.sets(st.integers(0, 3000), max_size=500))
def test_cuts_cover_every_page_once_in_chunks_of_at_most_64(pages: set[int]) -> None:
    array = np.array(sorted(pages), dtype=np.uint64)
    pieces = list(cut(array))
    assert [at for start, end in pieces for at in range(start, end)] == list(range(len(pages)))
    assert all(0 < end - start <= CHUNK_PAGES for start, end in pieces)
    assert len(pieces) <= 1 + len(pages) // (CHUNK_PAGES // 2)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5) | st.just(ZERO), st.integers(0, 63)), max_size=100))
def test_table_reads_as_it_was_written(places: list[tuple[int, int]]) -> None:
    chunk = np.array([chunk for chunk, _ in places], dtype=np.uint32)
    slot = np.array([0 if chunk == ZERO else slot for chunk, slot in places], dtype=np.uint16)
    pages = np.arange(len(places), dtype=np.uint64)
    data = encode_table(Table(pages, chunk, slot))
    table = decode_table(data, pages, 6, "it")
    assert table.chunk.tolist() == chunk.tolist()
    assert table.slot.tolist() == slot.tolist()
    with pytest.raises(Damaged):
        decode_table(data, np.arange(len(places) + 1, dtype=np.uint64), 6, "it")
