"""With a real CRIU: processes run before their memory is there, and find it when they look."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from checkpoint.blobs import BandwidthLimited, Memory
from checkpoint.criu import Lazy, Pager, encode, materialize, materialize_lazily
from checkpoint.criu.pager import SOCKET
from checkpoint.errors import MemoryLost, NotFound, StoreUnavailable
from checkpoint.keys import SessionKeys
from checkpoint.reader import Reader
from checkpoint.writer import Writer
from sessionkeeper import criu

pytestmark = pytest.mark.needs("root", "criu", "lazy")

MB = 1 << 20

# Executes what it is told, line by line, and answers with a value.
PROGRAM = """
import ctypes, hashlib, mmap, os, random, sys, threading
MB = 1 << 20
libc = ctypes.CDLL(None, use_errno=True)
libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int,
                        ctypes.c_void_p]
data = mmap.mmap(-1, 64 * MB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
data[:] = random.Random(7).randbytes(64 * MB)
address = ctypes.addressof(ctypes.c_char.from_buffer(data))


def block(at, size=MB, base=None):
    return hashlib.sha256(ctypes.string_at((base or address) + at, size)).hexdigest()


def whole(base=None):
    return block(0, 64 * MB, base)


def child(do):
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writing, do().encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        said = answer.read()
    assert os.waitpid(pid, 0)[1] == 0
    return said


def churn(seed, steps):
    # Random changes to the 64 blocks of `data`; what is wrong with them, if anything.
    chance = random.Random(seed)
    libc.mmap.restype = ctypes.c_void_p
    anywhere = lambda size: libc.mmap(None, ctypes.c_size_t(size), 3, 34, -1, ctypes.c_size_t(0))
    nothing = hashlib.sha256(bytes(MB)).hexdigest()
    blocks = [[address + at * MB, before[at]] for at in range(64)]
    for step in range(steps):
        number = chance.randrange(64)
        base, expected = blocks[number]
        place = ctypes.c_void_p(base)
        what = chance.choice("look look write move discard renew protect fork run".split())
        if what == "look" and block(0, base=base) != expected:
            return f"{step}: block {number} is wrong"
        elif what == "write":
            ctypes.memset(base + chance.randrange(255) * 4096 + 100, step & 255, 2000)
            blocks[number][1] = block(0, base=base)
        elif what == "move":
            blocks[number][0] = libc.mremap(base, MB, MB, 3, anywhere(MB))
        elif what == "discard":
            assert libc.madvise(place, MB, 4) == 0
            blocks[number][1] = nothing
        elif what == "renew":
            assert libc.munmap(place, MB) == 0
            blocks[number] = [anywhere(MB), nothing]
        elif what == "protect":
            piece = ctypes.c_void_p(base + 4096 * chance.randrange(256))
            assert libc.mprotect(piece, 4096, 1) == 0
            assert libc.mprotect(piece, 4096, 3) == 0
        elif what == "fork":
            some = chance.sample(range(64), 5)
            wrong = lambda: str([n for n in some if block(0, base=blocks[n][0]) != blocks[n][1]])
            if child(wrong) != "[]":
                return f"{step}: a child's blocks are wrong"
        elif what == "run":
            assert os.spawnl(os.P_WAIT, "/usr/bin/env", "env", "true") == 0
    return [n for n, (base, expected) in enumerate(blocks) if block(0, base=base) != expected]


where = sys.argv[1]
requests = open(where + "/requests", "rb+", buffering=0)
answers = open(where + "/answers", "rb+", buffering=0)
answers.write(b"ready\\n")
while True:
    words = requests.readline().decode()
    try:
        code, _, value = words.rpartition(";;")
        exec(code.replace(";;", "\\n"))
        answer = repr(eval(value))
    except BaseException as error:
        answer = repr(error)
    answers.write(answer.encode() + b"\\n")
"""


class Process:
    """The program above, dumped once, and restored lazily."""

    def __init__(self, directory: Path) -> None:
        self.criu = str(criu.require().path)
        self.directory = directory
        for name in ("requests", "answers"):
            os.mkfifo(directory / name)
        self.requests = os.open(directory / "requests", os.O_RDWR)
        self.answers = os.open(directory / "answers", os.O_RDWR)
        # What CRIU restores becomes a child of this process, so that it can be waited for.
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
        with (directory / "null").open("w+b") as null:
            started = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(directory)],
                stdin=null,
                stdout=null,
                stderr=null,
                start_new_session=True,
                cwd=directory,
            )
        started.returncode = 0  # it is waited for here
        self.pid: int | None = started.pid
        assert self.answer() == "ready"

    def ask(self, words: str) -> Any:
        self.tell(words)
        return self.answer()

    def tell(self, words: str) -> None:
        os.write(self.requests, words.encode() + b"\n")

    def answer(self) -> str:
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(self.answers, 1)
        return line.decode().strip()

    def dump(self, images: Path) -> Path:
        assert self.pid is not None
        images.mkdir()
        self.run("dump", "-t", str(self.pid), "-D", str(images), "--leave-running")
        return images

    def end(self) -> None:
        if self.pid is not None:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
            self.pid = None

    def forget(self) -> None:
        """What was asked or said and has not been read."""
        for pipe in (self.requests, self.answers):
            while select.select([pipe], [], [], 0)[0]:
                os.read(pipe, 1 << 16)

    def close(self) -> None:
        self.end()
        os.close(self.requests)
        os.close(self.answers)

    def run(self, *arguments: str) -> None:
        log = self.directory / "criu.log"
        command = [self.criu, *arguments, "--shell-job", "-o", str(log), "-v4"]
        assert subprocess.run(command, check=False).returncode == 0, log.read_text()[-3000:]


class Gate(Memory):
    """A store that gives packs only when it is opened, or as many as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.open.set()
        self.lost = False
        self.failures = 0

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if key.startswith("packs/"):
            self.open.wait()
            if self.lost:
                raise NotFound(key)
            if self.failures:
                self.failures -= 1
                raise StoreUnavailable("The store did not answer.")
        return super().get(key, start, length)


class Dumped:
    """A process that is no more, and a store that has it."""

    def __init__(self, directory: Path) -> None:
        self.process = Process(directory)
        self.before = self.process.ask("whole()")
        self.process.ask("before = [block(at * MB) for at in range(64)];;all = whole();;0")
        assert self.process.pid is not None
        self.pid = self.process.pid
        self.store, self.keys = Gate(), SessionKeys.generate()
        with Writer(self.store, self.keys) as writer:
            self.root = encode(writer, self.process.dump(directory / "dump"), None).root
            self.packs = writer.finish()
        self.process.end()


class Session:
    """The process as it is restored lazily, in `directory`."""

    def __init__(self, dumped: Dumped, directory: Path) -> None:
        self.process, self.directory, self.pid = dumped.process, directory, dumped.pid
        self.keys, self.root, self.packs = dumped.keys, dumped.root, dumped.packs
        self.store = Gate()
        self.store.objects.update(dumped.store.objects)
        self.kept: list[int] = []
        self.trouble: list[BaseException] = []

    def reader(self, rate: float | None = None) -> Reader:
        store = BandwidthLimited(self.store, read=rate) if rate else self.store
        return Reader(store, self.keys, self.packs)

    def restore(self, *, staged: bool = False, rate: float | None = None) -> None:
        """Restore it lazily. Of the store comes nothing before its gate is opened; or, with
        `rate`, so many bytes per second."""
        parent = None
        if staged:
            with self.reader() as reader:
                parent = materialize(reader, self.root, self.directory / "staged")
        image = materialize_lazily(
            self.reader(rate), self.root, self.directory / "lazy", parent, 16 * MB
        )
        assert isinstance(image, Lazy)
        self.image = image
        work = self.directory / "work"
        work.mkdir()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(work / SOCKET))
        listener.listen(1)
        if rate is None:
            self.store.open.clear()
        self.pager = Pager(listener, image.pages, self.kept.append, self.kept.remove)
        self.serving = threading.Thread(target=self._serve)
        self.serving.start()
        self.process.run(
            *("restore", "--restore-detached", "--lazy-pages"),
            *("-D", str(image.directory), "-W", str(work)),
        )
        self.process.pid = self.pid

    def _serve(self) -> None:
        try:
            self.pager.serve()
        except MemoryLost as error:
            self.trouble.append(error)

    def complete(self) -> None:
        """Open the gate, and wait until all has arrived."""
        self.store.open.set()
        self.serving.join(60)
        assert not self.serving.is_alive()
        assert self.trouble == []
        assert self.kept == []

    def close(self) -> None:
        self.store.open.set()
        self.pager.stop()
        self.serving.join()
        self.process.end()
        self.process.forget()
        self.pager.close()


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dumped]:
    dumped = Dumped(tmp_path_factory.mktemp("dumped"))
    yield dumped
    dumped.process.close()


