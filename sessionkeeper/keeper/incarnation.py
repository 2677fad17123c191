"""One life of a session's compute on one node, and what brings it about."""

from __future__ import annotations

import base64
import contextlib
import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import GatewayError, RemoteError
from sessionkeeper.addresses import address_of
from sessionkeeper.keeper.blobs import Grant, Grants, packs_only
from sessionkeeper.keeper.chain import Chain
from sessionkeeper.keeper.channels import Channels
from sessionkeeper.keeper.image import SessionImage
from sessionkeeper.keeper.node import Node, NodeLost
from sessionkeeper.keeper.workspace import StoreWithWrites
from sessionkeeper.keeper.writes import Write, WriteJournal

log = logging.getLogger(__name__)

OPEN_TIMEOUT = 600.0
IMAGE_TIMEOUT = 3600.0
SHORT_TIMEOUT = 10.0


@dataclass
class Incarnation:
    """The session under ``epoch`` on ``node``. ``token`` gives the node access to its objects."""

    session: str
    node: Node
    epoch: int
    token: str
    kernels: set[str] = field(default_factory=set)
    began: float = field(default_factory=time.monotonic)

    async def ask(self, method: str, kernel: dict[str, Any]) -> None:
        """Ask the node to do something with a kernel. Raises ``NodeLost``, ``GatewayError``."""
        await self.node.call(method, {"session": self.session, **kernel})


