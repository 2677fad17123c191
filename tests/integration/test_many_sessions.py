"""One gateway, many sessions: each is its user's alone, and all share the nodes."""

from __future__ import annotations

import asyncio
import json
import shutil
import tarfile
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from system.client import KernelClient
from system.running import DIRECT, System

pytestmark = pytest.mark.container

SESSIONS = "/api/sessionkeeper/sessions"


@dataclass
class Session:
    """One more session of a system, as its user has it."""

    system: System
    name: str
    token: str

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        status, content = self.system.request(
            method, path, body, server="gateway", token=self.token
        )
        return status, json.loads(content) if content else None

    async def kernel(self) -> KernelClient:
        status, model = await asyncio.to_thread(self.ask, "POST", "/api/kernels", {})
        assert status == 201, model
        return await self.client(model["id"])

    async def client(self, kernel_id: str) -> KernelClient:
        where = self.system.url("gateway").replace("http", "ws", 1)
        return await KernelClient(kernel_id, where, self.token).open()


@asynccontextmanager
async def sessions(system: System, *names: str, **wish: Any) -> AsyncIterator[list[Session]]:
    """Sessions of these names; they are gone afterwards."""
    made = []
    try:
        for name in names:
            said = await system.call("POST", SESSIONS, {"name": name, **wish}, server="gateway")
            made.append(Session(system, name, said["token"]))
        yield made
    finally:
        for one in made:
            with suppress(AssertionError):
                await system.call("DELETE", f"{SESSIONS}/{one.name}", server="gateway")


async def test_a_token_opens_the_kernels_and_files_of_its_session_and_nothing_else(system: System):
    async with sessions(system, "a", "b") as (a, b):
        of_a = await a.kernel()
        assert b.ask("GET", "/api/kernels") == (200, [])
        assert b.ask("GET", f"/api/kernels/{of_a.id}")[0] == 404
        await of_a.ask("open('secret', 'w').write('a')")
        assert a.ask("GET", "/api/sessionkeeper/files/secret?op=stat")[0] == 200
        assert b.ask("GET", "/api/sessionkeeper/files/secret?op=stat")[0] == 404
        assert b.ask("GET", "/api/sessionkeeper/status")[1]["session"] == "b"
        for path in ("sessions", "nodes", "sessions/b"):
            assert b.ask("GET", f"/api/sessionkeeper/{path}")[0] == 403
        await of_a.close()


async def test_sessions_on_one_node_all_move_when_it_is_drained_and_when_it_is_killed(
    system: System,
):
    async with sessions(system, "a", "b", "c") as made:
        kernels = [await one.kernel() for one in made]
        for number, kernel in enumerate(kernels):
            await kernel.ask(f"mine = {number}")
        await system.drain("node-1")
        assert [await kernel.ask("mine") for kernel in kernels] == ["0", "1", "2"]
        await system.start_node("node-1")
        await system.kill("node-2")
        assert [await kernel.ask("mine") for kernel in kernels] == ["0", "1", "2"]
        for kernel in kernels:
            await kernel.close()


async def test_a_session_that_hibernates_has_no_compute_and_a_cell_brings_it_back(system: System):
    path = f"{SESSIONS}/a"
    async with sessions(system, "a") as (a,):
        kernel = await a.kernel()
        await kernel.ask("mine = 41")
        said = await system.call("POST", f"{path}/hibernate", server="gateway")
        assert said["session"]["state"] == "hibernated"
        assert a.ask("GET", "/api/sessionkeeper/files/?op=list")[0] == 200
        await kernel.close()
        system.kill_part("gateway")  # nothing is wanted, so nothing comes back by itself
        async with asyncio.timeout(60):
            while (await _told(a))["state"] != "hibernated":
                await asyncio.sleep(0.05)
        kernel = await a.client(kernel.id)
        assert await kernel.ask("mine + 1") == "42"
        assert (await _told(a))["state"] == "running"
        await kernel.close()


async def _told(session: Session) -> dict[str, Any]:
    with suppress(OSError):
        status, told = await asyncio.to_thread(session.ask, "GET", "/api/sessionkeeper/status")
        if status == 200:
            return told
    return {"state": "no gateway"}


async def test_one_that_no_node_has_room_for_is_told_its_place_and_comes_when_there_is(
    system: System,
):
    nodes = (await system.call("GET", "/api/sessionkeeper/nodes", server="gateway"))["nodes"]
    most = int(0.6 * nodes[0]["memory"])
    async with sessions(system, "a", "b", "c", guarantee=most) as (a, b, c):
        kernels = [await one.kernel() for one in (a, b)]
        third = asyncio.create_task(c.kernel())
        async with asyncio.timeout(60):
            while (await _told(c))["state"] != "waiting":
                await asyncio.sleep(0.05)
        why = (await system.call("GET", f"{SESSIONS}/c", server="gateway"))["why"]
        assert (why["node"], why["place"], why["line"]) == (None, 1, 1)
        assert "of memory left" in why["reasons"]["node-1"]
        await system.call("DELETE", f"{SESSIONS}/a", server="gateway")
        kernels.append(await third)
        assert await kernels[2].ask("1 + 1") == "2"
        for kernel in kernels:
            await kernel.close()