@pytest.fixture
def session(dumped: Dumped, tmp_path: Path) -> Iterator[Session]:
    """Dumped; `restore` brings it back."""
    session = Session(dumped, tmp_path)
    yield session
    session.close()


@pytest.fixture
def process(session: Session) -> Process:
    return session.process


def test_process_answers_before_its_memory_has_arrived(
    process: Process, session: Session, dumped: Dumped
) -> None:
    session.restore()
    assert process.ask("6 * 7") == "42"
    process.tell("whole()")
    session.complete()
    assert process.answer() == dumped.before


def test_many_threads_wait_for_different_pages(process: Process, session: Session) -> None:
    session.restore()
    process.tell(
        "found = {}"
        ";;def look(n): found.update({at: block(at * MB) for at in range(n, 64, 8)})"
        ";;threads = [threading.Thread(target=look, args=(n,)) for n in range(8)]"
        ";;[thread.start() for thread in threads]"
        ";;[thread.join() for thread in threads]"
        ";;[found[at] for at in range(64)] == before"
    )
    session.complete()
    assert process.answer() == "True"


def test_child_forked_before_the_memory_is_there_has_all_of_it(
    process: Process, session: Session
) -> None:
    session.restore()
    process.tell("child(whole) == child(lambda: child(whole)) == all")
    session.complete()
    assert process.answer() == "True"
    assert process.ask("whole() == all") == "True"


