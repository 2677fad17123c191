"""The agent: offers one node's compute to a gateway, and does what the gateway's keeper asks for.

It dials out, so it works behind NAT. While it holds a lease its kernels run. A lease is counted
on the agent's own monotonic clock from when the heartbeat that was answered was *sent*; when it
ends, the agent ends its kernels: by then, or soon, another node has the session.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

from checkpoint.errors import CheckpointError
from checkpoint.keys import SessionKeys
from gateway.dial import AgentLink
from gateway.errors import AgentGone, GatewayError
from sessionkeeper.agent.blobs import ProxiedBlobs
from sessionkeeper.agent.errors import NotHosted
from sessionkeeper.agent.hosted import Gone, HostedSession
from sessionkeeper.agent.kernelspecs import Kernelspecs
from sessionkeeper.agent.ledger import Ledger, clock
from sessionkeeper.agent.offer import Offer
from sessionkeeper.agent.savepoint import Savepoints
from sessionkeeper.agent.staging import Staged
from sessionkeeper.agent.tenancy import Tenancy
from sessionkeeper.errors import SessionkeeperError
from sessionkeeper.settings import AgentSettings
from sessionkeeper.up.ready import announce

log = logging.getLogger(__name__)

HEARTBEATS_PER_LEASE = 8
FIRST_LEASE = 10.0
LONGEST_BACKOFF = 2.0
Method = Callable[..., Awaitable[Any]]


class Agent:
    """One node's agent. :meth:`run` dials, serves and dials again until it is cancelled."""

    def __init__(self, settings: AgentSettings, offer: Offer) -> None:
        self._settings = settings
        self._offer = offer
        self._kernelspecs = Kernelspecs()
        self._tenancies: dict[str, Tenancy] = {}
        self._staging: dict[str, Savepoints] = {}
        self._staged: dict[str, tuple[Savepoints, Staged]] = {}
        self._link: AgentLink | None = None
        self._early: list[tuple[str, bytes]] = []
        self._ledger = Ledger(settings.data / "ledger")
        self._access: dict[str, dict[str, str]] = {}
        self._stores: dict[str, ProxiedBlobs] = {}
        self._lease = FIRST_LEASE
        self._until = self._ledger.lease()
        self._granted = asyncio.Event()
        self._adopted = asyncio.Event()
        self._turns: dict[str, asyncio.Lock] = {}
        self._disconnected = 0
        self._methods: dict[str, Method] = {
            "session.open": self._open,
            "session.stage": self._stage,
            "session.take_up": self._take_up,
            "session.status": self._status,
            "session.checkpoint": self._checkpoint,
            "session.close": self._close_upto,
            "kernel.start": self._start_kernel,
            "kernel.stop": self._stop_kernel,
            "kernel.interrupt": self._interrupt,
            "files.stat": self._file_stat,
            "files.list": self._file_list,
            "files.read": self._file_read,
            "files.apply": self._file_apply,
        }

    async def run(self) -> None:
        """Stay connected to the gateway; end everything when cancelled."""
        adopting = asyncio.create_task(self._adopt_all())
        guard = asyncio.create_task(self._guard_lease())
        delay = 0.05
        try:
            while True:
                began = clock()
                try:
                    await self._connect_and_serve()
                except (OSError, GatewayError) as error:
                    log.info("no connection to the gateway: %s", error)
                    if isinstance(error.__cause__, ConnectionRefusedError):
                        self._nobody_is_there(began)
                delay = 0.05 if clock() - began > LONGEST_BACKOFF else delay * 2
                jitter = random.uniform(0.5, 1.0)  # noqa: S311
                # Often enough that a lease cannot end between two tries.
                await asyncio.sleep(jitter * min(delay, LONGEST_BACKOFF, self._lease / 4))
        finally:
            adopting.cancel()
            guard.cancel()
            await self._end_all("the agent stops")

    async def _connect_and_serve(self) -> None:
        self._early = []
        link = await AgentLink.connect(
            self._settings.gateway_url,
            self._settings.token,
            await asyncio.to_thread(self._hello),
            on_call=self._called,
            on_event=self._event,
            on_frame=self._frame,
            on_pressure=self._pressed,
        )
        self._link = link
        early, self._early = self._early, []
        for kernel_id, frame in early:
            self._frame(kernel_id, frame)
        for tenancy in self._tenancies.values():
            tenancy.hosted.tell_gone()
        announce(self._settings.ready_fd)
        beat = asyncio.create_task(self._beat(link))
        try:
            await link.wait_closed()
        finally:
            beat.cancel()
            self._link = None
            self._disconnected += 1

    def _hello(self) -> dict[str, Any]:
        return {
            "node": self._settings.node,
            "instance": self._ledger.instance(),
            "tier": self._settings.tier,
            "runtime": self._settings.runtime,
            "engines": [self._offer.engine],
            "kernelspecs": self._kernelspecs.all(),
            **self._offer.cpu.json(),
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

    def _nobody_is_there(self, asked: float) -> None:
        """The gateway's port was closed when we ``asked``: no gateway runs, so none has given our
        sessions away, and the next one waits for a whole lease before it does. If ours has not
        ended yet, it goes on from then.
        """
        if clock() < self._until:
            self._until = max(self._until, asked + self._lease)
            self._ledger.granted(self._until)

    async def _guard_lease(self) -> None:
        while True:
            left = self._until - clock()
            if left > 0:
                await asyncio.sleep(left)
            elif self._tenancies:
                await self._end_all("the lease has ended")
            else:
                await asyncio.sleep(self._lease / HEARTBEATS_PER_LEASE)

    async def _end_all(self, why: str) -> None:
        for session in list(self._tenancies):
            log.warning("ending session %s: %s", session, why)
            async with self._turn(session):
                await self._close(session)
        for session in list(self._staged):
            await self._unstage(session)

    # -- what the gateway says -----------------------------------------------------------------

    async def _called(self, method: str, params: dict[str, Any]) -> Any:
        await self._adopted.wait()  # a session half taken over would be saved without its kernels
        return await self._methods[method](**params)

    def _frame(self, kernel_id: str, frame: bytes) -> None:
        if self._link is None:
            # Not welcome yet: what a shim answers now would have nowhere to go, and be missing.
            self._early.append((kernel_id, frame))
            return
        for tenancy in self._tenancies.values():
            tenancy.hosted.to_shim(kernel_id, frame)

    def _pressed(self, pressed: bool) -> None:
        for tenancy in self._tenancies.values():
            tenancy.hosted.hold_back(pressed)

    def _forward(self, kernel_id: str, frame: bytes) -> None:
        if self._link is not None:
            self._link.send_frame(kernel_id, frame)

    def _gone(self, session: str, epoch: int) -> Gone:
        """What tells the gateway of a kernel that went without a word."""

        def gone(kernel_id: str) -> None:
            facts = {"session": session, "epoch": epoch, "kernel_id": kernel_id}
            if session in self._tenancies:
                facts |= self._tenancies[session].savepoints.arrivals.fate()
            if self._link is not None:
                with contextlib.suppress(AgentGone):
                    self._link.send_event({"event": "kernel_gone", **facts})

        return gone

    def _turn(self, session: str) -> asyncio.Lock:
        """Whoever opens or closes a session on this node: one after the other."""
        return self._turns.setdefault(session, asyncio.Lock())

    async def _leased(self) -> None:
        while self._until <= clock():
            self._granted.clear()
            await self._granted.wait()

    def _tenancy(self, session: str) -> Tenancy:
        try:
            return self._tenancies[session]
        except KeyError:
            raise NotHosted(f"session {session} is not on {self._settings.node}") from None

    async def _open(self, session: str, **call: Any) -> dict[str, Any]:
        asked = self._disconnected
        await self._leased()
        if session in self._staging:
            self._staging[session].hurry()
        async with self._turn(session):
            opened = await self._open_here(session, **call)
            if asked != self._disconnected:
                # Whoever asked is not told any more, and will have it somewhere else.
                await self._close(session)
                raise AgentGone("The connection ended while the session was being opened.")
        return opened

    async def _open_here(
        self, session: str, key: str, blobs: str, epoch: int, **what: Any
    ) -> dict[str, Any]:
        await self._close(session)
        store, keys = self._store(blobs), SessionKeys(base64.b64decode(key))
        place = self._offer.place(session, epoch)
        savepoints, staged = self._staged.pop(session, (None, None))
        if savepoints is None:
            savepoints = Savepoints(store, keys, self._offer.images(session, epoch))
        savepoints.settle(place, store)
        hosted = HostedSession(session, epoch, place, self._forward, self._gone(session, epoch))
        tenancy = Tenancy(hosted, savepoints, store, self._kernelspecs, self._offer.cpu)
        self._tenancies[session], self._stores[session] = tenancy, store
        try:
            opened = await tenancy.open(staged=staged, **what)
        except BaseException:
            await self._close(session)
            raise
        self._access[session] = {"key": key, "blobs": blobs}
        self._remember(session)
        return opened

    async def _stage(self, session: str, key: str, blobs: str, manifest: int) -> None:
        async with self._turn(session):  # an opening waits for it, and has it then
            await self._stage_here(session, key, blobs, manifest)

    async def _stage_here(self, session: str, key: str, blobs: str, manifest: int) -> None:
        if session in self._tenancies:
            return
        known = self._staged.get(session)
        if known is not None and known[1].number == manifest:
            return
        await self._unstage(session)
        store, keys = self._store(blobs), SessionKeys(base64.b64decode(key))
        savepoints = Savepoints(store, keys, self._offer.images(session, 0))
        self._staging[session] = savepoints
        try:
            staged = await asyncio.to_thread(
                savepoints.stage, session, manifest, self._offer.lazy_above
            )
        except BaseException:
            await asyncio.to_thread(savepoints.close)
            raise
        finally:
            del self._staging[session]
        self._staged[session] = savepoints, staged

    async def _unstage(self, session: str) -> None:
        savepoints, _ = self._staged.pop(session, (None, None))
        if savepoints is not None:
            await asyncio.to_thread(savepoints.close)

    async def _take_up(self, session: str, key: str, blobs: str, epoch: int) -> dict[str, Any]:
        tenancy = self._tenancy(session)
        if tenancy.hosted.epoch != epoch:
            raise NotHosted(f"session {session} is here under epoch {tenancy.hosted.epoch}")
        self._stores[session].renew(blobs)
        # Frozen for a move that the gateway did not live to finish: it goes on here.
        await tenancy.thaw()
        self._access[session] = {"key": key, "blobs": blobs}
        self._remember(session)
        return await self._status(session)

    async def _status(self, session: str) -> dict[str, Any]:
        tenancy = self._tenancy(session)
        return {**tenancy.hosted.status(), "damage": tenancy.savepoints.arrivals.damage()}

    async def _checkpoint(self, session: str, epoch: int, **how: Any) -> dict[str, Any]:
        tenancy = self._tenancy(session)
        if tenancy.hosted.epoch != epoch:
            raise NotHosted(f"session {session} is here under epoch {tenancy.hosted.epoch}")
        return await tenancy.checkpoint(**how)

    async def _close_upto(self, session: str, epoch: int) -> None:
        async with self._turn(session):
            tenancy = self._tenancies.get(session)
            if tenancy is not None and tenancy.hosted.epoch <= epoch:
                await self._close(session)

    async def _close(self, session: str) -> None:
        tenancy = self._tenancies.pop(session, None)
        if tenancy is not None:
            self._access.pop(session, None)
            self._stores.pop(session, None)
            self._ledger.forget(session)
            await tenancy.close()

    async def _start_kernel(self, session: str, **kernel: Any) -> None:
        await self._tenancy(session).start_kernel(**kernel)
        self._remember(session)

    async def _stop_kernel(self, session: str, kernel_id: str) -> None:
        await self._tenancy(session).hosted.stop_kernel(kernel_id)
        self._remember(session)

    async def _interrupt(self, session: str, kernel_id: str) -> None:
        await self._tenancy(session).hosted.interrupt(kernel_id)

    async def _file_stat(self, session: str, path: str) -> dict[str, Any]:
        found: dict[str, Any] = await self._tenancy(session).in_workspace("stat", path)
        return found

    async def _file_list(self, session: str, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self._tenancy(session).in_workspace("list", path)
        return found

    async def _file_read(self, session: str, path: str, start: int, length: int) -> str:
        data = await self._tenancy(session).in_workspace("read", path, start, length)
        return base64.b64encode(data).decode()

    async def _file_apply(self, session: str, write: dict[str, Any]) -> Any:
        try:
            return await self._tenancy(session).apply(write)
        finally:
            self._remember(session)

    # -- when this process was started again ------------------------------------------------------

    def _remember(self, session: str) -> None:
        if session in self._tenancies and session in self._access:
            hosted = self._tenancies[session].hosted
            facts = {"session": session, **self._access[session], **hosted.record()}
            self._ledger.remember(session, facts)

    async def _adopt_all(self) -> None:
        try:
            await self._adopt()
        finally:
            self._adopted.set()

    async def _adopt(self) -> None:
        for facts in self._ledger.sessions():
            session = facts["session"]
            place = self._offer.place(session, facts["epoch"])
            gone = self._gone(session, facts["epoch"])
            hosted = HostedSession(session, facts["epoch"], place, self._forward, gone)
            keys = SessionKeys(base64.b64decode(facts["key"]))
            store = self._store(facts["blobs"])
            savepoints = Savepoints(store, keys, self._offer.images(session, facts["epoch"]))
            savepoints.settle(place, store)
            tenancy = Tenancy(hosted, savepoints, store, self._kernelspecs, self._offer.cpu)
            self._tenancies[session], self._stores[session] = tenancy, store
            self._access[session] = {"key": facts["key"], "blobs": facts["blobs"]}
            try:
                await hosted.resume(facts)
                await asyncio.to_thread(savepoints.go_on_from_newest, session)
                log.info("took over session %s", session)
            except (SessionkeeperError, CheckpointError, GatewayError) as error:
                log.warning("session %s could not be taken over: %s", session, error)
                await self._close(session)
                if self._link is not None:
                    await self._link.close()  # the next hello does not name it

    def _store(self, token: str) -> ProxiedBlobs:
        return ProxiedBlobs(f"{self._settings.gateway_url}/blobs", token)
