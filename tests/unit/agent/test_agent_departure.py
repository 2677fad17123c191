"""What an agent makes of notices: the gateway is told, and who gave notice hears the end of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sessionkeeper.agent.departure import Departure
from sessionkeeper.agent.ledger import clock
from sessionkeeper.notices.notice import Notice

PATIENCE = 20.0


class Told:
    """A source that says what it is told to, a gateway that writes down what it hears, and a node
    that is empty when it is told to be.
    """

    name = "told"

    def __init__(self) -> None:
        self.words: asyncio.Queue[frozenset[Notice]] = asyncio.Queue()
        self.heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.ends: asyncio.Queue[None] = asyncio.Queue()
        self.empty = False
        self.departure = Departure(self, self.heard.put_nowait, lambda: self.empty)

    async def watch(self) -> AsyncIterator[frozenset[Notice]]:
        while True:
            yield await self.words.get()

    async def drained(self) -> None:
        self.ends.put_nowait(None)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[Told]:
        running = asyncio.create_task(self.departure.run())
        try:
            yield self
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def say(self, *notices: Notice) -> dict[str, Any]:
        """The source says this; what the gateway hears."""
        self.words.put_nowait(frozenset(notices))
        return await asyncio.wait_for(self.heard.get(), PATIENCE)


def notice(seconds: float, source: str = "aws") -> Notice:
    return Notice(source, f"{source} takes it", clock() + seconds)


async def test_the_gateway_hears_that_there_is_none_then_a_notice_then_that_it_is_withdrawn():
    async with Told().run() as node:
        assert await node.say() == {"event": "notice", "reason": None, "seconds": None}
        event = await node.say(notice(100))
        assert event["reason"] == "aws takes it"
        assert 90 < event["seconds"] <= 100
        assert (await node.say())["reason"] is None


async def test_the_gateway_hears_of_the_earliest_and_of_nothing_that_changes_nothing():
    async with Told().run() as node:
        early, late = notice(50, "azure"), notice(500)
        assert (await node.say(late))["reason"] == "aws takes it"
        assert (await node.say(late, early))["reason"] == "azure takes it"
        node.words.put_nowait(frozenset({early}))  # the later one is withdrawn: nothing to say
        assert (await node.say(late))["reason"] == "aws takes it"
        assert node.heard.empty()


async def test_a_gateway_that_comes_back_is_told_again_and_one_is_not_told_what_is_unknown():
    async with Told().run() as node:
        node.departure.connected()
        assert node.heard.empty()
        await node.say(notice(100))
        node.departure.connected()
        assert (await node.heard.get())["reason"] == "aws takes it"


async def test_who_gave_notice_hears_the_end_when_the_node_is_empty_and_the_gateway_knows():
    async with Told().run() as node:
        before = clock()
        await node.say(notice(100))
        node.empty = True
        node.departure.leased(before)  # an answer to what was sent before the notice
        node.departure.leased(before)
        assert node.ends.empty()
        node.empty = False
        node.departure.leased(clock())  # the gateway knows, but something is still here
        await asyncio.sleep(0)
        assert node.ends.empty()
        node.empty = True
        node.departure.leased(clock())
        await asyncio.wait_for(node.ends.get(), PATIENCE)
        node.departure.leased(clock())  # once is enough
        assert (await node.say())["reason"] is None
        assert node.ends.empty()


async def test_each_notice_has_an_end_of_its_own():
    async with Told().run() as node:
        node.empty = True
        for _ in range(2):
            await node.say(notice(100))
            node.departure.leased(clock())
            await asyncio.wait_for(node.ends.get(), PATIENCE)
            await node.say()
