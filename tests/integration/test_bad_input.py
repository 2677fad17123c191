"""What is wrong is said, with what to do about it, and the running session goes on."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from system.counters import Counter
from system.folder import Folder
from system.running import System
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

pytestmark = pytest.mark.container

Fresh = Callable[..., System]
ELSEWHERE = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts small file systems: `tmpfs("size=64m")`."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        place = tmp_path / f"tmpfs-{len(mounted)}"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


# -- tokens ------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, "wrong"], ids=["missing", "wrong"])
@pytest.mark.parametrize(
    ("server", "path"),
    [
        ("ui", "/api/kernels"),
        ("ui", "/api/contents/"),
        ("ui", "/sessionkeeper/status"),
        ("gateway", "/api/kernels"),
        ("gateway", "/api/sessionkeeper/status"),
        ("gateway", "/api/sessionkeeper/files/?op=list"),
    ],
)
def test_without_the_token_nothing_is_shown(
    system: System, server: str, path: str, token: str | None
):
    status, content = system.request("GET", path, server=server, token=token)
    assert status == (403 if server == "ui" else 401)
    assert "token" in json.loads(content)["message"].lower()


@pytest.mark.parametrize(
    "path", [f"/api/kernels/{ELSEWHERE}/channels", "/agents", "/api/sessionkeeper/events"]
)
async def test_without_the_token_no_connection_is_opened(system: System, path: str):
    url = system.url("gateway").replace("http", "ws", 1) + path
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, additional_headers={"Authorization": "token wrong"}, proxy=None)
    assert refused.value.response.status_code == 401
    assert b"token" in refused.value.response.body.lower()


# -- what is asked for is not there ------------------------------------------------------------


async def test_unknown_kernelspec_is_named_with_those_there_are(system: System):
    status, content = system.request("POST", "/api/kernels", {"name": "cobol"})
    assert 400 <= status < 500, content
    message = json.loads(content)["message"]
    assert "cobol" in message
    assert "python3" in message


@pytest.mark.parametrize("server", ["ui", "gateway"])
async def test_unknown_kernel_is_named(system: System, server: str):
    status, content = system.request("GET", f"/api/kernels/{ELSEWHERE}", server=server)
    assert status == 404
    assert ELSEWHERE in json.loads(content)["message"]
    with pytest.raises(InvalidStatus) as refused:
        await system.client(ELSEWHERE, server).open()
    assert refused.value.response.status_code == 404


@pytest.mark.parametrize("action", ["drain", "kill"])
async def test_unknown_node_is_named_with_those_there_are(system: System, action: str):
    code, _, said = await system.attempt("node", action, "node-9")
    assert code == 7
    assert "node-9" in said
    assert "node-1, node-2" in said


async def test_unknown_node_is_named_by_the_gateway(system: System):
    path = "/api/sessionkeeper/nodes/node-9/drain"
    status, content = system.request("POST", path, {}, server="gateway")
    assert status == 404
    assert json.loads(content)["code"] == "unknown_node"
    assert "node-1, node-2" in json.loads(content)["hint"]


# -- what `up` needs is not as it should be ----------------------------------------------------


async def test_port_that_is_taken_is_named_with_its_owner(fresh: Fresh):
    system = fresh(starts=False)
    with socket.create_server(("127.0.0.1", system.port)):
        code, said = system.fail()
    assert code == 4
    assert f"port {system.port} on 127.0.0.1 is taken by " in said
    assert "hint: choose another with --port" in said


async def test_store_that_cannot_be_written_is_refused_at_start(
    fresh: Fresh, tmpfs: Callable[..., Path]
):
    store = tmpfs("ro")
    code, said = fresh("--store", str(store), starts=False).fail()
    assert code == 5
    assert str(store) in said
    assert "Read-only file system" in said
    assert "hint: " in said


async def test_store_below_a_file_is_refused_at_start(fresh: Fresh, tmp_path: Path):
    (tmp_path / "file").write_text("")
    code, said = fresh("--store", str(tmp_path / "file/store"), starts=False).fail()
    assert code == 5
    assert str(tmp_path / "file") in said


async def test_criu_that_is_not_there_is_said_with_the_command_that_installs_it(
    fresh: Fresh, tmp_path: Path
):
    environ = {"SESSIONKEEPER_CRIU": str(tmp_path / "criu")}
    code, said = fresh("--runtime", "container", environ=environ, starts=False).fail()
    assert code == 6
    assert f"{tmp_path}/criu" in said
    assert "sessionkeeper setup criu" in said


async def test_criu_that_is_too_old_is_said_with_the_version_that_is_needed(
    fresh: Fresh, tmp_path: Path
):
    old = tmp_path / "criu"
    old.write_text("#!/bin/sh\necho Version: 3.17.1\n")
    old.chmod(0o755)
    code, said = fresh(environ={"SESSIONKEEPER_CRIU": str(old)}, starts=False).fail()
    assert code == 6
    assert "3.17.1" in said
    assert "4.2" in said
    assert "sessionkeeper setup criu" in said


# -- the store gets bad while a session runs ---------------------------------------------------


async def test_full_disk_during_a_checkpoint_is_a_warning_until_there_is_room(
    fresh: Fresh, tmpfs: Callable[..., Path]
):
    disk = tmpfs("size=256m")
    system = fresh("--store", str(disk / "store"))
    folder = await Folder(system, "full").create()
    async with system.kernel(path=folder.name) as kernel:
        await system.cell(kernel, "n = 1")
        before = await system.number()
        filler = disk / "filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free)
        await kernel.ask("import os; more = os.urandom(20_000_000); n = 2")
        full = await system.until(lambda s: bool(s["warnings"]))
        (warning,) = full["warnings"]
        assert warning.startswith("a checkpoint could not be made: ")
        assert "no space" in warning.lower() or "full" in warning.lower()
        assert f"checkpoint {before}" in warning
        # The session goes on.
        counter = await Counter.start(kernel, folder)
        await counter.check()

        filler.unlink()
        saved = await system.until(lambda s: s["checkpoint"]["number"] > before)
        await system.until(lambda s: not s["warnings"])
        await system.lose()
        assert await kernel.ask("n, len(more)") == "(2, 20000000)"
        after = await system.running()
        assert f"from checkpoint {saved['checkpoint']['number']}" in json.dumps(after["events"])


async def test_damaged_checkpoint_is_skipped_by_name_for_the_newest_intact_one(fresh: Fresh):
    system = fresh()
    packs = Path(system.state.path / "store/sessions/default/packs")
    async with system.kernel() as kernel:
        await system.cell(kernel, "import os; n = 1; drawn = os.urandom(8)")
        drawn = await system.cell(kernel, "drawn")
        intact, known = await system.number(), set(packs.iterdir())
        await system.cell(kernel, "n += 1; more = os.urandom(1_000_000)")
        damaged = await system.number()
        for pack in set(packs.iterdir()) - known:
            flip_bytes(pack)
        lost = await system.lose()
        assert await kernel.ask("n, drawn, len(more)") == f"(2, {drawn}, 1000000)"
        said = "\n".join(event["text"] for event in (await system.running())["events"])
        assert f"checkpoint {damaged} was skipped" in said
        assert f"{lost} was lost; recovered on" in said
        assert f"from checkpoint {intact} " in said


def flip_bytes(path: Path) -> None:
    """Change every thousandth byte, as a bad disk does."""
    content = bytearray(path.read_bytes())
    for position in range(0, len(content), 1000):
        content[position] ^= 0xFF
    path.chmod(0o600)
    path.write_bytes(content)
