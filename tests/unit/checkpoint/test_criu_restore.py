"""With a real CRIU: what comes out of the repository is what processes come back from."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.blobs import Memory
from checkpoint.criu import Image, encode, materialize, materialize_delta
from checkpoint.keys import SessionKeys
from checkpoint.reader import Reader
from checkpoint.writer import Writer
from sessionkeeper import criu

pytestmark = pytest.mark.needs("root", "criu")

# Holds 24 MB in three kinds of memory; answers each byte in its FIFO with a digest of all of it.
PROGRAM = """
import hashlib, mmap, os, random, sys
where = sys.argv[1]
generator = random.Random(7)
private = bytearray(generator.randbytes(16 << 20))
zeros = bytearray(4 << 20)
shared = mmap.mmap(-1, 4 << 20)
shared[:] = generator.randbytes(4 << 20)
count = 0
requests = os.open(where + "/requests", os.O_RDWR)
answers = os.open(where + "/answers", os.O_RDWR)
os.write(answers, b"ready\\n")
while True:
    os.read(requests, 1)
    count += 1
    at = generator.randrange(len(private))
    private[at] = (private[at] + 1) & 255
    shared[count] = (shared[count] + 1) & 255
    digest = hashlib.sha256(private)
    digest.update(zeros)
    digest.update(shared)
    os.write(answers, f"{count} {digest.hexdigest()}\\n".encode())
"""

_PR_SET_CHILD_SUBREAPER = 36


class Process:
    """The program above, dumped, restored and ended, over and over."""

    def __init__(self, directory: Path) -> None:
        self.criu = str(criu.require().path)
        self.directory = directory
        for name in ("requests", "answers"):
            os.mkfifo(directory / name)
        self.requests = os.open(directory / "requests", os.O_RDWR)
        self.answers = os.open(directory / "answers", os.O_RDWR)
        # What CRIU restores becomes a child of this process, so that it can be waited for.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        with (directory / "null").open("w+b") as null:
            child = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(directory)],
                stdin=null,
                stdout=null,
                stderr=null,
                start_new_session=True,
                cwd=directory,
            )
        child.returncode = 0  # it is waited for here
        self.pid = child.pid
        self.alive = True
        assert self._answer() == "ready"

    def ask(self) -> str:
        os.write(self.requests, b"?")
        return self._answer()

    def _answer(self) -> str:
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(self.answers, 1)
        return line.decode().strip()

    def dump(self, images: Path) -> Path:
        """Dump, and go on running."""
        images.mkdir()
        self._run("dump", "-t", str(self.pid), "-D", str(images), "--leave-running")
        return images

    def restore(self, images: Path) -> None:
        self._run("restore", "--restore-detached", "-D", str(images))
        self.alive = True

    def end(self) -> None:
        if self.alive:
            self.alive = False
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)

    def close(self) -> None:
        self.end()
        os.close(self.requests)
        os.close(self.answers)

    def _run(self, *arguments: str) -> None:
        log = self.directory / "criu.log"
        command = [self.criu, *arguments, "--shell-job", "-o", str(log), "-v4"]
        assert subprocess.run(command, check=False).returncode == 0, log.read_text()[-3000:]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path)
    yield process
    process.close()


class Session:
    """A store, and the checkpoints in it."""

    def __init__(self) -> None:
        self.store, self.keys = Memory(), SessionKeys.generate()
        self.writer = Writer(self.store, self.keys)

    def checkpoint(self, images: Path, previous: Image | None) -> tuple[Image, Reader]:
        image = encode(self.writer, images, previous)
        return image, Reader(self.store, self.keys, self.writer.finish())

    def stored(self) -> int:
        return sum(map(len, self.store.objects.values()))


def _pages_bytes(images: Path) -> int:
    return sum(path.stat().st_size for path in images.glob("pages-*.img"))


def test_process_goes_on_from_a_checkpoint(process: Process, tmp_path: Path) -> None:
    session = Session()
    process.ask()
    dumped = process.dump(tmp_path / "dump")
    image, reader = session.checkpoint(dumped, None)
    expected = [process.ask() for _ in range(3)]
    process.end()
    shutil.rmtree(dumped)
    for name in ("first", "second"):
        materialize(reader, image.root, tmp_path / name)
        process.restore(tmp_path / name)
        assert [process.ask() for _ in range(3)] == expected
        process.end()


def test_materialized_directory_is_the_dump_byte_for_byte(process: Process, tmp_path: Path) -> None:
    session = Session()
    dumped = process.dump(tmp_path / "dump")
    image, reader = session.checkpoint(dumped, None)
    materialize(reader, image.root, tmp_path / "images")
    assert sorted(os.listdir(dumped)) == sorted(os.listdir(tmp_path / "images"))
    for path in dumped.iterdir():
        assert path.read_bytes() == (tmp_path / "images" / path.name).read_bytes(), path.name


def test_only_changed_pages_are_stored_and_written_beside_an_earlier_checkpoint(
    process: Process, tmp_path: Path
) -> None:
    session = Session()
    first, reader = session.checkpoint(process.dump(tmp_path / "dump1"), None)
    earlier = materialize(reader, first.root, tmp_path / "earlier")
    whole = session.stored()

    process.ask()
    second, reader = session.checkpoint(process.dump(tmp_path / "dump2"), first)
    assert session.stored() - whole < whole / 10
    expected = [process.ask() for _ in range(3)]
    process.end()
    delta = materialize_delta(reader, second.root, tmp_path / "delta", earlier)
    # Shared memory is written whole; of private memory only what changed.
    assert _pages_bytes(tmp_path / "delta") < (4 << 20) + (2 << 20)
    process.restore(tmp_path / "delta")
    assert [process.ask() for _ in range(3)] == expected

    # On from there: the next checkpoint costs its changes, the next restore sits on two parents.
    whole = session.stored()
    third, reader = session.checkpoint(process.dump(tmp_path / "dump3"), delta.image())
    assert session.stored() - whole < whole / 4
    expected = [process.ask() for _ in range(3)]
    process.end()
    materialize_delta(reader, third.root, tmp_path / "delta2", delta)
    process.restore(tmp_path / "delta2")
    assert [process.ask() for _ in range(3)] == expected
