"""The sessions on one node: what the gateway asks for, of each of them and of each that comes.

Whoever opens or closes a session here does it after the other. What must outlive this process is
in the ledger, before the gateway is told that it is so.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from checkpoint.errors import CheckpointError
from checkpoint.keys import SessionKeys
from gateway.errors import AgentGone, GatewayError
from sessionkeeper.addresses import Addresses, address_of
from sessionkeeper.agent import inventory, processors
from sessionkeeper.agent.blobs import ProxiedBlobs
from sessionkeeper.agent.errors import NotHosted
from sessionkeeper.agent.hosted import Forward, Gone, HostedSession
from sessionkeeper.agent.ledger import Ledger
from sessionkeeper.agent.offer import Offer
from sessionkeeper.agent.place import Place
from sessionkeeper.agent.savepoint import Savepoints
from sessionkeeper.agent.staging import Staged
from sessionkeeper.agent.tenancy import Tenancy
from sessionkeeper.agent.turns import SPARES, Turns
from sessionkeeper.agent.uplink import Uplink
from sessionkeeper.errors import SessionkeeperError
from sessionkeeper.images.errors import ImageUnusable
from sessionkeeper.settings import AgentSettings

log = logging.getLogger(__name__)

Method = Callable[..., Awaitable[Any]]


class Tenancies:
    """See the module. ``leased()`` waits until the node may run something."""

    def __init__(
        self,
        settings: AgentSettings,
        offer: Offer,
        ledger: Ledger,
        uplink: Uplink,
        leased: Callable[[], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._offer = offer
        self._ledger = ledger
        self._uplink = uplink
        self._leased = leased
        self._tenancies: dict[str, Tenancy] = {}
        self._staging: dict[str, Savepoints] = {}
        self._staged: dict[str, tuple[Savepoints, Staged]] = {}
        self._access: dict[str, dict[str, Any]] = {}
        self._stores: dict[str, ProxiedBlobs] = {}
        self._at_work = Turns()
        self._turns: dict[str, asyncio.Lock] = {}
        self._addresses = Addresses(
            lambda: ((s, one) for s, t in self._tenancies.items() for one in t.hosted.kernels)
        )

    def methods(self) -> dict[str, Method]:
        """Return what the gateway may call, by name."""
        return {
            "image.have": self._have_image,
            "session.open": self._open,
            "session.stage": self._stage,
            "session.take_up": self._take_up,
            "session.status": self._status,
            "session.checkpoint": self._checkpoint,
            "session.close": self._close_upto,
            "kernel.start": self._start_kernel,
            "kernel.stop": self._stop_kernel,
            "kernel.interrupt": self._interrupt,
            "kernel.variables": self._variables,
            "files.stat": self._file_stat,
            "files.list": self._file_list,
            "files.read": self._file_read,
            "files.apply": self._file_apply,
        }

    def __bool__(self) -> bool:
        return bool(self._tenancies)

    def is_empty(self) -> bool:
        """Return whether nothing is here, nor comes or goes."""
        return not self._tenancies and not any(turn.locked() for turn in self._turns.values())

    def frame(self, address: str, frame: bytes) -> None:
        """Hand a frame of the gateway to the shim it is for."""
        session, kernel_id = self._addresses.find(address) or ("", "")
        if session in self._tenancies:
            self._tenancies[session].hosted.to_shim(kernel_id, frame)

    def pressed(self, kernel_id: str, pressed: bool) -> None:
        """The gateway has, or has no more, too much of the kernel's to take."""
        for tenancy in self._tenancies.values():
            tenancy.hosted.hold_back(kernel_id, pressed)

    def tell_gone(self) -> None:
        """Say again which kernels went without a word: the gateway may not have heard it."""
        for tenancy in self._tenancies.values():
            tenancy.hosted.tell_gone()

    async def end_all(self, why: str) -> None:
        """End all sessions, and what is being brought here."""
        for session in list(self._tenancies):
            log.warning("ending session %s: %s", session, why)
            async with self._turn(session):
                await self._close(session)
        for session in list(self._staged):
            await self._unstage(session)

    def _forward(self, session: str) -> Forward:
        """What passes the frames of the session's kernels on to the gateway."""

        def forward(kernel_id: str, frame: bytes) -> None:
            self._uplink.send_frame(address_of(session, kernel_id), frame)

        return forward

    def _gone(self, session: str, epoch: int) -> Gone:
        """What tells the gateway of a kernel that went without a word."""

        def gone(kernel_id: str) -> None:
            facts = {"session": session, "epoch": epoch, "kernel_id": kernel_id}
            if session in self._tenancies:
                facts |= self._tenancies[session].savepoints.arrivals.fate()
            self._uplink.tell({"event": "kernel_gone", **facts})

        return gone

    def _ran_out(self, session: str, epoch: int, memory: int | None) -> Gone:
        """What tells the gateway that a kernel's memory ran out, before it hears of its end."""

        def ran_out(kernel_id: str) -> None:
            facts = {"session": session, "epoch": epoch, "kernel_id": kernel_id}
            self._uplink.tell({"event": "out_of_memory", **facts, "limit": memory})

        return ran_out

    def _turn(self, session: str) -> asyncio.Lock:
        """Whoever opens or closes a session on this node: one after the other."""
        return self._turns.setdefault(session, asyncio.Lock())

    def _tenancy(self, session: str) -> Tenancy:
        try:
            return self._tenancies[session]
        except KeyError:
            raise NotHosted(f"session {session} is not on {self._settings.node}") from None

    async def _open(self, session: str, **call: Any) -> dict[str, Any]:
        asked = self._uplink.breaks
        await self._leased()
        if session in self._staging:
            self._staging[session].hurry()
        async with self._turn(session):
            opened = await self._open_here(session, **call)
            if asked != self._uplink.breaks:
                # Whoever asked is not told any more, and will have it somewhere else.
                await self._close(session)
                raise AgentGone("The connection ended while the session was being opened.")
        log.info("session %s runs here now", session)
        return opened

    async def _open_here(
        self,
        session: str,
        key: str,
        blobs: str,
        epoch: int,
        limit: int | None = None,
        image: str | None = None,
        **what: Any,
    ) -> dict[str, Any]:
        await self._close(session)
        store, keys = self._store(blobs), SessionKeys(base64.b64decode(key))
        place = await asyncio.to_thread(self._offer.place, session, epoch, limit, image)
        savepoints, staged = self._staged.pop(session, (None, None))
        if savepoints is None:
            savepoints = Savepoints(store, keys, self._offer.images(session, epoch))
        savepoints.settle(place, store)
        tenancy = self._begin(session, epoch, place, savepoints, store)
        try:
            opened = await tenancy.open(staged=staged, **what)
        except BaseException:
            await self._close(session)
            raise
        self._access[session] = {"key": key, "blobs": blobs, "limit": limit, "image": image}
        self._remember(session)
        return {**opened, "kernelspecs": place.kernelspecs.all()} if image else opened

    async def _have_image(self, image: str, ticket: str) -> dict[str, float]:
        if self._offer.images_here is None:
            if image == self._settings.inside:
                return {}
            raise ImageUnusable(f"{self._settings.node} runs plain processes, in no image")
        return await asyncio.to_thread(self._offer.images_here.have, image, ticket)

    def _begin(
        self, session: str, epoch: int, place: Place, savepoints: Savepoints, store: ProxiedBlobs
    ) -> Tenancy:
        forward, gone = self._forward(session), self._gone(session, epoch)
        ran_out = self._ran_out(session, epoch, place.memory)
        hosted = HostedSession(
            session, epoch, place, forward, gone, ran_out, may_warm=self._may_warm
        )
        specs = place.kernelspecs
        tenancy = Tenancy(hosted, savepoints, store, specs, self._offer.cpu, self._at_work)
        self._tenancies[session], self._stores[session] = tenancy, store
        return tenancy

    async def _may_warm(self) -> bool:
        await self._at_work.quiet()
        # An interpreter that imports is a processor less for the first cell.
        await processors.rest()
        return len(self._tenancies) <= SPARES

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
            # One after the other: of many some are here when they are wanted, instead of none.
            async with self._at_work.turn(urgent=False):
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
        self._access[session] |= {"key": key, "blobs": blobs}
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
        await self._at_work.saved()  # others have less time than what stands still here
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

    async def _variables(self, session: str, kernel_id: str) -> dict[str, Any]:
        kernel = self._tenancy(session).hosted.kernels.get(kernel_id)
        return {"why": "it is not here"} if kernel is None else await inventory.variables(kernel)

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

    # -- when this process was started again --------------------------------------------------

    def _remember(self, session: str) -> None:
        if session in self._tenancies and session in self._access:
            hosted = self._tenancies[session].hosted
            facts = {"session": session, **self._access[session], **hosted.record()}
            self._ledger.remember(session, facts)

    async def adopt(self) -> None:
        """Take over what the agent had here before it was started again."""
        for facts in self._ledger.sessions():
            session = facts["session"]
            limit, image = facts.get("limit"), facts.get("image")
            place = self._offer.place(session, facts["epoch"], limit, image)
            keys = SessionKeys(base64.b64decode(facts["key"]))
            store = self._store(facts["blobs"])
            savepoints = Savepoints(store, keys, self._offer.images(session, facts["epoch"]))
            savepoints.settle(place, store)
            tenancy = self._begin(session, facts["epoch"], place, savepoints, store)
            access = ("key", "blobs", "limit", "image")
            self._access[session] = {what: facts.get(what) for what in access}
            try:
                await tenancy.hosted.resume(facts)
                await asyncio.to_thread(savepoints.go_on_from_newest, session)
                log.info("took over session %s", session)
            except (SessionkeeperError, CheckpointError, GatewayError) as error:
                log.warning("session %s could not be taken over: %s", session, error)
                await self._close(session)
                await self._uplink.hang_up()  # the next hello does not name it

    def _store(self, token: str) -> ProxiedBlobs:
        joined = self._settings.identity is not None
        return ProxiedBlobs(f"{self._settings.gateway_url}/blobs", token, by_proxy=joined)
