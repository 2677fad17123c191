"""What happens hundreds of times a second is looked at some twenty times."""

from __future__ import annotations

import asyncio

from sessionkeeper.keeper.changes import SOON, Changes


async def test_cells_in_quick_succession_wake_the_keeper_once() -> None:
    changes, looked = Changes(), 0

    async def keeper() -> None:
        nonlocal looked
        while True:
            changes.look()
            looked += 1
            await changes.idle()

    task = asyncio.create_task(keeper())
    await asyncio.sleep(0)
    for _ in range(100):
        changes.note_soon()
        await asyncio.sleep(0)
    assert looked == 1
    await changes.idle(10 * SOON)
    await asyncio.sleep(0)
    task.cancel()
    assert looked == 2


async def test_what_must_not_wait_does_not_wait_for_what_can() -> None:
    changes = Changes()
    changes.note_soon()
    assert not await changes.idle(0.0)
    changes.note()
    assert await changes.idle(0.0)