class Incarnations:
    """Opens, takes up and ends the incarnations of one session."""

    def __init__(
        self,
        chain: Chain,
        channels: Channels,
        journal: WriteJournal,
        grants: Grants,
        limit: int | None = None,
        image: SessionImage | None = None,
    ) -> None:
        """``limit`` is the memory (bytes) that each kernel may use; None: what the node allows."""
        self.session = chain.repository.session_id
        self._chain = chain
        self._channels = channels
        self._journal = journal
        self._grants = grants
        self._limit = limit
        self._image = image
        self.received: Callable[[int], None] = lambda size: None
        """Told of bytes that nodes send, when they come."""
        self.interrupt: set[str] = set()
        """Kernels that are not to go on with what the checkpoint has them in the middle of."""

    @property
    def to_begin(self) -> bool:
        """Whether it is to run though it has no kernel: the files of an image are those of its
        session once that has run somewhere.
        """
        in_image = self._image is not None and self._image.reference is not None
        return in_image and self._chain.manifest is None

    async def open(
        self,
        node: Node,
        epoch: int,
        *,
        restore_kernels: bool,
        partly: bool = False,
        no_images: str | None = None,
    ) -> tuple[Incarnation, dict[str, Any]]:
        """Bring the session up on ``node``; also returns what the node says of it.

        ``partly``: kernels that cannot be restored there start anew, and do not keep the others
        from being restored. With ``no_images`` (why not) kernels are restored by their variables
        instead. Raises ``NodeLost``, and ``GatewayError`` in the node's words.
        """
        await self._bring_image(node)
        token, manifest = self._grant(), self._chain.manifest
        kernels = self._channels.wanted()
        call = {
            **self._access(token),
            "epoch": epoch,
            "limit": self._limit,
            "image": self._image.reference if self._image else None,
            "manifest": manifest.number if manifest else None,
            "kernels": kernels,
            "restore_kernels": restore_kernels,
            "partly": partly,
            "no_images": no_images,
            "interrupt": sorted(self.interrupt),
            "writes": [vars(w) for w in self._journal.after(self._chain.writes)],
        }
        try:
            opened = await node.call("session.open", call, OPEN_TIMEOUT)
        except BaseException:
            self._grants.revoke(token)
            raise
        if self._image and "kernelspecs" in opened:
            self._image.learn(opened.pop("kernelspecs"))
        for kernel in kernels:
            outcome = opened["kernels"][kernel["kernel_id"]]
            if outcome["state"] == "started" and outcome["why"]:
                self._channels.give_up(kernel["kernel_id"], kernel["applied"], outcome["why"])
        self.interrupt.clear()
        hosted = {kernel["kernel_id"] for kernel in kernels}
        return self._begin(Incarnation(self.session, node, epoch, token, hosted)), opened

    async def take_up(self, node: Node, epoch: int) -> Incarnation:
        """Go on with what runs on ``node`` already, after this process was started again.

        Raises as :meth:`open`.
        """
        token = self._grant()
        call = {**self._access(token), "epoch": epoch}
        try:
            there = await node.call("session.take_up", call, SHORT_TIMEOUT)
            for write in self._journal.after(int(there["writes"])):
                await self._do_again(node, write)
        except BaseException:
            self._grants.revoke(token)
            raise
        hosted = {*there["kernels"], *there["gone"]}
        return self._begin(Incarnation(self.session, node, epoch, token, hosted))

    async def gone(self, incarnation: Incarnation) -> list[str]:
        """Ask which kernels went without a word, as nobody may have listened then. Raises
        ``NodeLost``, and ``GatewayError`` in the node's words.
        """
        found: list[str] = (await self._status(incarnation))["gone"]
        return found

    async def damage(self, incarnation: Incarnation) -> str | None:
        """Ask what is damaged of the checkpoint that was restored, if a kernel died of that; None
        if nobody says so.
        """
        with contextlib.suppress(GatewayError, NodeLost):
            found: str | None = (await self._status(incarnation))["damage"]
            return found
        return None

    async def _status(self, incarnation: Incarnation) -> dict[str, Any]:
        call = {"session": self.session}
        there: dict[str, Any] = await incarnation.node.call("session.status", call, SHORT_TIMEOUT)
        return there

    def attach(self, incarnation: Incarnation) -> None:
        """Connect the kernels' channels to the node's connection, the one it has now."""
        connection = incarnation.node.connection
        if connection is None:
            return
        for kernel_id in incarnation.kernels:
            address = address_of(self.session, kernel_id)
            send = functools.partial(connection.send_frame, address)
            self._channels.attach(kernel_id, send, incarnation.epoch)

    def end(self, incarnation: Incarnation) -> None:
        """It is not heard any more, and can read and write nothing any more."""
        for kernel in self._channels.wanted():
            self._channels.detach(kernel["kernel_id"])
        self._grants.revoke(incarnation.token)
        incarnation.node.release(self.session)

    async def stage(self, target: Node) -> None:
        """Have the newest checkpoint brought to ``target``, which may need it soon."""
        manifest = self._chain.manifest
        if manifest is None:
            return
        token = self._grant()
        call = {**self._access(token), "manifest": manifest.number}
        try:
            await self._bring_image(target)
            await target.call("session.stage", call, OPEN_TIMEOUT)
            target.near[self.session] = sum(pack.size for pack in manifest.packs)
        except (GatewayError, NodeLost) as error:
            log.info("session %s: not staged on %s: %s", self.session, target.name, error)
        finally:
            self._grants.revoke(token)

    async def is_on(self, node: Node) -> bool:
        """Ask the node whether it has the session; False only if it says so."""
        try:
            await node.call("session.status", {"session": self.session}, SHORT_TIMEOUT)
        except RemoteError:
            return False
        except GatewayError:
            return True  # the connection has ended once more; the next hello tells
        return True

    async def go_on(self, here: Incarnation) -> None:
        """Let it go on after a last checkpoint that came to nothing: its kernels may stand still
        for it. Raises ``NodeLost``.
        """
        call = {**self._access(here.token), "epoch": here.epoch}
        try:
            await here.node.call("session.take_up", call, SHORT_TIMEOUT)
        except GatewayError as error:  # the next checkpoint lets it go on
            log.warning("session %s may stand still on %s: %s", self.session, here.node.name, error)

    async def close_on(self, node: Node, epoch: int) -> None:
        """Tell the node to end what it may have of the session, up to ``epoch``."""
        with contextlib.suppress(GatewayError, NodeLost):
            await node.call("session.close", {"session": self.session, "epoch": epoch})

    async def _bring_image(self, node: Node) -> None:
        """Have the session's image on the node before anything else is: that may take minutes. The
        node is asked also if it is known to have it: it knows better.
        """
        reference = self._image.reference if self._image is not None else None
        if self._image is not None and reference:
            call = {"image": reference, "ticket": self._image.ticket}
            await node.call("image.have", call, IMAGE_TIMEOUT)
            node.has |= {self._image.digest or ""}

    async def _do_again(self, node: Node, write: Write) -> None:
        """Do what was recorded and not done, or nobody knows whether it was."""
        try:
            await node.call("files.apply", {"session": self.session, "write": vars(write)})
        except RemoteError as error:
            if error.retryable:
                raise
            log.info("write %d is refused: %s", write.number, error)

    def _begin(self, incarnation: Incarnation) -> Incarnation:
        incarnation.node.take(self.session)
        return incarnation

    def _grant(self) -> str:
        store = StoreWithWrites(self._chain.repository.blobs, self._journal)
        return self._grants.issue(Grant(store, packs_only, self.received))

    def _access(self, token: str) -> dict[str, Any]:
        key = base64.b64encode(self._chain.repository.keys.session_key).decode()
        return {"session": self.session, "key": key, "blobs": token}
