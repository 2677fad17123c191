"""Nodes and their leases, on a clock of the tests' own: nothing here waits."""

from __future__ import annotations

import asyncio
import heapq
import selectors
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import AgentGone
from sessionkeeper.errors import UnknownNode
from sessionkeeper.keeper.node import NameTaken, Node, NodeLost
from sessionkeeper.keeper.nodes import STALL, Nodes
from sessionkeeper.keeper.notices import Notices
from sessionkeeper.leases import Leases

T = TypeVar("T")
LEASE = 4.0


class Skipping(selectors.DefaultSelector):
    """Has nothing to wait for, so time passes at once."""

    now = 100.0

    def select(self, timeout: float | None = None) -> list[Any]:
        found = super().select(0)
        if not found and timeout:
            self.now += timeout
        return found


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time passes when there is nothing left to do."""

    def __init__(self) -> None:
        self.skipping = Skipping()
        super().__init__(self.skipping)

    def time(self) -> float:
        return self.skipping.now

    def stall(self, seconds: float) -> None:
        """This process does nothing for so long."""
        self.skipping.now += seconds


def on_clock(work: Callable[[Clock], Awaitable[T]]) -> T:
    clock = Clock()
    try:
        return clock.run_until_complete(work(clock))  # type: ignore[arg-type]
    finally:
        clock.close()


class Wire:
    """The gateway's end of an agent's connection."""

    def __init__(self, answers: Callable[[str], Awaitable[Any]] | None = None) -> None:
        self.answers = answers
        self.events: list[dict[str, Any]] = []
        self.closed: list[str] = []

    async def call(self, method: str, params: dict[str, Any], wait: float) -> Any:
        if self.answers is None:
            raise AgentGone("nobody answers")
        return await self.answers(method)

    def send_frame(self, kernel_id: str, frame: bytes) -> None:
        """Nobody reads it."""

    def send_event(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def close(self, reason: str, /) -> None:
        self.closed.append(reason)


class Watched(Nodes):
    """Nodes, and the states each was in."""

    def __init__(self, notices: Notices | None = None) -> None:
        self.states: list[tuple[str, str]] = []
        super().__init__(
            Leases(LEASE), lambda node: self.states.append((node.name, node.state)), notices
        )


def hello(name: str = "a", **more: Any) -> dict[str, Any]:
    return {"node": name, "instance": f"{name}-1", **more}


def test_silent_node_is_suspect_then_lost_and_both_are_told() -> None:
    async def work(clock: Clock) -> None:
        nodes, wire = Watched(), Wire()
        node = nodes.joined(wire, hello())
        began = clock.time()
        await node.gone
        assert clock.time() - began == pytest.approx(LEASE, abs=0.05)
        assert nodes.states == [("a", "ready"), ("a", "suspect"), ("a", "lost")]
        assert wire.closed == ["your lease is over"]
        assert not node.facts().ready

    on_clock(work)


def test_heard_again_it_is_not_suspect_any_more() -> None:
    async def work(clock: Clock) -> None:
        nodes = Watched()
        node = nodes.joined(Wire(), hello())
        await asyncio.sleep(LEASE / 2)
        assert node.state == "suspect"
        assert not node.facts().ready
        nodes.heard(node)
        assert (node.state, node.facts().ready) == ("ready", True)
        await asyncio.sleep(LEASE * 0.9)
        assert not node.gone.done()
        await node.gone

    on_clock(work)


def test_notice_outlives_the_gateway_and_not_the_node(tmp_path: Path) -> None:
    file = tmp_path / "notices.json"

    async def given(clock: Clock) -> None:
        nodes = Watched(Notices(file))
        nodes.drain(nodes.joined(Wire(), hello()), 30.0)

    async def restarted(clock: Clock) -> None:
        nodes = Watched(Notices(file))
        nodes.expect("a")
        node = nodes.joined(Wire(), hello())
        assert node.state == "draining"
        assert node.leaves_at - clock.time() == pytest.approx(30.0, abs=5.0)
        assert nodes.joined(Wire(), hello("b")).state == "ready"
        await node.gone

    async def made_anew(clock: Clock) -> None:
        assert Watched(Notices(file)).joined(Wire(), hello()).state == "ready"

    for work in (given, restarted, made_anew):
        on_clock(work)


def test_notice_is_for_one_life_of_a_node_and_can_be_withdrawn(tmp_path: Path) -> None:
    file = tmp_path / "notices.json"

    async def work(clock: Clock) -> None:
        before = Watched(Notices(file))
        before.drain(before.joined(Wire(), hello("a")), 30.0)
        stays = before.joined(Wire(), hello("b"))
        before.drain(stays, 30.0)
        before.uncordon(stays)
        assert stays.state == "ready"
        after = Watched(Notices(file))
        another = {"node": "a", "instance": "a-2"}
        assert after.joined(Wire(), another).state == "ready"
        assert after.joined(Wire(), hello("b")).state == "ready"

    on_clock(work)


def test_connection_that_ends_does_not_end_the_lease() -> None:
    async def work(clock: Clock) -> None:
        nodes, first, second = Watched(), Wire(), Wire()
        node = nodes.joined(first, hello())
        nodes.disconnected(node, first)
        assert not node.facts().ready
        assert nodes.joined(second, hello()) is node
        nodes.disconnected(node, first)  # told late of the old one
        assert node.connection is second

    on_clock(work)


def test_lost_node_that_comes_back_is_a_new_one() -> None:
    async def work(clock: Clock) -> None:
        nodes = Watched()
        node = nodes.joined(Wire(), hello())
        await node.gone
        again = nodes.joined(Wire(), hello())
        assert again is not node
        assert nodes.get("a") is again
        assert again.ready

    on_clock(work)


def test_two_machines_of_one_name_the_second_waits_for_the_firsts_lease() -> None:
    async def work(clock: Clock) -> None:
        nodes = Watched()
        node = nodes.joined(Wire(), hello())
        with pytest.raises(NameTaken, match="another node a") as refused:
            nodes.joined(Wire(), hello(instance="another machine"))
        assert refused.value.retryable
        assert refused.value.hint
        await node.gone
        assert nodes.joined(Wire(), hello(instance="another machine")).ready

    on_clock(work)


def test_node_expected_after_a_restart_has_one_lease_to_come_back() -> None:
    async def work(clock: Clock) -> None:
        nodes = Watched()
        nodes.expect("a")
        nodes.expect("b")
        back = nodes.joined(Wire(), hello("b"))
        await nodes.get("a").gone
        assert nodes.get("b") is back
        assert clock.time() == pytest.approx(100.0 + LEASE, abs=0.05)

    on_clock(work)


def test_unknown_node_is_refused_with_the_names_there_are() -> None:
    async def work(clock: Clock) -> None:
        nodes = Watched()
        with pytest.raises(UnknownNode) as none:
            nodes.get("x")
        assert none.value.hint == "nodes: none"
        nodes.joined(Wire(), hello("b"))
        nodes.joined(Wire(), hello("a"))
        with pytest.raises(UnknownNode, match="'x'") as known:
            nodes.get("x")
        assert known.value.hint == "nodes: a, b"

    on_clock(work)


def test_a_gateway_that_stood_still_does_not_blame_the_nodes() -> None:
    async def work(clock: Clock) -> None:
        nodes = Watched()
        node = nodes.joined(Wire(), hello())
        for silent in (0.0, 0.1, 0.5, 0.95):
            await asyncio.sleep(silent * LEASE)
            clock.stall(10 * LEASE)
            await asyncio.sleep(STALL / 2)
            nodes.heard(node)  # what had been sent meanwhile is read now
        assert not node.gone.done()
        began = clock.time()
        await node.gone  # but a node that is silent now is lost all the same
        assert clock.time() - began <= LEASE + 0.1

    on_clock(work)


def test_a_gateway_that_is_about_to_stand_still_tells_agents_before_their_leases_end() -> None:
    async def work(clock: Clock) -> None:
        nodes, wire = Watched(), Wire()
        node = nodes.joined(wire, hello())
        nodes.stand_still(20.0)
        assert wire.events == []  # there is no heartbeat yet that could be answered
        nodes.heard(node)
        node.beat = 7.0
        began = clock.time()
        nodes.stand_still(20.0)
        assert wire.events == [{"event": "lease", "sent": 7.0, "seconds": LEASE + 20.0}]
        await node.gone
        # Its agent has ended what it has by then.
        assert clock.time() - began >= LEASE + 20.0

    on_clock(work)


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_leases_do_not_care_what_time_it_is(jump: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody sets the clock, or NTP does."""

    async def work(clock: Clock) -> None:
        nodes = Watched()
        node = nodes.joined(Wire(), hello())
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + jump)
        began = clock.time()
        await node.gone
        assert clock.time() - began == pytest.approx(LEASE, abs=0.05)

    on_clock(work)


