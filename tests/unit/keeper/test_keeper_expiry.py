"""Sessions beyond their limits are warned of, in their status and in the list, and then deleted."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from checkpoint.blobs import Memory
from checkpoint.errors import UnknownSession
from checkpoint.keys import MasterKey
from checkpoint.manifest import Body, Manifest
from checkpoint.repository import Repository
from sessionkeeper.expiry import Limits
from sessionkeeper.keeper.blobs import Grants
from sessionkeeper.keeper.expiring import FILE, Expiry
from sessionkeeper.keeper.kept import Around
from sessionkeeper.keeper.nodes import Nodes
from sessionkeeper.keeper.register import Register
from sessionkeeper.keeper.sessions import Sessions
from sessionkeeper.keeper.whereto import Line
from sessionkeeper.leases import NEAR
from sessionkeeper.registration import Registration
from sessionkeeper.retention import FOREVER

MASTER = MasterKey(bytes(32))
GRACE = 100.0
LIMITS = Limits(unused=3600.0, stored=1000, grace=GRACE)
OWN = "own"


class Gateway:
    """Sessions on a store in memory, and clocks that are told the time."""

    def __init__(self, state: Path, store: Memory, now: float) -> None:
        nodes = Nodes(NEAR, lambda node: None)
        around = Around(nodes, Grants(), Line(nodes), "replay", FOREVER, None, None)
        self.store = store
        self.now, self.ticks = now, 0.0
        self.state = state
        self.sessions = Sessions(Register(state, store, MASTER), around)
        self.closed: list[str] = []
        self.expiry = Expiry(
            self.sessions, LIMITS, OWN, self._close, lambda: self.now, lambda: self.ticks
        )

    async def _close(self, session: str) -> None:
        self.closed.append(session)

    async def start(self) -> None:
        own = await asyncio.to_thread(Repository.open, self.store, OWN, MASTER)
        await self.sessions.start(own)

    async def look(self, after: float = 0.0) -> None:
        self.now += after
        self.ticks += after
        await self.expiry.look()

    async def end(self) -> None:
        await self.sessions.end()

    def there(self, name: str) -> bool:
        try:
            Repository.existing(self.store, name, MASTER)
        except UnknownSession:
            return False
        return True

    async def told(self, name: str) -> tuple[str, object]:
        """What the session's status warns of, and what the list of sessions says."""
        warnings = self.sessions.find(name).keeper.status.json()["warnings"]  # type: ignore[union-attr]
        listed = next(one for one in await self.sessions.listed() if one["name"] == name)
        return "; ".join(warnings), listed["expires"]


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    one = Gateway(tmp_path, Memory(), time.time())
    await one.start()
    await one.sessions.create(Registration("course", created=one.now))
    yield one
    await one.end()


async def test_a_session_that_nobody_uses_is_warned_of_and_then_deleted(gateway: Gateway) -> None:
    await gateway.look()
    assert await gateway.told("course") == ("", None)
    await gateway.look(3601)
    said, listed = await gateway.told("course")
    assert "will be deleted" in said
    assert listed == {"goes": "session", "why": "unused", "seconds": GRACE, "text": said}
    await gateway.look(GRACE - 1)
    assert gateway.there("course")
    await gateway.look(1)
    assert not gateway.there("course")
    assert gateway.sessions.find("course") is None
    assert gateway.closed == ["course"]


async def test_a_file_that_is_saved_keeps_the_session(gateway: Gateway) -> None:
    await gateway.look()
    await gateway.look(3601)
    kept = gateway.sessions.find("course")
    assert kept is not None
    await kept.workspace.change("mkdir", "notes")
    await gateway.look(60)
    assert await gateway.told("course") == ("", None)
    await gateway.look(GRACE)
    assert gateway.there("course")


async def test_a_gateway_that_was_off_for_a_month_goes_on_with_the_grace(gateway: Gateway) -> None:
    await gateway.look()
    await gateway.look(3601)
    await gateway.look(60)
    await gateway.end()
    again = Gateway(gateway.state, gateway.store, gateway.now + 30 * 86400)
    await again.start()
    try:
        await again.look()
        assert again.there("course")
        assert (await again.told("course"))[1]["seconds"] == GRACE - 60  # type: ignore[index]
        await again.look(GRACE - 61)
        assert again.there("course")
        await again.look(1)
        assert not again.there("course")
    finally:
        await again.end()


async def test_a_clock_that_was_wrong_for_a_while_deletes_nothing(gateway: Gateway) -> None:
    await gateway.look()
    gateway.now += 1e9
    await gateway.look(1)
    assert "will be deleted" in (await gateway.told("course"))[0]
    gateway.now -= 1e9
    await gateway.look(GRACE)
    assert await gateway.told("course") == ("", None)
    assert gateway.there("course")


async def test_what_is_noted_and_cannot_be_read_is_time_that_begins_anew(gateway: Gateway) -> None:
    await gateway.look()
    await gateway.look(3601)
    (gateway.state / "course" / FILE).write_text("{")
    await gateway.look(GRACE)
    assert gateway.there("course")


async def test_the_session_that_the_gateway_was_started_with_stays(gateway: Gateway) -> None:
    await gateway.look()
    await gateway.look(3601)
    await gateway.look(GRACE)
    assert gateway.there(OWN)


async def test_what_is_too_large_loses_its_older_checkpoints_first(gateway: Gateway) -> None:
    await gateway.end()
    repository = Repository.existing(gateway.store, "course", MASTER)
    for number in (1, 2, 3):
        with repository.writer(None) as writer:
            writer.add(secrets.token_bytes(400))
            packs = writer.finish()
        body = Body(packs)
        repository.commit(Manifest(number, 1, number - 1 or None, gateway.now + number, body))
    sizes = [sum(p.size for p in repository.load(n).packs) for n in (1, 2, 3)]
    again = Gateway(gateway.state, gateway.store, gateway.now)
    assert sizes[2] < LIMITS.stored < sum(sizes)  # type: ignore[operator]
    await again.start()
    try:
        await again.look()
        said, listed = await again.told("course")
        assert "all but the newest" in said
        assert listed["goes"] == "checkpoints"  # type: ignore[index]
        await again.look(GRACE - 1)
        assert len(repository.numbers()) >= 3
        await again.look(1)
        assert len(repository.numbers()) == 1
        await again.look(60)
        assert await again.told("course") == ("", None)
        assert again.there("course")
    finally:
        await again.end()