def test_child_that_lives_on_does_not_keep_the_restore_from_its_end(
    process: Process, session: Session
) -> None:
    session.restore()
    process.ask(
        "reading, writing = os.pipe();;pid = os.fork()"
        ";;pid or (os.close(writing), os.read(reading, 1), os._exit(whole() != all));;0"
    )
    session.complete()
    assert process.ask("os.close(writing);;os.waitpid(pid, 0)[1]") == "0"
    assert process.ask("whole() == all") == "True"


def test_program_run_by_a_child_does_not_touch_the_memory(
    process: Process, session: Session
) -> None:
    session.restore()
    said = process.ask("import subprocess;;subprocess.check_output(['echo', 'yes'], text=True)")
    assert said == r"'yes\n'"
    said = process.ask(
        "pid = os.fork();;pid or os.execv('/usr/bin/env', ['true', 'true']);;os.waitpid(pid, 0)[1]"
    )
    assert said == "0"
    session.complete()
    assert process.ask("whole() == all") == "True"


def test_discarded_memory_stays_discarded(process: Process, session: Session) -> None:
    session.restore()
    discard = "libc.madvise(ctypes.c_void_p(address + 8 * MB), 10 * MB, 4)"  # MADV_DONTNEED
    assert process.ask(discard) == "0"
    zero = "hashlib.sha256(bytes(10 * MB)).hexdigest()"
    assert process.ask(f"block(8 * MB, 10 * MB) == {zero}") == "True"
    assert process.ask("ctypes.memset(address + 9 * MB, 1, 100);;0") == "0"
    session.complete()
    written = "hashlib.sha256(bytes([1] * 100 + [0] * (MB - 100))).hexdigest()"
    assert process.ask(f"block(9 * MB) == {written}") == "True"
    zero = "hashlib.sha256(bytes(8 * MB)).hexdigest()"
    assert process.ask(f"block(10 * MB, 8 * MB) == {zero}") == "True"
    rest = "[block(at * MB) == before[at] for at in range(64) if not 8 <= at < 18] == [True] * 54"
    assert process.ask(rest) == "True"


