"""Files that a kernel has open are, when it comes back, what they were when it stood still."""

from __future__ import annotations

from pathlib import Path

import pytest
from system.arriving import node_like, saved
from system.folder import Folder
from system.running import System

pytestmark = pytest.mark.container

WRITING = """
import mmap, os, threading, time

os.mkdir("scratch")
open(".sessionkeeperignore", "w").write("scratch/\\n")
open("scratch/other", "w").write("stays behind")
log = open("log", "wb", buffering=0)
ignored = open("scratch/open", "wb", buffering=0)
with open("mapped", "wb") as file:
    file.truncate(1 << 20)
with open("mapped", "r+b") as file:
    mapped = mmap.mmap(file.fileno(), 0)
stop = threading.Event()
written = 0


def write():
    global written
    while not stop.is_set():
        line = b"%09d\\n" % written
        log.write(line)
        ignored.write(line)
        mapped[:10] = line
        written += 1
        time.sleep(0.0005)


thread = threading.Thread(target=write, daemon=True)
thread.start()
"""
STOP = """
before = written
stop.set()
thread.join()
lines = b"".join(b"%09d\\n" % n for n in range(written))
"""


@pytest.mark.parametrize("loss", ["drain", "kill"])
async def test_file_open_in_a_kernel_is_as_long_and_as_full_as_at_the_dump(
    system: System, folder: Folder, loss: str
):
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, WRITING)
        saved = int(await system.cell(kernel, "written"))
        status = await system.running()
        await (system.drain if loss == "drain" else system.kill)(status["node"])
        await system.recovered(status["epoch"])
        await kernel.ask(STOP)
        assert await kernel.ask(f"before > {saved}") == "True"
        for name in ("log", "scratch/open"):
            assert await kernel.ask(f"os.path.getsize({name!r}) == len(lines)") == "True"
            assert await kernel.ask(f"open({name!r}, 'rb').read() == lines") == "True"
        assert await kernel.ask("open('mapped', 'rb').read(10) == mapped[:10] == lines[-10:]") == (
            "True"
        )
        # What nobody has open there stays behind, and that was said.
        assert await kernel.ask("os.listdir('scratch')") == "['open']"
        said = [event["text"] for event in (await system.running())["events"]]
        told = [text for text in said if "as .sessionkeeperignore says" in text]
        assert len(told) == 1
        assert "/scratch/other;" in told[0]


WITHOUT_A_NAME = """
import ctypes, os, tempfile
temporary = tempfile.TemporaryFile(dir=".")
temporary.write(data[: 5 << 20])
os.mkdir("watched")
libc = ctypes.CDLL(None)
watch = libc.inotify_init1(os.O_NONBLOCK)
assert libc.inotify_add_watch(watch, b"watched", 0x100) == 1
"""
STILL = """
assert temporary.tell() == 5 << 20
temporary.seek(0)
assert temporary.read() == data[: 5 << 20]
open("watched/new", "w").close()
assert b"new" in os.read(watch, 4096)
"""


@pytest.mark.needs("lazy")
@node_like
async def test_temporary_files_and_watched_directories_go_along(tmp_path: Path) -> None:
    async with saved(tmp_path) as (node, one, _):
        await one.begin()
        node.gate.open.set()
        await one.run(WITHOUT_A_NAME)
        await one.checkpoint()
        await one.kill()
        await one.begin()
        node.gate.open.set()
        await one.run(STILL)