def test_lease_is_that_of_the_nodes_tier_also_for_who_is_started_after_us(tmp_path: Path) -> None:
    leases = Leases(LEASE, (("volunteer", 3 * LEASE),))

    async def granted(clock: Clock) -> None:
        nodes = Nodes(leases, lambda node: None, granted=tmp_path / "leases.json")
        assert nodes.joined(Wire(), hello("home", tier="volunteer")).lease == 3 * LEASE
        assert nodes.joined(Wire(), hello("near")).lease == LEASE

    async def expected(clock: Clock) -> None:
        nodes = Nodes(leases, lambda node: None, granted=tmp_path / "leases.json")
        for name, lease in (("home", 3 * LEASE), ("near", LEASE), ("unknown", LEASE)):
            began = clock.time()
            nodes.expect(name)
            await nodes.get(name).gone
            assert clock.time() - began == pytest.approx(lease, abs=0.05)

    on_clock(granted)
    on_clock(expected)


def test_cordoned_node_keeps_what_it_has_and_gets_nothing_new() -> None:
    async def work(clock: Clock) -> None:
        nodes = Watched()
        node = nodes.joined(Wire(), hello())
        nodes.cordon(node)
        assert (node.state, node.facts().ready, node.draining) == ("cordoned", False, False)
        nodes.uncordon(node)
        assert node.facts().ready
        assert not nodes.joined(Wire(), hello("b"), cordoned=True).facts().ready

    on_clock(work)