async def test_a_gateway_that_lost_its_disk_finds_its_sessions_and_their_tokens(fresh):
    system = fresh("--no-ui", "--nodes", "1", "--runtime", "process")
    said = await system.call("POST", SESSIONS, {"name": "a", "owner": "ann"}, server="gateway")
    a = Session(system, "a", said["token"])
    kernel = await a.kernel()
    await kernel.ask("open('kept', 'w').write('here')")
    await kernel.close()
    await asyncio.to_thread(system.stop)
    shutil.rmtree(system.state.gateway)
    await asyncio.to_thread(system.start)
    listed = (await system.call("GET", SESSIONS, server="gateway"))["sessions"]
    found = {one["name"]: one for one in listed}
    assert (found["a"]["owner"], found["a"]["state"]) == ("ann", "stored")
    assert a.ask("GET", "/api/sessionkeeper/files/kept?op=stat")[0] == 200
    again = await a.client(kernel.id)
    assert await again.ask("open('kept').read()") == "'here'"
    await again.close()


async def test_user_code_reaches_nothing_of_another_session_on_the_same_node(system: System):
    secret = "a secret of session a"
    async with sessions(system, "a", "a.b") as (a, b):
        hers, his = await a.kernel(), await b.kernel()
        await hers.ask(
            "import http.server, os, socket, threading\n"
            f"secret = {secret!r}\n"
            "for place in ('/tmp/left', '/dev/shm/left', '/var/tmp/left', 'left'):\n"
            "    open(place, 'w').write(secret)\n"
            "handler = http.server.BaseHTTPRequestHandler\n"
            "server = http.server.HTTPServer(('0.0.0.0', 8000), handler)\n"
            "threading.Thread(target=server.serve_forever, daemon=True).start()\n"
            "hidden = socket.socket(socket.AF_UNIX); hidden.bind('\\0hidden'); hidden.listen()"
        )
        # The link to the outside comes a moment after the session.
        hers_at = await until_linked(hers)
        await until_linked(his)
        own = await hers.ask(f"socket.create_connection(({hers_at!r}, 8000)).close()")
        assert own == ""  # it does listen there
        shown = await his.ask(
            "import glob, os, socket, subprocess\n"
            "found = [p for d in ('/tmp', '/dev/shm', '/var/tmp', '/home/jovyan')"
            " for p in glob.glob(d + '/left')]\n"
            "commands = [open(p, 'rb').read() for p in glob.glob('/proc/[0-9]*/cmdline')]\n"
            "def reached(family, address):\n"
            "    with socket.socket(family) as s:\n"
            "        s.settimeout(1)\n"
            "        return s.connect_ex(address) == 0\n"
            f"at = reached(socket.AF_INET, ({hers_at!r}, 8000))\n"
            "try:\n"
            "    unix = reached(socket.AF_UNIX, '\\0hidden')\n"
            "except OSError:\n"
            "    unix = False\n"
            "print(found, len(commands) < 10, at, unix)"
        )
        assert shown.strip() == "[] True False False"
        # The name of one begins with that of the other: ending it leaves the other alone.
        await system.call("DELETE", f"{SESSIONS}/a", server="gateway")
        assert await his.ask("6 * 7") == "42"
        await hers.close()
        await his.close()


async def until_linked(kernel: KernelClient) -> str:
    """Wait until a session's kernels have a way to the outside; their own address on it (what
    SIOCGIFADDR says, netdevice(7))."""
    return await kernel.ask(
        "import time, fcntl, struct, socket\n"
        "with socket.socket() as probe:\n"
        "    while True:\n"
        "        try:\n"
        "            said = fcntl.ioctl(probe, 0x8915, struct.pack('256s', b'eth0'))\n"
        "            break\n"
        "        except OSError:\n"
        "            time.sleep(0.05)\n"
        "print(socket.inet_ntoa(said[20:24]), end='')"
    )


