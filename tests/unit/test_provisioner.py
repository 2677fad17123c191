"""Compute is started and stopped as sessions want it, whatever the backend answers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from sessionkeeper.agent.ledger import clock
from sessionkeeper.compute.backend import Compute, ComputeFailed, ComputeRefused, Found
from sessionkeeper.compute.plan import Rules, Wish, is_compute
from sessionkeeper.compute.provisioner import Provisioner
from sessionkeeper.compute.tokens import name_of, token_for
from sessionkeeper.keeper.nodes import Nodes
from sessionkeeper.keeper.reserved import NOBODY, Reserved
from sessionkeeper.leases import Leases
from sessionkeeper.notices.notice import Notice
from sessionkeeper.registration import Registration

PATIENCE = 20.0
ANN = Registration("ann", tiers=("spot", "on-demand"))
RULES = Rules({"spot": 60.0, "on-demand": 60.0}, grace=0.05)


class Machines:
    """A backend in memory. `answers`: what the next calls raise; None: nothing."""

    tiers: Mapping[str, float] = {"spot": 60.0, "on-demand": 60.0}

    def __init__(self) -> None:
        self.there: dict[str, Found] = {}
        self.calls: list[tuple[str, str]] = []
        self.answers: deque[ComputeFailed | None] = deque()
        self.changed = asyncio.Condition()

    async def start(self, wanted: Compute) -> None:
        self._asked("start", wanted.name)
        self.last = wanted
        await self.put(Found(wanted.name, wanted.session, wanted.tier, "starting"))

    async def stop(self, name: str, *, at_once: bool = False) -> None:
        self._asked("stop", name)
        async with self.changed:
            self.there.pop(name, None)
            self.changed.notify_all()

    async def prepare(self, images: frozenset[str]) -> None: ...

    async def close(self) -> None: ...

    async def watch(self) -> AsyncGenerator[Mapping[str, Found], None]:
        said: Mapping[str, Found] | None = None
        while True:
            if self.there != said:
                said = dict(self.there)
                yield said
            async with self.changed:
                await self.changed.wait_for(lambda before=said: self.there != before)

    def _asked(self, what: str, name: str) -> None:
        self.calls.append((what, name))
        if self.answers and (error := self.answers.popleft()) is not None:
            raise error

    async def put(self, one: Found) -> None:
        async with self.changed:
            self.there = {**self.there, one.name: one}
            self.changed.notify_all()

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.01)


class Gateway:
    def __init__(self) -> None:
        self.machines = Machines()
        self.nodes = Nodes(Leases(2.0), lambda node: None)
        self.nodes.pool.reserved = Reserved(is_compute)
        self.wishes: list[Wish] = []
        self.told: list[tuple[str, str | None]] = []
        self.provisioner = Provisioner(
            self.machines,
            self.nodes,
            lambda: self.wishes,
            lambda session, text: self.told.append((session, text)),
            "secret",
            "gateway",
            RULES,
        )

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Gateway, None]:
        task = asyncio.create_task(self.provisioner.run())
        yield self
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def want(self, *wishes: Wish) -> None:
        self.wishes = list(wishes)
        self.provisioner.wake()

    def join(self, name: str) -> Any:
        return self.nodes.joined(Quiet(), {"node": name, "instance": "1", "tier": "spot"})


class Quiet:
    async def call(self, method: str, params: dict[str, Any], wait: float) -> Any: ...
    def send_frame(self, kernel_id: str, frame: bytes) -> None: ...
    def send_event(self, event: dict[str, Any]) -> None: ...
    def close(self, reason: str, /) -> None: ...


async def test_what_a_session_waits_for_is_started_once_and_is_its_alone() -> None:
    async with Gateway().running() as gateway:
        gateway.want(Wish(ANN, needs=True))
        await gateway.machines.until(lambda: gateway.machines.there)
        [name] = gateway.machines.there
        gateway.provisioner.wake()
        await gateway.machines.until(lambda: gateway.nodes.pool.reserved.of(name) == "ann")
        node = gateway.join(name)
        assert node.facts().only == "ann"
        assert gateway.machines.last.token == token_for("secret", name)
        assert [what for what, _ in gateway.machines.calls] == ["start"]


async def test_a_node_of_a_session_that_is_not_known_yet_is_nobodys() -> None:
    gateway = Gateway()
    assert gateway.join("sk-ann-0123abcd-1").facts().only == NOBODY
    assert gateway.join("node-1").facts().only is None


async def test_what_the_cluster_says_of_a_node_is_a_notice_and_is_taken_back() -> None:
    async with Gateway().running() as gateway:
        gateway.want(Wish(ANN, needs=True))
        await gateway.machines.until(lambda: gateway.machines.there)
        [one] = gateway.machines.there.values()
        node = gateway.join(one.name)
        gateway.want(Wish(ANN, needs=False, on=one.name))
        running = replace(one, phase="running")
        leaves = Notice("kubernetes node", "the cluster autoscaler removes it", clock() + 25)
        await gateway.machines.put(replace(running, notice=leaves))
        await gateway.machines.until(lambda: node.draining)
        assert "the cluster autoscaler removes it" in node.notice
        await gateway.machines.put(running)
        await gateway.machines.until(lambda: not node.draining)


async def test_an_api_that_limits_is_left_alone_for_as_long_as_it_says() -> None:
    async with Gateway().running() as gateway:
        gateway.machines.answers.append(ComputeFailed("too many requests", after=0.5))
        began = asyncio.get_running_loop().time()
        gateway.want(Wish(ANN, needs=True))
        await gateway.machines.until(lambda: len(gateway.machines.calls) == 2)
        assert asyncio.get_running_loop().time() - began >= 0.5


async def test_a_tier_that_refuses_is_followed_by_the_next_one() -> None:
    async with Gateway().running() as gateway:
        gateway.machines.answers.append(ComputeRefused("there is no quota for it"))
        gateway.want(Wish(ANN, needs=True))
        await gateway.machines.until(lambda: gateway.machines.there)
        [one] = gateway.machines.there.values()
        assert one.tier == "on-demand"


async def test_who_waits_is_told_why_in_the_clusters_words_until_it_runs() -> None:
    async with Gateway().running() as gateway:
        gateway.want(Wish(ANN, needs=True))
        await gateway.machines.until(lambda: gateway.machines.there)
        [one] = gateway.machines.there.values()
        await gateway.machines.put(replace(one, why="0/3 nodes are available"))
        await gateway.machines.until(lambda: gateway.told)
        assert gateway.told == [("ann", f"{one.name} does not run yet: 0/3 nodes are available")]
        await gateway.machines.put(replace(one, phase="running"))
        await gateway.machines.until(lambda: len(gateway.told) == 2)
        assert gateway.told[1] == ("ann", None)


async def test_what_nobody_wants_any_more_is_stopped() -> None:
    async with Gateway().running() as gateway:
        gateway.want(Wish(ANN, needs=True))
        await gateway.machines.until(lambda: gateway.machines.there)
        gateway.want()
        await gateway.machines.until(lambda: not gateway.machines.there)


@pytest.mark.parametrize(
    "token", ["", ".", "secret", "sk-a-1.", f"sk-b-1.{token_for('secret', 'sk-a-1')[7:]}"]
)
def test_a_token_is_good_for_one_name_alone(token: str) -> None:
    assert name_of("secret", token_for("secret", "sk-a-1")) == "sk-a-1"
    assert name_of("another", token_for("secret", "sk-a-1")) is None
    assert name_of("secret", token) is None


def test_who_waits_for_its_node_looks_again_when_it_is_known_whose_that_is() -> None:
    """The agent of a pod may be back before the cluster has told the new gateway of the pod."""
    looked: list[str | None] = []
    reserved = Reserved(is_compute, lambda: looked.append(reserved.of("sk-ann-0123abcd-1")))
    reserved.are({"sk-ann-0123abcd-1": "ann"})
    reserved.are({"sk-ann-0123abcd-1": "ann"})
    assert looked == ["ann"]
