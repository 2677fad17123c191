"""The agent: offers one node's compute to a gateway, and does what the gateway's keeper asks for.

It dials out, so it works behind NAT. While it holds a lease its kernels run. A lease is counted
on the agent's own monotonic clock from when the heartbeat that was answered was *sent*; when it
ends, the agent ends its kernels: by then, or soon, another node has the session.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import Any

from gateway.dial import AgentLink
from gateway.errors import AgentGone, GatewayError
from sessionkeeper.agent.departure import Departure
from sessionkeeper.agent.ledger import Ledger, clock
from sessionkeeper.agent.membership import Membership, is_address
from sessionkeeper.agent.offer import Offer, machine, memory
from sessionkeeper.agent.tenancies import Tenancies
from sessionkeeper.agent.turns import processors
from sessionkeeper.agent.uplink import Uplink
from sessionkeeper.notices.notice import NoticeSource
from sessionkeeper.settings import AgentSettings
from sessionkeeper.up.ready import announce

log = logging.getLogger(__name__)

NOT_LET_IN = frozenset({"node_revoked", "unauthorized", "wrong_gateway"})
"""What a gateway says to a machine that has joined, and would say again."""

HEARTBEATS_PER_LEASE = 8
FIRST_LEASE = 10.0
LONGEST_BACKOFF = 2.0


class Agent:
    """One node's agent. :meth:`run` dials, serves and dials again until it is cancelled."""

    def __init__(self, settings: AgentSettings, offer: Offer, notices: NoticeSource) -> None:
        self._settings = settings
        self._identity = settings.identity and Membership.load(settings.identity).identity
        self._offer = offer
        self._uplink = Uplink()
        self._early: list[tuple[str, bytes]] = []
        self._ledger = Ledger(settings.data / "ledger")
        self._sessions = Tenancies(settings, offer, self._ledger, self._uplink, self._leased)
        self._methods = self._sessions.methods()
        self._departure = Departure(notices, self._uplink.tell, self._sessions.is_empty)
        self._lease = FIRST_LEASE
        self._until = self._ledger.lease()
        self._granted = asyncio.Event()
        self._adopted = asyncio.Event()

    async def run(self) -> None:
        """Stay connected to the gateway; end everything when cancelled. Raises `GatewayError` when
        a machine that has joined is not let in any more.
        """
        adopting = asyncio.create_task(self._adopt_all())
        guard = asyncio.create_task(self._guard_lease())
        departing = asyncio.create_task(self._departure.run())
        delay = 0.05
        try:
            while True:
                began = clock()
                try:
                    await self._connect_and_serve()
                except (OSError, GatewayError) as error:
                    log.info("no connection to the gateway: %s", error)
                    if self._identity and getattr(error, "code", "") in NOT_LET_IN:
                        raise
                    if isinstance(error.__cause__, ConnectionRefusedError):
                        self._nobody_is_there(began)
                delay = 0.05 if clock() - began > LONGEST_BACKOFF else delay * 2
                jitter = random.uniform(0.5, 1.0)  # noqa: S311
                # Often enough that a lease cannot end between two tries.
                await asyncio.sleep(jitter * min(delay, LONGEST_BACKOFF, self._lease / 4))
        finally:
            adopting.cancel()
            guard.cancel()
            departing.cancel()
            await self._sessions.end_all("the agent stops")

    async def _connect_and_serve(self) -> None:
        self._early = []
        link = await AgentLink.connect(
            self._settings.gateway_url,
            self._identity or self._settings.token,
            await asyncio.to_thread(self._hello),
            on_call=self._called,
            on_event=self._event,
            on_frame=self._frame,
            on_pressure=self._sessions.pressed,
        )
        self._uplink.link = link
        early, self._early = self._early, []
        for address, one in early:
            self._frame(address, one)
        self._sessions.tell_gone()
        self._departure.connected()
        log.info("the gateway has let this node in")
        announce(self._settings.ready_fd)
        beat = asyncio.create_task(self._beat(link))
        try:
            await link.wait_closed()
        finally:
            beat.cancel()
            self._uplink.lost()

    def _hello(self) -> dict[str, Any]:
        return {
            "node": self._settings.node,
            "instance": self._ledger.instance(),
            "tier": self._settings.tier,
            "price": self._settings.price,
            "list_price": self._settings.list_price,
            "runtime": self._settings.runtime,
            "engines": [self._offer.engine],
            "kernelspecs": self._offer.kernelspecs.all(),
            "has_images": self._offer.images_here.here() if self._offer.images_here else [],
            **self._offer.cpu.json(),
            "cores": min(processors(), self._settings.offered_cores or processors()),
            "memory": self._settings.offered_memory or memory(),
            "machine": machine(),
            "sessions": {one["session"]: one["epoch"] for one in self._ledger.sessions()},
        }

    # -- lease ---------------------------------------------------------------------------------

    async def _beat(self, link: AgentLink) -> None:
        with contextlib.suppress(AgentGone):
            while True:
                link.send_event({"event": "heartbeat", "sent": clock()})
                await asyncio.sleep(self._lease / HEARTBEATS_PER_LEASE)

    def _event(self, event: dict[str, Any]) -> None:
        if event.get("event") == "lease":
            self._lease = float(event["seconds"])
            self._until = max(self._until, float(event["sent"]) + self._lease)
            self._ledger.granted(self._until)
            self._granted.set()
            self._departure.leased(float(event["sent"]))

    def _nobody_is_there(self, asked: float) -> None:
        """The gateway's port was closed when we ``asked``: no gateway runs, so none has given our
        sessions away, and the next one waits for a whole lease before it does. If ours has not
        ended yet, it goes on from then. Only where nobody stands between: a proxy, or a name that
        is many machines', refuses while the gateway gives our sessions away.
        """
        if self._identity is not None or not is_address(self._settings.gateway_url):
            return
        if clock() < self._until:
            self._until = max(self._until, asked + self._lease)
            self._ledger.granted(self._until)

    async def _guard_lease(self) -> None:
        while True:
            left = self._until - clock()
            if left > 0:
                await asyncio.sleep(left)
            elif self._sessions:
                await self._sessions.end_all("the lease has ended")
                # A gateway that stood still takes them for running as long as it is connected.
                await self._uplink.hang_up()
            else:
                await asyncio.sleep(self._lease / HEARTBEATS_PER_LEASE)

    # -- what the gateway says -----------------------------------------------------------------

    async def _called(self, method: str, params: dict[str, Any]) -> Any:
        await self._adopted.wait()  # a session half taken over would be saved without its kernels
        return await self._methods[method](**params)

    def _frame(self, address: str, frame: bytes) -> None:
        if self._uplink.link is None:
            # Not welcome yet: what a shim answers now would have nowhere to go, and be missing.
            self._early.append((address, frame))
            return
        self._sessions.frame(address, frame)

    async def _leased(self) -> None:
        while self._until <= clock():
            self._granted.clear()
            await self._granted.wait()

    # -- when this process was started again ------------------------------------------------------

    async def _adopt_all(self) -> None:
        try:
            await self._sessions.adopt()
        finally:
            self._adopted.set()
