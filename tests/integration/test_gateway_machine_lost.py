"""The gateway's machine breaks: another one, with an empty disk, goes on from the store."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_server.services.kernels.connection.base import deserialize_msg_from_ws_v1
from system.running import System
from websockets.asyncio.client import connect

from sessionkeeper.nodes import processes
from sessionkeeper.up.leftovers import sweep


async def journaled(
    system: System, kernel_id: str, query: str, last: str
) -> tuple[list[str], dict[str, Any], int]:
    """What a client is sent that asks for `query`, until it has seen `last` printed: the texts,
    the welcome, the cursor of the last one."""
    where = system.url("gateway").replace("http", "ws", 1)
    headers = {"Authorization": f"token {system.state.token('gateway')}"}
    url = f"{where}/api/kernels/{kernel_id}/channels?session_id=reader&{query}"
    texts: list[str] = []
    async with asyncio.timeout(30), connect(url, additional_headers=headers, proxy=None) as socket:
        welcome = json.loads((await socket.recv())[1:])
        while not texts or last not in texts[-1]:
            frame = await socket.recv()
            assert isinstance(frame, bytes)
            _, parts = deserialize_msg_from_ws_v1(frame[9:])
            if json.loads(parts[0])["msg_type"] == "stream":
                texts.append(json.loads(parts[3])["text"])
        return texts, welcome, int.from_bytes(frame[1:9], "big")


def break_machine(system: System) -> None:
    """All of its processes are gone at once, and so is its disk, but for the store (which is
    somewhere else in earnest) and the master key."""
    os.kill(system.state.running()["pid"], signal.SIGKILL)
    processes.end_all(lambda: processes.parts(system.state.id))
    system.stop()
    sweep(system.state)
    for entry in Path(system.state.path).iterdir():
        if entry.name not in {"store", "master.key"}:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


async def test_outputs_notebook_sessions_and_kernels_are_there_and_each_output_once(
    fresh: Callable[..., System],
) -> None:
    system = fresh("--no-ui", "--nodes", "1")
    wish = {
        "path": "work.ipynb",
        "name": "work.ipynb",
        "type": "notebook",
        "kernel": {"name": "python3"},
    }
    session = await system.call("POST", "/api/sessions", wish, server="gateway")
    kernel_id = session["kernel"]["id"]
    kernel = await system.client(kernel_id, "gateway").open()
    await kernel.run("for n in range(50):\n    print(n, flush=True)")
    await kernel.ask("x = 7; print('before', x)")
    await system.save(kernel)
    said, welcome, cursor = await journaled(system, kernel_id, "cursor=0", "before")
    await kernel.close()
    await asyncio.to_thread(break_machine, system)
    await asyncio.to_thread(system.start)

    assert [
        (one["id"], one["path"], one["kernel"]["id"])
        for one in await system.call("GET", "/api/sessions", server="gateway")
    ] == [(session["id"], "work.ipynb", kernel_id)]
    again = await system.client(kernel_id, "gateway").open()
    assert await again.ask("x = x + 1; print('after', x)") == "after 8"
    texts, new, _ = await journaled(system, kernel_id, "cursor=0", "after")
    assert texts == [*said, "after 8\n"]
    assert (new["missing"], new["reset"]) == (0, False)
    # One that was there before goes on where it was.
    query = f"cursor={cursor}&journal={welcome['journal']}"
    texts, new, _ = await journaled(system, kernel_id, query, "after")
    assert texts == ["after 8\n"]
    assert new["journal"] != welcome["journal"]
    assert new["reset"] is False
    await again.close()
