"""A process remembers which files it has open; what it remembers must be true where it is restored.

SQLite refuses to write to a database whose inode number changed, and two connections to one
database lose each other's locks when they do not know that it is one.

The kernel and its two nodes run in a mount and a PID namespace of their own, as this file executed
as a program, so that nothing of them is left whatever happens.
"""

from __future__ import annotations

import ast
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from checkpoint.blobs import LocalDirectory
from checkpoint.keys import SessionKeys
from checkpoint.manifest import Manifest
from checkpoint.repository import Repository
from gateway.shim_archive import build_shim
from sessionkeeper import criu
from sessionkeeper.agent.container import ContainerPlace, NodeContainers
from sessionkeeper.agent.hosted import HostedKernel, HostedSession, kernelspec_launch
from sessionkeeper.agent.runc import Runc
from sessionkeeper.agent.savepoint import Savepoints
from sessionkeeper.agent.staging import Staged

pytestmark = pytest.mark.container

# In the kernel. `check` does, with every connection there is, what people do with one.
OPEN = """
import os, sqlite3, subprocess, sys
from pathlib import Path
def connect(path, mode):
    connection = sqlite3.connect(path, isolation_level=None, timeout=0)
    assert connection.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
    connection.execute("create table if not exists t (x)")
    return connection
def rows(connection):
    return [x for x, in connection.execute("select x from t order by x")]
def expect(error, connection, statement):
    try:
        connection.execute(statement)
    except sqlite3.OperationalError as raised:
        assert error in str(raised), raised
    else:
        raise AssertionError(f"not refused: {statement}")
def check(n):
    for one in open_ones:
        one.execute("insert into t values (?)", [n])
        path = one.execute("pragma database_list").fetchone()[2]
        second = sqlite3.connect(path, isolation_level=None, timeout=0)
        assert rows(second) == rows(one) and n in rows(one), (path, rows(second), rows(one))
        one.execute("begin immediate")
        expect("locked", second, "insert into t values (-1)")
        second.close()
        # What closing the second did not take away.
        third = subprocess.run([sys.executable, "-c", LOCK, path], capture_output=True, text=True)
        assert "locked" in third.stderr, (path, third)
        one.execute("commit")
        assert one.execute("pragma integrity_check").fetchone() == ("ok",)
    worker.stdin.write(f"{n}\\n")
    assert worker.stdout.readline() == f"{n}\\n"
    history = get_ipython().history_manager
    history.db_input_cache.append((1000 + n, f"cell {n}", f"cell {n}"))
    history.writeout_cache()
    known = sqlite3.connect(history.hist_file).execute("select source from history").fetchall()
    assert (f"cell {n}",) in known, known
    return n
LOCK = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('begin immediate')"
WORKER = '''
import sqlite3, sys
connection = sqlite3.connect("of-the-worker.db")
connection.execute("create table t (x)")
for line in iter(sys.stdin.readline, ""):
    try:
        with connection:
            connection.execute("insert into t values (?)", [int(line)])
        print(connection.execute("select max(x) from t").fetchone()[0], flush=True)
    except sqlite3.Error as error:
        print(error, flush=True)
'''
open_ones = [connect("rollback.db", "delete"), connect("rollback.db", "delete")]
open_ones += [connect("ahead.db", "wal"), connect("ahead.db", "wal")]
command = [sys.executable, "-c", WORKER]
worker = subprocess.Popen(command, stdin=-1, stdout=-1, text=True, bufsize=1)
pending = connect("pending.db", "delete")
pending.execute("insert into t values (1)")
pending.execute("begin")
pending.execute("insert into t values (2)")
"""
COMMIT = """
pending.execute("commit")
assert rows(pending) == rows(sqlite3.connect("pending.db")) == [1, 2]
pending.execute("insert into t values (3)")
assert pending.execute("pragma integrity_check").fetchone() == ("ok",)
"""


def test_databases_open_in_a_kernel_can_be_written_after_two_moves() -> None:
    base = Path(tempfile.mkdtemp(prefix="sk-identity-"))
    base.chmod(0o711)
    group = f"sk-identity-{os.getpid()}"
    namespaces = ("--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
    command = ["unshare", *namespaces, sys.executable, __file__, str(base), group]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=150)
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        for directory in groups(group):
            with suppress(OSError):
                directory.rmdir()
        shutil.rmtree(base)


def groups(name: str) -> Iterator[Path]:
    for top in Path("/sys/fs/cgroup").glob(f"**/{name}"):
        yield from sorted(top.glob("**/"), reverse=True)


