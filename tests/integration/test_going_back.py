"""What a user does with the checkpoints of a session that runs: list, name, go back, fork, and have
old ones cleared away."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from system.client import PATIENCE, KernelClient
from system.folder import Folder
from system.running import System

pytestmark = pytest.mark.container

COUNT = """
import time
with open("counted.txt", "a", buffering=1) as counted:
    for n in range(1, 100000):
        print(n, file=counted)
        print(n, flush=True)
        time.sleep(0.02)
"""


async def restored(system: System, at: int | str) -> dict[str, Any]:
    """Go back; the checkpoint list afterwards, by number."""
    await system.command("checkpoint", "restore", str(at))
    return await listed(system)


async def listed(system: System) -> dict[str, Any]:
    found = json.loads(await system.command("checkpoint", "list", "--json"))
    return {str(one["number"]): one for one in found["checkpoints"]}


async def until_longer(folder: Folder, than: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while len(await folder.numbers("counted.txt")) <= than:
            await asyncio.sleep(0.05)


async def notebook(system: System, path: str) -> KernelClient:
    wish = {"path": path, "type": "notebook", "name": "", "kernel": {"name": "python3"}}
    model = await system.call("POST", "/api/sessions", wish, server="gateway")
    return await system.client(model["kernel"]["id"], "gateway").open()


async def test_session_goes_back_with_kernels_and_files_and_forth_into_a_running_cell(
    system: System, folder: Folder
) -> None:
    kernel = await notebook(system, f"{folder.name}/work.ipynb")
    await kernel.ask("x = 1; open('f.txt', 'w').write('one')")
    await kernel.ask("open('counted.txt', 'w').close()")
    first = await system.save(kernel)
    await kernel.ask("x = 2; y = 5; open('f.txt', 'w').write('two')")
    cell = await kernel.send(COUNT)
    await cell.until(lambda c: len(c.numbers) >= 3)

    known = await restored(system, first)
    end = await cell.end()
    assert end.reply is not None
    assert end.reply["ename"] == "WentBack"
    assert f"went back to checkpoint {first}" in end.reply["evalue"]
    look = "print(x, open('f.txt').read(), 'y' in globals())"
    assert await kernel.ask(look) == "1 one False"
    newest = known[max(known, key=int)]
    assert newest["went_back"] == first
    assert newest["kernels"] == [f"{folder.name}/work.ipynb"]
    [(saved, [tag])] = [(n, one["tags"]) for n, one in known.items() if one["tags"]]
    assert tag == f"before-going-back-{saved}"
    status = await system.running()
    assert f"went back to checkpoint {first}" in status["message"]
    assert not status["warnings"]

    # What was before is not lost: the cell goes on where it was then.
    await restored(system, tag)
    then = len(await folder.numbers("counted.txt"))
    await until_longer(folder, then)
    await system.call("POST", f"/api/kernels/{kernel.id}/interrupt", server="gateway")
    await cell.until(lambda c: c.types.count("status") == 3)  # the idle it had, and its own
    assert await kernel.ask(look) == "2 two True"
    counted = await folder.numbers("counted.txt")
    assert counted == list(range(1, len(counted) + 1))

    # And a node that is lost then does not bring back what was left.
    await system.save(kernel)
    await system.lose()
    assert await kernel.ask(look) == "2 two True"
    await kernel.close()