def test_a_lost_node_is_found_out_however_busy_the_gateway_is() -> None:
    async def work(clock: Clock) -> None:
        nodes = Watched()
        node = nodes.joined(Wire(), hello())
        node.beat, began = 7.0, clock.time()
        while not node.gone.done():
            nodes.stand_still(1.0)
            await asyncio.sleep(0.1)
        assert clock.time() - began < LEASE + 1.5

    on_clock(work)


def test_a_call_ends_as_soon_as_the_node_is_lost() -> None:
    async def work(clock: Clock) -> None:
        cancelled = asyncio.Event()

        async def never(method: str) -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                cancelled.set()

        nodes = Watched()
        node = nodes.joined(Wire(never), hello())
        with pytest.raises(NodeLost, match="a is lost"):
            await node.call("session.open", {})
        assert clock.time() == pytest.approx(100.0 + LEASE, abs=0.05)
        await cancelled.wait()

    on_clock(work)


def test_an_agent_that_is_away_is_asked_when_it_is_back() -> None:
    async def work(clock: Clock) -> None:
        async def answer(method: str) -> str:
            return f"{method} by the new one"

        nodes, first = Watched(), Wire()
        node = nodes.joined(first, hello())
        nodes.disconnected(node, first)
        asked = asyncio.ensure_future(node.call("session.status", {}))
        await asyncio.sleep(LEASE / 8)
        assert not asked.done()
        nodes.joined(Wire(answer), hello())
        assert await asked == "session.status by the new one"
        # And while it stays away, whoever asks leaves the event loop its turn, until it is lost.
        nodes.disconnected(node, node.connection)  # type: ignore[arg-type]
        with pytest.raises(NodeLost):
            await node.call("session.status", {})

    on_clock(work)