class Moving:
    """A session with one kernel, and the two nodes that it moves between."""

    def __init__(self, base: Path, group: str) -> None:
        self.base = base
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
        found = criu.require().path
        shim = build_shim(base / "shim.pyz")
        self.nodes = [
            NodeContainers(Runc(base / f"runc-{n}", found), shim, f"/{group}/{n}") for n in (0, 1)
        ]
        self.keys = SessionKeys.generate()
        self.repository = Repository(LocalDirectory(base / "store"), "s", self.keys)
        self.epoch = 0
        self.number = 0

    def settle(self) -> None:
        self.epoch += 1
        node = self.nodes[self.epoch % 2]
        self.place = ContainerPlace(node, "s", self.base / f"{self.epoch}")
        self.savepoints.settle(self.place, self.repository.blobs)
        self.hosted = HostedSession("s", self.epoch, self.place, lambda *_: None, warm=False)

    def arrive(self) -> Savepoints:
        images = self.base / f"images-{self.epoch + 1}"
        return Savepoints(self.repository.blobs, self.keys, images)

    async def start(self) -> None:
        self.savepoints = self.arrive()
        self.settle()
        self.place.create()
        self.place.open()
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        launch = kernelspec_launch({"argv": argv}, Path("/"), {}, self.place.home)
        await self.hosted.start_kernel("k", "python3", 1, launch, 1, 0)
        while not (await self.relay.call("status"))["ready"]:
            await asyncio.sleep(0.02)

    @property
    def relay(self) -> Any:
        return self.hosted.kernels["k"].relay

    async def ask(self, code: str, expression: str = "None") -> Any:
        reply = await self.relay.call("execute", code=code, user_expressions={"r": expression})
        assert reply["status"] == "ok", reply
        answer = reply["user_expressions"]["r"]
        assert answer["status"] == "ok", "\n".join(answer["traceback"])
        return ast.literal_eval(answer["data"]["text/plain"])

    async def checkpoint(self, *, final: bool = False) -> Manifest:
        kernels = list(self.hosted.kernels.values())
        await asyncio.to_thread(self.savepoints.prepare, kernels)
        cut = await asyncio.to_thread(self.savepoints.cut, kernels, dict, final)
        saved = await asyncio.to_thread(self.savepoints.save, cut)
        self.number += 1
        manifest = Manifest(self.number, 1, None, 0.0, saved.body)
        self.repository.commit(manifest)
        return manifest

    async def stage(self) -> tuple[Savepoints, Staged]:
        arriving = self.arrive()
        return arriving, await asyncio.to_thread(arriving.stage, "s", self.number)

    async def move(self, manifest: Manifest, arriving: Savepoints, staged: Staged | None) -> None:
        """Bring `manifest` back on the other node, and only then clear the one before, so that no
        file gets the inode number that it had.
        """
        record = self.hosted.kernels["k"].record()
        left = self.hosted, self.savepoints
        self.savepoints = arriving
        self.settle()
        await asyncio.to_thread(arriving.restore_tree, manifest)
        images = await asyncio.to_thread(arriving.restore_images, manifest, staged)
        self.place.open()
        kernel = HostedKernel.from_record(record)
        restore = arriving.restore
        await asyncio.to_thread(restore, kernel.slot, images.kernels["k"], self.epoch)
        await asyncio.to_thread(self.place.thaw, [kernel.slot])
        await self.hosted.adopt(kernel)
        arriving.go_on_from(manifest, images)
        await leave(*left)


async def leave(hosted: HostedSession, savepoints: Savepoints) -> None:
    await hosted.close()
    await asyncio.to_thread(savepoints.close)


async def two_moves(session: Moving) -> None:
    await session.start()
    await session.ask(OPEN)
    assert await session.ask("", "check(1)") == 1
    await session.checkpoint()
    assert await session.ask("", "check(2)") == 2
    await session.checkpoint()
    arriving, staged = await session.stage()
    assert await session.ask("", "check(3)") == 3
    await session.move(await session.checkpoint(final=True), arriving, staged)
    assert await session.ask("open_ones.append(connect('later.db', 'delete'))", "check(4)") == 4
    # Nothing touches the connections between these two: their pages come from the first.
    await session.checkpoint()
    await session.move(await session.checkpoint(final=True), session.arrive(), None)
    assert await session.ask("", "check(5)") == 5
    assert await session.ask(COMMIT, "rows(pending)") == [1, 2, 3]


async def main(base: str, group: str) -> None:
    session = Moving(Path(base), group)
    try:
        await two_moves(session)
    finally:
        await leave(session.hosted, session.savepoints)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
