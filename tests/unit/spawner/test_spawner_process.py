"""A UI server's process, with a small one in its place: whatever is lost comes back on its port."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from sessionkeeper.spawner.process import UiProcess, listen
from sessionkeeper.ui.attendant import restart_delay

# Answers with its process id; /end ends it with that status.
SERVER = """
import os, socket
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/end/"):
            os._exit(int(self.path[5:]))
        self.send_response(200); self.end_headers()
        self.wfile.write(f"{os.getpid()} {os.environ['WORD']}".encode())
    def log_message(self, *_): pass
server = HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
server.socket = socket.socket(fileno=int(os.environ["SESSIONKEEPER_LISTEN_FD"]))
server.serve_forever()
"""
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest_asyncio.fixture
async def ui(tmp_path: Path) -> AsyncIterator[UiProcess]:
    ui = UiProcess(tmp_path / "ann")
    start(ui)
    yield ui
    await ui.stop()


def start(ui: UiProcess) -> None:
    ui.start(listen("127.0.0.1"), [sys.executable, "-c", SERVER], {"WORD": "hello"})


async def ask(ui: UiProcess, path: str = "/") -> tuple[int, str]:
    """Its process id and its word. It is waited for, and never refused."""
    address = ui.address()
    assert address is not None
    url = f"http://127.0.0.1:{address[1]}{path}"
    answer = await asyncio.to_thread(lambda: DIRECT.open(url, timeout=30).read())
    pid, word = answer.decode().split()
    return int(pid), word


async def until_ended(ui: UiProcess) -> int:
    async with asyncio.timeout(30):
        while (status := ui.poll()) is None:
            await asyncio.sleep(0.02)
    return status


def is_there(process: psutil.Process) -> bool:
    """Also if its number is another's by now, or whoever it was left to has not looked yet."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


async def test_what_was_never_started_does_not_run(tmp_path: Path):
    ui = UiProcess(tmp_path / "nobody")
    assert ui.poll() == 0
    await ui.stop()
    assert not ui.home.exists()


async def test_server_that_is_killed_is_back_at_once_and_nobody_is_refused(ui: UiProcess):
    pid, word = await ask(ui)
    os.kill(pid, signal.SIGKILL)
    again, same = await ask(ui)
    assert (again != pid, same) == (True, word)
    assert ui.poll() is None


async def test_server_that_fails_is_started_again(ui: UiProcess):
    pid, _ = await ask(ui)
    with pytest.raises(OSError, match=r"closed|reset"):
        await ask(ui, "/end/3")
    assert (await ask(ui))[0] != pid


async def test_server_that_ends_itself_has_ended_for_every_hub(ui: UiProcess):
    with pytest.raises(OSError, match=r"closed|reset"):
        await ask(ui, "/end/0")
    assert await until_ended(ui) == 0
    assert UiProcess(ui.home).poll() == 0


async def test_poll_mends_a_lost_attendant_and_its_server_is_never_there_twice(ui: UiProcess):
    pid, _ = await ask(ui)
    server = psutil.Process(pid)
    os.kill(int((ui.home / "lock").read_text()), signal.SIGKILL)
    address = ui.address()
    async with asyncio.timeout(30):
        while is_there(server):
            await asyncio.sleep(0.02)
    new = UiProcess(ui.home)  # of a hub that was started again
    assert new.poll() is None
    assert (await ask(new))[0] != pid
    assert new.address() == address
    await new.stop()


async def test_stop_ends_it_for_good_also_for_a_hub_that_did_not_start_it(ui: UiProcess):
    pid, _ = await ask(ui)
    other = UiProcess(ui.home)
    assert other.poll() is None
    await other.stop()
    assert not Path(f"/proc/{pid}").exists()
    assert other.poll() == 0
    start(other)
    assert (await ask(other))[0] != pid


async def test_hub_killed_in_the_middle_of_a_stop_does_not_bring_it_back(ui: UiProcess):
    await ask(ui)
    (ui.home / "ended").write_text("0")  # all that the stop had done
    os.kill(int((ui.home / "lock").read_text()), signal.SIGKILL)
    assert await until_ended(UiProcess(ui.home)) == 0


async def test_secrets_of_a_server_are_its_owners_alone(ui: UiProcess):
    assert (ui.home / "start.json").stat().st_mode & 0o077 == 0
    assert ui.home.stat().st_mode & 0o077 == 0


def test_pauses_grow_and_have_an_end():
    pauses = [restart_delay(failures) for failures in range(1, 20)]
    assert pauses[0] == 0
    assert pauses == sorted(pauses)
    assert pauses[-1] == 10
