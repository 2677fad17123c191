"""Memory of a process that runs is stored before it is dumped."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from capturing import capture

from checkpoint.blobs import Memory
from checkpoint.criu import Image, encode, known, materialize, precopy, remote
from checkpoint.criu.pagemap import PAGE, PRESENT, Pagemap, encode_pagemap
from checkpoint.keys import SessionKeys
from checkpoint.reader import Reader
from checkpoint.writer import Writer

KEYS = SessionKeys(b"k" * 32)
MB = 1 << 20
SIZE = 40 * MB

PROGRAM = f"""
import ctypes, mmap, random, sys
memory = mmap.mmap(-1, {SIZE}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory[:{20 * MB}] = random.Random(1).randbytes({20 * MB})  # the rest has never been touched
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Process:
    def __init__(self) -> None:
        self.running = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.running.stdout is not None
        self.pid = self.running.pid
        self.address = int(self.running.stdout.readline())

    def do(self, code: str) -> None:
        assert self.running.stdin is not None
        assert self.running.stdout is not None
        print(code, file=self.running.stdin, flush=True)
        assert self.running.stdout.readline() == "done\n"

    def images(self, directory: Path) -> Path:
        """The touched memory now, as a dump has it."""
        directory.mkdir()
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            memory.seek(self.address)
            content = memory.read(20 * MB)
        row = (self.address, 20 * MB // PAGE, PRESENT)
        columns = (np.array([one], dtype=np.uint64) for one in row)
        (directory / "pagemap-1.img").write_bytes(encode_pagemap(Pagemap(1, *columns)))
        (directory / "pages-1.img").write_bytes(content)
        return directory


def pages(image: Image, process: Process) -> list[int]:
    """Those of the mapping that were stored while it ran."""
    table = image.tables[f"running-{process.pid}"]
    first = process.address // PAGE
    return [page for page in table.pages.tolist() if first <= page < first + SIZE // PAGE]


@pytest.fixture
def process() -> Iterator[Process]:
    one = Process()
    yield one
    one.running.kill()
    one.running.communicate()


def test_a_dump_brings_only_what_has_changed_since(process: Process, tmp_path: Path) -> None:
    store = Memory()
    with Writer(store, KEYS) as writer:
        one = precopy(writer, [process.pid], None)
        assert len(pages(one.image, process)) == 20 * MB // PAGE <= one.stored // PAGE
        process.do(
            "memory[5 * 4096 : 5 * 4096 + 3] = b'new'; memory[6 * 4096] = memory[6 * 4096] ^ 1"
        )
        images = process.images(tmp_path / "images")
        dump = capture(images, tmp_path / "dump", known(writer, one.image))
        assert dump.size == 2 * PAGE
        image = encode(writer, dump, None)
        packs = writer.finish()
        # And what is known from a checkpoint is not stored again before the next one.
        process.do("memory[9 * 4096 : 9 * 4096 + 3] = b'new'")
        again = precopy(writer, [process.pid], known(writer, image))
        assert len(pages(again.image, process)) == 1
    with Reader(store, KEYS, packs) as reader:
        materialize(reader, image.root, tmp_path / "back")
    for name in ("pages-1.img", "pagemap-1.img"):
        assert (tmp_path / "back" / name).read_bytes() == (images / name).read_bytes()


def test_processes_that_end_or_are_not_there_are_left_out(process: Process) -> None:
    with Writer(Memory(), KEYS) as writer:
        process.running.kill()
        process.running.wait()
        one = precopy(writer, [process.pid, 2**22 + 1], None)
        assert (one.image.tables, one.stored) == ({}, 0)


def test_pages_with_an_open_file_s_identity_are_left_to_the_dump(
    process: Process, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("a", "b")]
    process.do(f"import os, struct; one = open({str(paths[0])!r}, 'w'); s = os.fstat(one.fileno())")
    for page, byte in ((3, 64), (7, 4088), (1024, -8), (2048, -16)):  # two are across pages
        at = page * PAGE + byte
        process.do(f"memory[{at}:{at + 16}] = struct.pack('<QQ', s.st_dev, s.st_ino)")
    with Writer(Memory(), KEYS) as writer:
        one = precopy(writer, [process.pid], None)
        there = {page - process.address // PAGE for page in pages(one.image, process)}
        assert set(range(20 * MB // PAGE)) - there == {3, 7, 8, 1023, 1024, 2047}
        assert one.holds_for([process.pid])
        process.do(f"two = open({str(paths[1])!r}, 'w')")
        assert not one.holds_for([process.pid])


@pytest.mark.parametrize("allowed", [True, False])
def test_what_is_read_into_used_memory_is_stored_as_it_was(
    allowed: bool, process: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where processes may not read each other's memory but through /proc."""

    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(sys.modules[precopy.__module__], "_PIECE", 100)
    if not allowed:
        monkeypatch.setattr(remote, "read", refuse)
    store = Memory()
    with Writer(store, KEYS) as writer:
        one = precopy(writer, [process.pid], None)
        packs = writer.finish()
    table = one.image.tables[f"running-{process.pid}"]
    mine = np.isin(table.pages, pages(one.image, process))
    with Reader(store, KEYS, packs) as reader:
        whole = list(reader.read(one.image.chunks))
    rows = zip(table.chunk[mine].tolist(), table.slot[mine].tolist(), strict=True)
    stored = b"".join(whole[chunk][slot * PAGE : (slot + 1) * PAGE] for chunk, slot in rows)
    assert stored == (process.images(tmp_path / "images") / "pages-1.img").read_bytes()