def test_memory_that_was_moved_arrives_where_it_is(process: Process, session: Session) -> None:
    session.restore()
    # Ten of 64 MB go elsewhere, their neighbours stay; one of those is then mapped anew.
    moved = (
        "place = libc.mmap;;place.restype = ctypes.c_void_p"
        ";;to = libc.mremap(address + 20 * MB, 10 * MB, 10 * MB, 3,"
        "   place(None, ctypes.c_size_t(10 * MB), 0, 34, -1, ctypes.c_size_t(0)))"
        ";;again = place(ctypes.c_void_p(address + 30 * MB), ctypes.c_size_t(MB), 3, 50, -1,"
        "   ctypes.c_size_t(0))"
        ";;again == address + 30 * MB"
    )
    assert process.ask(moved) == "True"
    process.tell("[block(at * MB, base=to) for at in range(10)] == before[20:30]")
    session.complete()
    assert process.answer() == "True"
    assert process.ask("block(30 * MB) == hashlib.sha256(bytes(MB)).hexdigest()") == "True"
    kept = "[block(at * MB) for at in [*range(20), *range(31, 64)]] == before[:20] + before[31:]"
    assert process.ask(kept) == "True"


def test_memory_is_protected_and_unmapped_in_pieces(process: Process, session: Session) -> None:
    session.restore()
    for page in range(0, 2000, 7):
        process.ask(f"libc.mprotect(ctypes.c_void_p(address + {page} * 4096), 4096, 1)")
        process.ask(f"libc.munmap(ctypes.c_void_p(address + ({page} + 3) * 4096), 4096)")
    session.complete()
    kept = "[block(at * MB) for at in range(8, 64)] == before[8:]"
    assert process.ask(kept) == "True"
    pages = "[n * 4096 for n in range(2000) if n % 7 != 3]"
    process.ask(f"found = [block(at, 4096) for at in {pages}];;0")
    process.ask("content = random.Random(7).randbytes(64 * MB);;0")
    wanted = f"[hashlib.sha256(content[at:at + 4096]).hexdigest() for at in {pages}]"
    assert process.ask(f"found == {wanted}") == "True"


@pytest.mark.parametrize("seed", range(3))
def test_memory_is_right_whatever_is_done_to_it_while_it_arrives(
    process: Process, session: Session, seed: int
) -> None:
    session.restore(rate=50 * MB)
    assert process.ask(f"churn({seed}, 250)") == "[]"
    session.complete()


def test_pages_at_hand_are_not_fetched_again(process: Process, session: Session) -> None:
    session.restore(staged=True)
    assert process.ask("whole() == all") == "True"  # the gate is closed
    session.complete()


def test_image_of_a_lazy_restore_is_what_the_next_checkpoint_compares_with(
    process: Process, session: Session, tmp_path: Path
) -> None:
    session.restore()
    session.complete()
    session.image.arrived.set()
    process.ask("ctypes.memset(address + 9 * MB, 1, 100);;0")
    with Writer(session.store, session.keys, session.packs) as writer:
        again = encode(writer, process.dump(tmp_path / "again"), session.image.image())
        packs = writer.finish()
        assert writer.written_bytes < 4 * MB
    process.end()
    with Reader(session.store, session.keys, packs) as reader:
        materialize(reader, again.root, tmp_path / "plain")
    process.run("restore", "--restore-detached", "-D", str(tmp_path / "plain"))
    process.pid = session.pid
    assert process.ask("[block(at * MB) == before[at] for at in range(64)].index(False)") == "9"


def test_process_waits_where_its_memory_cannot_be_had(process: Process, session: Session) -> None:
    session.restore()
    session.store.lost = True
    process.tell("whole()")
    session.store.open.set()
    session.serving.join(60)
    assert "did not arrive" in str(session.trouble[0])
    assert len(session.kept) == 1
    # It was not given zeros: it stands, as who killed its server has the descriptor as well.
    assert select.select([process.answers], [], [], 0)[0] == []
    process.end()


def test_store_that_fails_for_a_moment_costs_no_process(process: Process, session: Session) -> None:
    session.restore()
    session.store.failures = 3
    process.tell("whole() == all")
    session.complete()
    assert session.store.failures == 0
    assert process.answer() == "True"
