"""What a user does with the checkpoints of a session that runs: list, name, go back, fork, and have
old ones cleared away."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
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

    code, _, said = await system.attempt("checkpoint", "restore", "nothing")
    assert (code, "has no tag 'nothing'" in said) == (8, True)
    await system.command("checkpoint", "untag", tag)

    # And a node that is lost then does not bring back what was left.
    await system.save(kernel)
    await system.lose()
    assert await kernel.ask(look) == "2 two True"
    await kernel.close()


async def test_gateway_killed_while_going_back_has_gone_back_or_not_and_never_half(
    system: System, folder: Folder
) -> None:
    wish = {"path": f"{folder.name}/w.ipynb", "type": "notebook", "kernel": {"name": "python3"}}
    model = await system.call("POST", "/api/sessions", wish)
    kernel = await system.client(model["kernel"]["id"]).open()
    await kernel.ask("x = 1; open('f.txt', 'w').write('1')")
    first = await system.save(kernel)
    for moment in (
        lambda s: s["checkpointing"],
        lambda s: s["state"] == "recovering",
    ):
        await kernel.ask("x = 2; open('f.txt', 'w').write('2')")
        asking = asyncio.create_task(system.attempt("checkpoint", "restore", str(first)))
        await system.until(lambda s: s["checkpointing"])
        await system.until(moment)
        system.kill_part("gateway")
        code, _, said = await asking
        assert code == 0 or "the gateway does not answer" in said
        shown = await kernel.run("print(x, open('f.txt').read())")
        if shown.reply is not None and shown.reply.get("ename") == "WentBack":
            shown = await kernel.run("print(x, open('f.txt').read())")
        assert shown.text in {"1 1\n", "2 2\n"}
        await system.running()
    await kernel.close()


async def test_old_checkpoints_go_beside_a_running_session_by_itself_and_by_hand(
    fresh: Callable[..., System],
) -> None:
    system = fresh("--no-ui", "--keep", "all=0,hourly=0,daily=0")
    kernel = await notebook(system, "work.ipynb")
    await kernel.ask("import random; kept = random.randbytes(200_000); n = 0")
    await system.command("checkpoint", "tag", "good")
    for _ in range(2):
        await kernel.ask("n += 1; open('large', 'wb').write(random.randbytes(20_000_000)); None")
        await system.save(kernel)
    place = system.state.path / "store/sessions/default/packs"
    before = set(place.iterdir())

    said = await system.command("checkpoint", "prune")
    # A writer may be about to name packs. One may have come by itself, between the two of ours.
    assert re.search(r"deleted [12] checkpoints and 0 packs;", said)
    assert [one["tags"] for one in (await listed(system)).values()] == [["good"], []]
    for _ in range(2):
        await kernel.ask("n += 1")
        await system.save(kernel)
        # By hand at the same time: neither minds the other.
        hand = "store", "prune", "--all", "0", "--hourly", "0", "--daily", "0"
        await asyncio.gather(system.command(*hand), system.command("store", "gc"))
    await system.command("checkpoint", "prune")
    assert before - set(place.iterdir())
    assert (await system.until(lambda s: "last" in s["upkeep"]))["warnings"] == []
    assert "all of it is intact" in await system.command("store", "fsck")

    # What is left is enough to come back from, now and then.
    await system.lose()
    assert await kernel.ask("print(n, len(kept))") == "4 200000"
    await restored(system, "good")
    assert await kernel.ask("print(n, len(kept))") == "0 200000"
    await kernel.close()


async def test_fork_is_run_beside_the_session_and_deleted_when_it_has_ended(
    system: System, fresh: Callable[..., System]
) -> None:
    kernel = await notebook(system, "forked.ipynb")
    await kernel.ask("x = 1; open('mine.txt', 'w').write('one')")
    await system.command("checkpoint", "tag", "here")
    await kernel.ask("x = 2; open('mine.txt', 'w').write('two')")
    await system.command("checkpoint", "fork", "here", "--as", "experiment")

    store, key = system.state.path / "store", system.state.master_key
    other = fresh(
        "--no-ui", "--session", "experiment", "--store", str(store), "--master-key", str(key)
    )
    sessions = await other.call("GET", "/api/sessions", server="gateway")
    [twin] = [one["kernel"]["id"] for one in sessions if one["path"] == "forked.ipynb"]
    assert twin == kernel.id
    there = await other.client(twin, "gateway").open()
    look = "print(x, open('mine.txt').read())"
    assert await there.ask(look) == "1 one"
    begun = min(await listed(other), key=int)
    await there.ask("x = 3")
    await restored(other, begun)
    assert await there.ask(look) == "1 one"
    assert await kernel.ask(look) == "2 two"

    delete = "store", "delete", "experiment", "--yes"
    code, _, said = await other.attempt(*delete, "--store", str(store), "--master-key", str(key))
    assert (code, "is run by a gateway on this machine" in said) == (3, True)
    await there.close()
    other.stop()
    await system.command("store", "delete", "experiment", "--yes")
    assert "experiment" not in await system.command("store", "list")
    await restored(system, "here")
    assert await kernel.ask(look) == "1 one"
    assert "all of it is intact" in await system.command("store", "fsck")
    await kernel.close()
