"""A home computer: logind on a real bus of our own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import uvloop
from metadata.login import Login

from sessionkeeper.notices.logind import LogindSource
from sessionkeeper.notices.notice import Notice, SourceFailed
from sessionkeeper.notices.owner import Owner
from sessionkeeper.notices.policy import Policy

pytestmark = pytest.mark.needs("dbus")
PATIENCE = 20.0


@pytest_asyncio.fixture
async def login(tmp_path: Path) -> AsyncIterator[Login]:
    async with Login(tmp_path).serve() as login:
        yield login


async def following(said: AsyncIterator[frozenset[Notice]]) -> frozenset[Notice]:
    return await asyncio.wait_for(anext(said), PATIENCE)


@pytest.mark.parametrize(
    ("what", "words"), [("shutdown", "it is being switched off"), ("sleep", "it goes to sleep")]
)
async def test_the_machine_waits_until_nothing_is_left_and_no_longer(
    login: Login, what: str, words: str
) -> None:
    source = LogindSource(login.address)
    said = source.watch()
    assert await following(said) == frozenset()
    assert list(login.manager.inhibitors.values()) == [("shutdown:sleep", "delay")]
    login.manager.prepare(what, True)
    [notice] = await following(said)
    assert notice.reason == words
    assert 3 < (notice.left() or 0) <= 5  # InhibitDelayMaxUSec
    assert login.manager.inhibitors
    await source.drained()
    await login.manager.until(lambda: not login.manager.inhibitors)
    await said.aclose()


def test_it_works_on_the_event_loop_that_agents_have(tmp_path: Path) -> None:
    async def main() -> None:
        async with Login(tmp_path).serve() as login:
            source = LogindSource(login.address)
            said = source.watch()
            await following(said)
            login.manager.prepare("sleep", True)
            assert await following(said)
            await source.drained()
            await login.manager.until(lambda: not login.manager.inhibitors)
            await said.aclose()

    uvloop.run(main())


async def test_a_machine_that_wakes_up_is_held_again_when_it_goes_to_sleep_again(
    login: Login,
) -> None:
    source = LogindSource(login.address)
    said = source.watch()
    await following(said)
    for _ in range(3):
        login.manager.prepare("sleep", True)
        assert await following(said)
        await source.drained()
        await login.manager.until(lambda: not login.manager.inhibitors)
        login.manager.prepare("sleep", False)
        assert await following(said) == frozenset()
        assert len(login.manager.inhibitors) == 1
    await said.aclose()
    await login.manager.until(lambda: not login.manager.inhibitors)


async def test_a_shutdown_that_began_before_we_listened_is_said(login: Login) -> None:
    login.manager.preparing["shutdown"] = True
    said = LogindSource(login.address).watch()
    assert len(await following(said)) == 1
    await said.aclose()


async def test_nobody_but_logind_can_say_that_the_machine_goes(login: Login) -> None:
    said = LogindSource(login.address).watch()
    await following(said)
    await login.lie()
    login.manager.prepare("sleep", True)
    [notice] = await following(said)
    assert notice.reason == "it goes to sleep"
    await said.aclose()


async def test_a_refused_inhibitor_is_a_failure_with_the_words_of_logind(login: Login) -> None:
    login.manager.refuses = True
    with pytest.raises(SourceFailed, match="Permission denied"):
        await following(LogindSource(login.address).watch())


async def test_a_bus_that_ends_is_a_failure(login: Login) -> None:
    said = LogindSource(login.address).watch()
    await following(said)
    waiting = asyncio.ensure_future(anext(said))
    await login.stop()
    with pytest.raises(SourceFailed, match="has ended"):
        await asyncio.wait_for(waiting, PATIENCE)


async def test_no_bus_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(SourceFailed, match="no system bus"):
        await following(LogindSource(f"unix:path={tmp_path}/nothing").watch())


async def test_owner_who_comes_back_gets_the_machine_within_a_minute(login: Login) -> None:
    owner = Owner(Policy(away=True), address=login.address, every=0.02)
    said = owner.watch()
    assert await following(said) == frozenset()
    login.manager.idle = False
    [notice] = await following(said)
    assert notice.reason == "its owner is using it"
    assert 50 < (notice.left() or 0) <= 60
    login.manager.idle = True
    assert await following(said) == frozenset()
    await said.aclose()
