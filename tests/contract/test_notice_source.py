"""What every `NoticeSource` must do, each against the service that it asks, over a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from metadata.cluster import NodeOfCluster, PodOfCluster
from metadata.login import Login
from metadata.service import CUT, AwsService, AzureService, GoogleService, Service

from sessionkeeper.agent.ledger import clock
from sessionkeeper.notices.aws import Aws
from sessionkeeper.notices.azure import Azure
from sessionkeeper.notices.google import Google
from sessionkeeper.notices.kubernetes import KubernetesWatch
from sessionkeeper.notices.logind import LogindSource
from sessionkeeper.notices.notice import Notice, NoticeSource, SourceFailed
from sessionkeeper.notices.owner import Owner
from sessionkeeper.notices.policy import Policy
from sessionkeeper.notices.together import Together

PATIENCE = 20.0
SECONDS = 25.0
"""Of a notice where the service says how long; the others are shorter than a minute too."""


@dataclass
class Rig:
    """A source, and what gives and takes back its notice. `fail` None: it cannot fail."""

    source: NoticeSource
    give: Callable[[], Awaitable[None]]
    withdraw: Callable[[], Awaitable[None]]
    fail: Callable[[], Awaitable[None]] | None
    heal: Callable[[], Awaitable[None]]


def of_service(source: NoticeSource, service: Service) -> Rig:
    async def fail() -> None:
        service.broken = CUT
        await service.tell()

    async def heal() -> None:
        service.broken = None

    return Rig(source, lambda: service.give(SECONDS), service.withdraw, fail, heal)


async def of_logind(stack: AsyncExitStack, path: Path) -> Rig:
    login = await stack.enter_async_context(Login(path).serve())

    async def prepare(start: bool) -> None:
        login.manager.prepare("sleep", start)

    async def fail() -> None:
        login.stop_logind()

    source = LogindSource(login.address)
    return Rig(source, lambda: prepare(True), lambda: prepare(False), fail, login.start_logind)


def of_owner(path: Path) -> Rig:
    mains = path / "AC0"
    battery = path / "BAT0"
    for supply, kind in ((mains, "Mains"), (battery, "Battery")):
        supply.mkdir()
        (supply / "type").write_text(f"{kind}\n")

    async def plug(online: str) -> None:
        (mains / "online").write_text(f"{online}\n")

    (mains / "online").write_text("1\n")
    source = Owner(Policy(plugged_in=True), supplies=path, now=datetime.now, every=0.02)
    return Rig(source, lambda: plug("0"), lambda: plug("1"), None, lambda: plug("1"))


KINDS = (
    *("aws", "google", "azure", "kubernetes node", "kubernetes pod", "owner", "all"),
    pytest.param("logind", marks=pytest.mark.needs("dbus")),
)


@pytest_asyncio.fixture(params=KINDS)
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:

        async def serve(service: Service) -> Any:
            return await stack.enter_async_context(service.serve())

        match request.param:
            case "aws":
                aws = await serve(AwsService())
                yield of_service(Aws(aws.url, every=0.02), aws)
            case "google":
                google = await serve(GoogleService())
                yield of_service(Google(google.url), google)
            case "azure":
                azure = await serve(AzureService())
                yield of_service(Azure(azure.url, every=0.02), azure)
            case "kubernetes node":
                node = await serve(NodeOfCluster())
                yield of_service(KubernetesWatch("node", node.place), node)
            case "kubernetes pod":
                pod = await serve(PodOfCluster())
                yield of_service(KubernetesWatch("pod", pod.place), pod)
            case "logind":
                yield await of_logind(stack, tmp_path)
            case "owner":
                yield of_owner(tmp_path)
            case _:
                quiet, aws = await serve(AzureService()), await serve(AwsService())
                sources = [Azure(quiet.url, every=0.02), Aws(aws.url, every=0.02)]
                one = of_service(Together(sources, first_pause=0.01), aws)
                one.fail = None  # that is what it is for
                yield one


class Watching:
    """Reads a source."""

    def __init__(self, source: NoticeSource) -> None:
        self._said = source.watch()

    async def __aenter__(self) -> Watching:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._said.aclose()  # type: ignore[attr-defined]

    async def next(self) -> frozenset[Notice]:
        return await asyncio.wait_for(anext(self._said), PATIENCE)

    async def until(self, some: bool) -> frozenset[Notice]:
        """Read on until there is some notice, or none."""
        while bool(said := await self.next()) != some:
            pass
        return said


async def test_says_at_once_that_there_is_no_notice(rig: Rig) -> None:
    async with Watching(rig.source) as watching:
        assert await watching.next() == frozenset()


async def test_says_a_notice_with_a_reason_and_a_deadline(rig: Rig) -> None:
    async with Watching(rig.source) as watching:
        assert not await watching.next()
        await rig.give()
        [notice] = await watching.until(True)
        assert notice.reason
        assert notice.left() is not None
        assert 0 < notice.left() <= 60


async def test_says_a_notice_that_was_there_before_it_was_watched(rig: Rig) -> None:
    await rig.give()
    async with Watching(rig.source) as watching:
        assert len(await watching.until(True)) == 1


async def test_a_notice_that_is_missing_is_withdrawn_and_one_that_comes_again_is_said(
    rig: Rig,
) -> None:
    async with Watching(rig.source) as watching:
        await watching.next()
        for _ in range(2):
            await rig.give()
            await watching.until(True)
            await rig.withdraw()
            await watching.until(False)


async def test_one_notice_is_said_once_and_its_deadline_does_not_move(rig: Rig) -> None:
    await rig.give()
    async with Watching(rig.source) as watching:
        first = await watching.until(True)
        await rig.withdraw()
        assert await watching.next() == frozenset()  # nothing was said in between
    await rig.give()
    async with Watching(rig.source) as watching:
        [again] = await watching.until(True)
    assert again not in first or again.deadline is not None
    async with Watching(rig.source) as watching:
        [same] = await watching.until(True)
    assert abs((same.deadline or 0) - (again.deadline or 0)) < 3


async def test_a_source_that_fails_says_so_and_says_all_that_holds_when_asked_again(
    rig: Rig,
) -> None:
    if rig.fail is None:
        return  # it only reads files, or hides failures
    async with Watching(rig.source) as watching:
        await watching.next()
        await rig.fail()
        with pytest.raises(SourceFailed) as failed:
            await watching.next()
        assert str(failed.value)
        assert failed.value.hint
    await rig.heal()
    await rig.give()
    async with Watching(rig.source) as watching:
        assert await watching.until(True)


async def test_closing_it_leaves_nothing_running(rig: Rig) -> None:
    before = asyncio.all_tasks()
    async with Watching(rig.source) as watching:
        await watching.next()
    mine = {task for task in asyncio.all_tasks() - before if "tests/metadata" not in repr(task)}
    _, left = await asyncio.wait(mine, timeout=PATIENCE) if mine else (set(), set())
    assert not left, left


async def test_it_may_be_told_that_nothing_is_left_and_told_again(rig: Rig) -> None:
    async with Watching(rig.source) as watching:
        await rig.give()
        await watching.until(True)
        await rig.source.drained()
        await rig.source.drained()


async def test_a_deadline_is_on_the_clock_of_this_machine(rig: Rig) -> None:
    began = clock()
    await rig.give()
    async with aclosing(rig.source.watch()) as said:  # type: ignore[type-var]
        async for now in said:
            if now:
                break
    [notice] = now
    assert notice.deadline is not None
    assert began < notice.deadline < clock() + 61