def test_a_call_that_is_given_up_is_not_left_behind() -> None:
    async def work(clock: Clock) -> None:
        ended = asyncio.Event()

        async def never(method: str) -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.set()

        node = Watched().joined(Wire(never), hello())
        asked = asyncio.ensure_future(node.call("session.stage", {}))
        await asyncio.sleep(0.1)
        asked.cancel()
        async with asyncio.timeout(LEASE / 4):
            await ended.wait()

    on_clock(work)


class Agent:
    """An agent's lease as docs/architecture.md has it, on a clock with another zero."""

    def __init__(self, clock: Clock, ahead: float) -> None:
        self._clock = clock
        self._ahead = ahead
        self.until = float("-inf")

    def now(self) -> float:
        return self._clock.time() + self._ahead

    def granted(self, event: dict[str, Any]) -> None:
        self.until = max(self.until, event["sent"] + event["seconds"])

    def ends(self) -> float:
        """When the lease ends, on everybody's clock."""
        return self.until - self._ahead


@given(
    out=st.lists(st.floats(0, 6), min_size=1, max_size=40),
    back=st.lists(st.floats(0, 6), min_size=1, max_size=40),
    ahead=st.floats(-1e4, 1e4),
    stalls=st.dictionaries(st.integers(0, 30), st.floats(0, 10), max_size=3),
)
@settings(deadline=None)
def test_agents_lease_ends_before_its_node_is_lost(
    out: list[float], back: list[float], ahead: float, stalls: dict[int, float]
) -> None:
    """Whatever the network delays, and however long the gateway stands still."""

    async def work(clock: Clock) -> None:
        nodes, agent = Watched(), Agent(clock, ahead)
        node = nodes.joined(Wire(), hello())
        answers: list[tuple[float, int, dict[str, Any]]] = []

        def received(beat: int, sent: float) -> None:
            if node.gone.done():
                return
            nodes.heard(node)
            lease = {"sent": sent, "seconds": node.lease}
            heapq.heappush(answers, (clock.time() + back[beat % len(back)], beat, lease))

        async def beats() -> None:
            for beat, delay in enumerate(out):
                sent = agent.now()
                clock.call_later(delay, received, beat, sent)
                if beat in stalls:
                    clock.stall(stalls[beat])
                await asyncio.sleep(LEASE / 8)

        await asyncio.gather(beats(), node.gone)
        lost = clock.time()
        while answers:
            _, _, lease = heapq.heappop(answers)
            agent.granted(lease)  # even those that were still on their way
        assert agent.ends() <= lost + 1e-6

    on_clock(work)


def test_stalls_that_are_ordinary_are_not_made_up_for() -> None:
    async def work(clock: Clock) -> None:
        node = Watched().joined(Wire(), hello())
        await asyncio.sleep(0)
        clock.stall(STALL / 2)
        began = clock.time()
        await node.gone
        assert clock.time() - began <= LEASE

    on_clock(work)


def test_report_has_what_the_command_line_shows() -> None:
    async def work(clock: Clock) -> list[dict[str, Any]]:
        nodes = Watched()
        node: Node = nodes.joined(Wire(), hello(tier="spot", runtime="container"))
        node.hosting |= {"z", "b"}
        nodes.left(nodes.joined(Wire(), hello("b")))
        return nodes.report()

    one, other = on_clock(work)
    assert (one["name"], one["state"], one["tier"]) == ("a", "ready", "spot")
    assert (one["runtime"], one["sessions"]) == ("container", ["b", "z"])
    assert (other["name"], other["state"]) == ("b", "lost")
