"""What shares the processors of a node that leaves soon waits until that has saved what it has."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

from sessionkeeper.keeper.node import Node
from sessionkeeper.keeper.pressure import NEEDED, SAVING, relieved


def node(name: str, machine: str, leaves: float | None = None) -> Node:
    hello: dict[str, Any] = {"node": name, "machine": machine}
    made = Node(name, None, hello, 2.0)
    if leaves is not None:
        made.draining = True
        made.leaves_at = asyncio.get_running_loop().time() + leaves
    return made


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_opens_waits_for_last_checkpoints_that_need_all_the_time() -> None:
    source, target = node("a", "one", leaves=5.0), node("b", "one")
    with ExitStack() as sessions:
        for _ in range(int(5.0 / SAVING / NEEDED) + 1):
            sessions.enter_context(source.pressure.saving())
        opening = asyncio.ensure_future(relieved(target, [source, target]))
        await settled()
        assert not opening.done()
        source.gone.set_result(None)  # whatever it has not saved by now
        await opening


async def test_it_goes_on_when_the_last_one_is_saved() -> None:
    source, target = node("a", "one", leaves=0.9 * SAVING * NEEDED), node("b", "one")
    with source.pressure.saving():
        opening = asyncio.ensure_future(relieved(target, [source, target]))
        await settled()
        assert not opening.done()
    await opening


async def test_nobody_waits_where_there_is_time_or_the_machine_is_another() -> None:
    for machine, leaves in (("one", 60.0), ("two", 1.0)):
        source, target = node("a", machine, leaves), node("b", "one")
        with source.pressure.saving():
            await relieved(target, [source, target])