async def test_a_session_is_begun_opened_explained_and_deleted_by_command(system: System):
    await system.command("session", "create", "course", "--owner", "ann", "--limit", "1G")
    assert "already" in (await system.attempt("session", "create", "course"))[2]
    opened = (await system.command("session", "open", "course")).strip()
    where, _, token = opened.partition("/lab?token=")
    request = urllib.request.Request(
        f"{where}/api/kernels", b"{}", {"Authorization": f"token {token}"}, method="POST"
    )
    with await asyncio.to_thread(DIRECT.open, request) as answer:
        kernel_id = json.load(answer)["id"]
    kernel = await KernelClient(kernel_id, where.replace("http", "ws", 1), token).open()
    assert await kernel.ask("6 * 7") == "42"
    assert "course is running on node-" in await system.command("session", "why", "course")
    listed = json.loads(await system.command("session", "list", "--json"))["sessions"]
    course = next(one for one in listed if one["name"] == "course")
    assert (course["owner"], course["kernels"], course["limit"]) == ("ann", 1, 1 << 30)
    assert "course: running" in await system.command("status", "--session", "course")
    await system.command("session", "hibernate", "course")
    assert "course is running" in await system.command("session", "resume", "course")
    assert await kernel.ask("6 * 7") == "42"
    await kernel.close()
    assert (await system.attempt("session", "delete", "course"))[0] == 2
    await system.command("session", "delete", "course", "--yes")
    code, _, said = await system.attempt("session", "why", "course")
    assert (code, "no session 'course'" in said) == (8, True)


async def test_a_session_is_exported_while_it_runs_and_while_it_sleeps(
    system: System, tmp_path: Path
):
    def unpacked(file: Path) -> Path:
        into = Path(f"{file}.d")
        with tarfile.open(file) as archive:
            archive.extractall(into)
        return into

    async with sessions(system, "paper") as (paper,):
        kernel = await paper.kernel()
        await kernel.ask("open('run.sh', 'w').write('#!'); import os; os.chmod('run.sh', 0o755)")
        await kernel.ask("numbers = list(range(7)); title = 'draft'")
        file = tmp_path / "paper.tar.gz"
        said = await system.command("session", "export", "paper", "--output", str(file), "--json")
        assert json.loads(said)["bytes"] == file.stat().st_size
        code, _, said = await system.attempt("session", "export", "paper", "--output", str(file))
        assert (code, "exists" in said) == (2, True)
        code, _, _ = await system.attempt(
            "session", "export", "nobody", "--output", str(tmp_path / "x")
        )
        assert code == 8
        out = unpacked(file) / "paper"
        assert (out / "files" / "run.sh").stat().st_mode & 0o777 == 0o755
        (of_kernel,) = json.loads((out / "variables.json").read_text())["kernels"]
        found = {one["name"]: one for one in of_kernel["variables"]}
        assert found["title"] == {
            "name": "title", "type": "builtins.str", "value": "'draft'", "length": 5,
        }  # fmt: skip
        assert found["numbers"]["length"] == 7
        await kernel.ask("late = 1")
        await kernel.close()
        await system.command("session", "hibernate", "paper")
        body = "saved while it slept"
        status, _ = system.request(
            "PUT", "/api/sessionkeeper/files/note", body, server="gateway", token=paper.token
        )
        assert status == 200
        await system.command("session", "export", "paper", "--output", str(file), "--force")
        assert (await _told(paper))["state"] == "hibernated"
        out = unpacked(file) / "paper"
        assert json.loads((out / "files" / "note").read_text()) == body
        (of_kernel,) = json.loads((out / "variables.json").read_text())["kernels"]
        assert "late" in {one["name"] for one in of_kernel["variables"]}
        assert [one.name for one in tmp_path.glob(".*")] == []


async def test_an_idle_session_releases_its_compute_by_itself(fresh):
    system = fresh("--no-ui", "--nodes", "1", "--runtime", "process", "--hibernate-after", "2s")
    async with sessions(system, "a") as (a,):
        kernel = await a.kernel()
        await kernel.ask("mine = 41")
        async with asyncio.timeout(60):
            while (await _told(a))["state"] != "hibernated":
                await asyncio.sleep(0.05)
        assert await kernel.ask("mine + 1") == "42"  # over the connection that stayed open
        await kernel.close()


async def test_a_session_deleted_while_it_is_brought_up_leaves_nothing_on_a_node(system: System):
    async with sessions(system, "a") as (a,):
        starting = asyncio.create_task(asyncio.to_thread(a.ask, "POST", "/api/kernels", {}))
        async with asyncio.timeout(60):
            while (await _told(a))["state"] != "starting":
                await asyncio.sleep(0)
        await system.call("DELETE", f"{SESSIONS}/a", server="gateway")
        nodes = (await system.call("GET", "/api/sessionkeeper/nodes", server="gateway"))["nodes"]
        assert all("a" not in node["sessions"] for node in nodes)
        places = system.state.nodes.glob("*/agent/sessions/a-*")
        assert [place.name for place in places] == []
        assert (await starting)[0] == 503  # who waited for it is told
