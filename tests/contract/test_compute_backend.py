"""What every `ComputeBackend` must do."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import pytest_asyncio
from cluster.api import ApiServer
from cluster.machines import Machines

from sessionkeeper.compute.backend import Compute, ComputeBackend, Found
from sessionkeeper.compute.local import LocalBackend
from sessionkeeper.kubernetes.backend import KubernetesBackend
from sessionkeeper.kubernetes.cluster import Cluster

PATIENCE = 30.0
CLUSTER = Cluster("binder", "hub", "http://gateway:8889", "agent:1")
FIRST = Compute("sk-a-0123abcd-1", "a", token="s3cret")
OTHER = Compute("sk-b-0123abcd-1", "b", token="s3cret")

# Stands for an agent: it stays until it is told.
AGENT = "import signal; signal.pause()"


@dataclass
class Rig:
    """Makes backends that all look at the same machines, as those of a gateway's lives do."""

    make: Callable[[], ComputeBackend]


async def of_kubernetes(stack: AsyncExitStack, path: Path) -> Rig:
    api = await stack.enter_async_context(ApiServer().serve())
    machines = Machines(api)
    await machines.add("one")
    await machines.start()
    stack.push_async_callback(machines.stop)

    def configure(settings: object) -> None:
        settings.host = api.url  # type: ignore[attr-defined]

    return Rig(lambda: KubernetesBackend(CLUSTER, configure))


async def of_this_machine(stack: AsyncExitStack, path: Path) -> Rig:
    def argv(wanted: Compute, data: Path) -> list[str]:
        return [sys.executable, "-c", AGENT]

    async def end() -> None:
        last = LocalBackend(path, argv)
        async with aclosing(last.watch()) as said:
            for name in await anext(said):
                await last.stop(name, at_once=True)
        await last.close()

    stack.push_async_callback(end)
    return Rig(lambda: LocalBackend(path, argv))


RIGS = {"kubernetes": of_kubernetes, "local": of_this_machine}


@pytest_asyncio.fixture(params=RIGS)
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        yield await RIGS[request.param](stack, tmp_path)


async def until(
    backend: ComputeBackend, condition: Callable[[Mapping[str, Found]], bool]
) -> Mapping[str, Found]:
    async with asyncio.timeout(PATIENCE), aclosing(backend.watch()) as said:
        async for now in said:
            if condition(now):
                return now
    raise AssertionError("a watch ended by itself")


async def test_at_first_there_is_nothing_and_that_is_said(rig: Rig) -> None:
    assert await until(rig.make(), lambda _: True) == {}


async def test_what_is_started_runs_and_what_is_stopped_is_gone(rig: Rig) -> None:
    backend = rig.make()
    await backend.start(FIRST)
    there = await until(backend, lambda now: any(o.phase == "running" for o in now.values()))
    assert there[FIRST.name].session == FIRST.session
    assert there[FIRST.name].tier == FIRST.tier
    await backend.stop(FIRST.name)
    await until(backend, lambda now: not now)
    await backend.close()


async def test_starting_twice_is_starting_once_also_for_who_begins_again(rig: Rig) -> None:
    first, second = rig.make(), rig.make()
    await first.start(FIRST)
    await first.start(FIRST)
    await first.close()
    await second.start(FIRST)
    assert set(await until(second, bool)) == {FIRST.name}
    await second.stop(FIRST.name)
    await until(second, lambda now: not now)
    await second.close()


async def test_what_runs_is_found_and_stopped_by_the_next_gateway(rig: Rig) -> None:
    first = rig.make()
    await first.start(FIRST)
    await first.start(OTHER)
    await until(first, lambda now: {one.phase for one in now.values()} == {"running"})
    await first.close()
    second = rig.make()
    found = await until(second, bool)
    assert {one.session for one in found.values()} == {"a", "b"}
    await second.stop(FIRST.name, at_once=True)
    await second.stop(OTHER.name)
    await until(second, lambda now: not now)
    await second.close()


async def test_stopping_what_is_not_there_is_no_error(rig: Rig) -> None:
    backend = rig.make()
    await backend.stop(FIRST.name)
    await backend.stop(FIRST.name, at_once=True)
    await backend.close()


async def test_a_watch_says_each_change_and_nothing_twice(rig: Rig) -> None:
    backend = rig.make()
    seen: list[Mapping[str, Found]] = []
    async with asyncio.timeout(PATIENCE), aclosing(backend.watch()) as said:
        async for now in said:
            seen.append(dict(now))
            if len(seen) == 1:
                await backend.start(FIRST)
            elif FIRST.name in now and now[FIRST.name].phase == "running":
                await backend.stop(FIRST.name)
            elif len(seen) > 2 and not now:
                break
    assert all(one != other for one, other in pairwise(seen))
    await backend.close()


async def test_images_can_be_asked_for_and_given_up(rig: Rig) -> None:
    backend = rig.make()
    await backend.prepare(frozenset({"a/b:1"}))
    await backend.prepare(frozenset({"a/b:1", "a/b:2"}))
    await backend.prepare(frozenset())
    await backend.close()
