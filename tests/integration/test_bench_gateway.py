"""The load that `bench gateway` makes, small: what it would find, and what the gateway promises."""

from __future__ import annotations

from sessionkeeper.bench import load
from sessionkeeper.up.terminal import Terminal


async def test_gateway_killed_while_kernels_talk_loses_nothing_and_repeats_nothing() -> None:
    async with load.rig(Terminal()) as rig:
        await rig.grow(20)
        for _ in range(2):
            said = await rig.say(400.0)
            for reader in rig.readers:
                await reader.until(said[reader.kernel_id] + 5)
            await rig.kill_gateway()
            said = await rig.say(400.0)
            await rig.start_gateway()
            for reader in rig.readers:
                await reader.until(said[reader.kernel_id] + 5)
        said = await rig.say(0)
        await rig.all_here(said)
        seen = load.counted(rig.readers)
        assert (seen.lost, seen.twice) == (0, 0)
        assert len(seen.delays) == sum(said.values())
        await rig.shrink(1)
        assert len(await rig.say(0)) == 1


async def test_large_messages_of_one_kernel_arrive_whole() -> None:
    async with load.rig(Terminal()) as rig:
        await rig.grow(1)
        await rig.say(2.0, 30_000_000)
        await rig.readers[0].until(3)
        await rig.all_here(await rig.say(0))
        assert load.counted(rig.readers)[:2] == (0, 0)
