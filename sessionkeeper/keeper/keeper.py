"""Keeps one session: brings it up where it can run, checkpoints it, brings it back when its
node is gone.

One task per session does one step at a time (:func:`sessionkeeper.session.decide` says which)
and is the only one that changes where the session is. Everything else tells it that something
changed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from checkpoint.errors import CheckpointError, StaleWriter
from checkpoint.manifest import Manifest, decode_body
from checkpoint.repository import Repository
from gateway.errors import GatewayError
from sessionkeeper import session as steps
from sessionkeeper.keeper.blobs import Grant, Grants, packs_only
from sessionkeeper.keeper.chain import Chain
from sessionkeeper.keeper.epochs import Epochs
from sessionkeeper.keeper.nodes import Node, NodeLost, Nodes
from sessionkeeper.keeper.status import CheckpointFacts, Status
from sessionkeeper.keeper.workspace import StoreWithWrites
from sessionkeeper.keeper.writes import WriteJournal
from sessionkeeper.placement import Choice, Needs, choose
from sessionkeeper.policy import Situation, due

log = logging.getLogger(__name__)

OPEN_TIMEOUT = 600.0
CHECKPOINT_TIMEOUT = 600.0
RETRY_AFTER = (1.0, 60.0)
"""Seconds before a failed checkpoint is tried again: at first, and at most."""

BAD_CHECKPOINT = {"damaged", "not_found", "unknown_format", "wrong_key"}
"""What an agent says when it is the checkpoint, not the node, that cannot be restored."""


class Channels(Protocol):
    """The session's kernels as the gateway knows them."""

    def wanted(self) -> list[dict[str, Any]]:
        """Return ``kernel_id, name, env, path, next_seq, applied`` of every kernel that should
        run.
        """
        ...

    def attach(self, kernel_id: str, send: Callable[[bytes], None], epoch: int) -> None: ...

    def detach(self, kernel_id: str) -> None: ...

    def position(self, kernel_id: str) -> int:
        """Return the number of the last input that the kernel's shim has applied."""
        ...

    def release(self, kernel_id: str, upto: int) -> None:
        """A committed checkpoint covers the inputs up to ``upto``."""

    def activity(self) -> tuple[int, bool]:
        """Return a number that grows whenever a kernel is asked or says something, and whether one
        is busy.
        """
        ...


@dataclass
class Recovery:
    """A way back that is under way: from where, why, since when (monotonic seconds)."""

    node: str
    planned: bool
    began: float
    lost_since: float | None = None
    """Unix time of the newest checkpoint, when something after it is lost."""


class SessionKeeper:
    """One session. ``run`` is its task; the other calls may come from anywhere in the event loop."""

    def __init__(
        self,
        repository: Repository,
        nodes: Nodes,
        channels: Channels,
        journal: WriteJournal,
        grants: Grants,
        state: Path,
    ) -> None:
        self.session = repository.session_id
        self.status = Status(self.session)
        self._chain = Chain(repository)
        self._nodes = nodes
        self._channels = channels
        self._journal = journal
        self._grants = grants
        self._changed = asyncio.Event()
        self._watchers: set[asyncio.Future[None]] = set()
        self._epochs = Epochs.load(state)
        self._node: Node | None = None
        self._token: str | None = None
        self._failed: set[str] = set()
        self._without_kernels = False
        self._recovery: Recovery | None = None
        self._secured_for: frozenset[str] = frozenset()
        self._covered = -1
        self._last: float | None = None
        self._cost = 0.3
        self._retry_at: float | None = None
        self._retry_delay = RETRY_AFTER[0]
        self._background: set[asyncio.Task[Any]] = set()

    @property
    def _placed(self) -> steps.Placed | None:
        return self._epochs.placed

    # -- what others ask -----------------------------------------------------------------------

    def changed(self) -> None:
        """Something that may matter is different: nodes, kernels, activity."""
        self._changed.set()

    @property
    def node(self) -> Node | None:
        """The node that has the session, up and running; None while there is none."""
        if self._node is not None and self._placed is not None and self._placed.up:
            return self._node
        return None

    async def up(self) -> Node:
        """Wait until the session runs somewhere, and return where."""
        self.changed()
        while True:
            node = self.node
            if node is not None:
                return node
            await self._next_change()

    async def settled(self) -> Node | None:
        """Return the node that has the session, None when there is no compute; waits while it is
        on its way.
        """
        while True:
            if self.node is not None:
                return self.node
            if self.status.state in {"idle", "waiting", "failed"}:
                return None
            await self._next_change()

    async def drain(self, node: Node) -> bool:
        """The node is leaving: wait until the session is elsewhere; False: it was not there.

        It stays there, secured by checkpoints, as long as no other node fits.
        """
        there = self._placed is not None and self._placed.node == node.name
        self.changed()
        while self._placed is not None and self._placed.node == node.name and not node.gone.done():
            await self._next_change()
        if there:
            await self.settled()
        return there

    async def checkpointed(self) -> Manifest | None:
        """Wait for a checkpoint that contains everything up to now; None if it could not be made."""
        if self.node is None:
            return self._chain.manifest
        activity, _ = self._channels.activity()
        self._last = None
        self.changed()
        failures = self.status.warnings.get("checkpoint")
        while self._covered < activity and self.node is not None:
            await self._next_change()
            if self.status.warnings.get("checkpoint") not in {None, failures}:
                return None
        return self._chain.manifest

    def newest(self) -> Manifest | None:
        """The newest committed checkpoint."""
        return self._chain.manifest

    # -- the task ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read what the store has, and take up what ran when this process ended."""
        for one in await self._chain.read():
            self.status.say(f"checkpoint {one.number} was skipped: {one.reason}", "warning")
        if self._chain.manifest is not None:
            self._show_checkpoint(self._chain.manifest)
        if self._placed is not None:
            self._nodes.expect(self._placed.node)

    async def run(self) -> None:
        """Do one step after the other, for ever."""
        while True:
            self._changed.clear()
            step = steps.decide(self._facts())
            try:
                await self._do(step)
            except NodeLost:
                pass  # the next step is about that
            except (CheckpointError, GatewayError, OSError) as error:
                log.exception("session %s: step %s failed", self.session, step)
                self.status.say(f"{error}", "error")
                await self._idle(RETRY_AFTER[0])

    def _facts(self) -> steps.Facts:
        nodes = list(self._nodes)
        return steps.Facts(
            wanted=bool(self._channels.wanted()),
            placed=self._placed,
            nodes=tuple(n.facts() for n in nodes),
            lost=frozenset(n.name for n in nodes if n.gone.done()),
            leaving=frozenset(n.name for n in nodes if n.draining),
            needs=self._needs(),
            failed=frozenset(self._failed),
        )

    def _needs(self) -> Needs:
        return Needs() if self._without_kernels else self._chain.needs()

    async def _do(self, step: steps.Step) -> None:
        match step:
            case steps.Rest():
                self._show("idle")
                await self._idle()
            case steps.Wait(why):
                self._show("waiting")
                self.status.warn("placement", f"waiting for a node: {why}")
                await self._idle()
            case steps.Open(name):
                await self._open(self._nodes.get(name))
            case steps.GiveUp(nodes):
                await self._give_up(nodes)
            case steps.Lose(placed):
                self._lose(placed)
            case steps.Move(target):
                await self._move(self._nodes.get(target))
            case steps.Secure(why):
                await self._secure(why)
            case steps.Serve():
                await self._serve()

    # -- coming up -----------------------------------------------------------------------------

    async def _open(self, node: Node) -> None:
        self.status.warn("placement", None)
        self._show("starting" if self._recovery is None else _way(self._recovery))
        manifest = self._chain.manifest
        epoch = self._epochs.next(manifest.epoch if manifest else 0)
        token = self._grant()
        try:
            opened = await node.call(
                "session.open",
                {
                    **self._access(token),
                    "epoch": epoch,
                    "manifest": manifest.number if manifest else None,
                    "kernels": self._channels.wanted(),
                    "restore_kernels": not self._without_kernels,
                    "writes": [vars(w) for w in self._journal.after(self._chain.writes)],
                },
                OPEN_TIMEOUT,
            )
        except BaseException as error:
            self._grants.revoke(token)
            if isinstance(error, GatewayError) and not isinstance(error, NodeLost):
                await self._could_not_open(node, error)
                return
            raise
        self._epochs.place(steps.Placed(node.name, epoch, up=True))
        self._token = token
        self._failed.clear()
        self._settle_on(node)
        self._report_opened(node, opened)
        self._without_kernels = False

    def _settle_on(self, node: Node) -> None:
        assert self._placed is not None
        self._node = node
        node.hosting.add(self.session)
        self._attach()
        self._covered, self._last = -1, None
        self.status.update(
            node=node.name,
            epoch=self._placed.epoch,
            runtime=node.runtime,
            engine=(node.hello.get("engines") or [None])[0],
        )
        self._show("running")

    def _attach(self) -> None:
        node, placed = self._node, self._placed
        if node is None or placed is None or node.connection is None:
            return
        connection = node.connection
        for kernel in self._channels.wanted():
            kernel_id = kernel["kernel_id"]
            send = functools.partial(connection.send_frame, kernel_id)
            self._channels.attach(kernel_id, send, placed.epoch)

    async def _could_not_open(self, node: Node, error: GatewayError) -> None:
        with contextlib.suppress(GatewayError, NodeLost):
            await node.call("session.close", {"session": self.session})
        manifest = self._chain.manifest
        if error.code in BAD_CHECKPOINT and manifest is not None:
            older = await self._chain.step_back()
            took = f"checkpoint {older.number} was taken" if older else "there is no older one"
            self.status.say(
                f"checkpoint {manifest.number} was skipped, it cannot be restored: {error} {took}",
                "error",
            )
            if older is not None:
                self._show_checkpoint(older)
            return
        self._failed.add(node.name)
        self.status.say(f"{node.name} could not take the session: {error}", "warning")

    async def _give_up(self, nodes: frozenset[str]) -> None:
        if (
            self._chain.manifest is not None
            and not self._without_kernels
            and self._chain.manifest.processes
        ):
            self._without_kernels = True
            self._failed.clear()
            self.status.say(
                f"no node could restore the kernels of checkpoint {self._chain.manifest.number}: its files"
                " are restored, its kernels start anew and their variables are lost",
                "error",
            )
            return
        self._show("failed")
        self.status.warn("placement", f"no node can run the session: {', '.join(sorted(nodes))}")
        await self._idle()
        self._failed.clear()

    def _report_opened(self, node: Node, opened: dict[str, Any]) -> None:
        recovery, self._recovery = self._recovery, None
        for kernel_id, outcome in opened.get("kernels", {}).items():
            if outcome.get("why"):
                self.status.say(f"kernel {kernel_id[:8]}: {outcome['why']}", "warning")
        self.status.kernels = opened.get("kernels", {})
        if recovery is None:
            self.status.say(f"runs on {node.name}")
            return
        seconds = time.monotonic() - recovery.began
        if recovery.planned:
            self.status.say(f"moved from {recovery.node} to {node.name} in {seconds:.1f} s")
        else:
            number = self._chain.manifest.number if self._chain.manifest else None
            source = f"checkpoint {number}" if number else "its recorded inputs"
            self.status.say(
                f"{recovery.node} was lost; recovered on {node.name} from {source} in {seconds:.1f} s",
                "warning",
            )

    # -- running -------------------------------------------------------------------------------

    async def _serve(self) -> None:
        node = self._node
        if node is None:
            await self._take_up()
            return
        pause = self._due()
        if pause is None or pause > 0:
            await self._idle(pause)
            return
        await self._checkpoint(node)

    async def _take_up(self) -> None:
        """After a restart of this process: the node that has the session says so, or its lease
        ends.
        """
        assert self._placed is not None
        node = self._nodes.find(self._placed.node)
        if node is None or node.connection is None:
            self._show("recovering")
            await self._idle()
            return
        token = self._grant()
        with contextlib.suppress(GatewayError):
            await node.call(
                "session.take_up", {**self._access(token), "epoch": self._placed.epoch}, 10.0
            )
            self._token = token
            self._epochs.place(replace(self._placed, up=True))
            self._settle_on(node)
            self.status.say(f"goes on on {node.name}")
            return
        self._grants.revoke(token)
        self._lose(self._placed)

    def _due(self) -> float | None:
        activity, busy = self._channels.activity()
        now = time.monotonic()
        node = self._node
        seconds = due(
            Situation(
                now=now,
                last=self._last,
                cost=self._cost,
                busy=busy,
                changed=activity > self._covered or self._journal.last > self._chain.writes,
                tier=str(node.hello.get("tier", "spot")) if node else "spot",
            )
        )
        if seconds is not None and self._retry_at is not None:
            seconds = max(seconds, self._retry_at - now)
        return seconds

    async def _checkpoint(self, node: Node, *, final: bool = False) -> bool:
        """Take a checkpoint and commit it; after a ``final`` one the kernels stay frozen. False:
        there is none.
        """
        assert self._placed is not None
        activity, _ = self._channels.activity()
        positions = {
            k["kernel_id"]: self._channels.position(k["kernel_id"]) for k in self._channels.wanted()
        }
        began = time.monotonic()
        self.status.update(checkpointing=True)
        try:
            taken = await node.call(
                "session.checkpoint",
                {"session": self.session, "epoch": self._placed.epoch, "final": final},
                CHECKPOINT_TIMEOUT,
            )
            body = decode_body(base64.b64decode(taken["body"]))
            manifest = await node.while_there(self._chain.commit(body, self._placed.epoch))
        except StaleWriter as error:
            self._fenced(node, error)
            return False
        except (GatewayError, CheckpointError) as error:
            self._checkpoint_failed(error)
            return False
        finally:
            self.status.checkpointing = False
        self._last, self._covered = began, activity
        self._cost = float(taken["pause"])
        self._retry_at, self._retry_delay = None, RETRY_AFTER[0]
        for kernel_id, position in positions.items():
            self._channels.release(kernel_id, position)
        self._journal.release(self._chain.writes)
        self.status.warn("checkpoint", None)
        self._show_checkpoint(manifest, taken)
        log.info("session %s: checkpoint %d: %s", self.session, manifest.number, taken["seconds"])
        return True

    def _checkpoint_failed(self, error: Exception) -> None:
        self._retry_at = time.monotonic() + self._retry_delay
        self._retry_delay = min(self._retry_delay * 2, RETRY_AFTER[1])
        newest = f"checkpoint {self._chain.manifest.number}" if self._chain.manifest else "nothing"
        hint = getattr(error, "hint", "")
        self.status.warn(
            "checkpoint",
            f"a checkpoint could not be made: {error} The newest one kept is {newest}. {hint}".strip(),
        )

    def _fenced(self, node: Node, error: StaleWriter) -> None:
        self.status.say(f"{error} {error.hint}", "error")
        self._leave(node)
        self._epochs.place(None)

    # -- going away ----------------------------------------------------------------------------

    def _lose(self, placed: steps.Placed) -> None:
        node = self._node
        self._recovery = Recovery(placed.node, planned=False, began=time.monotonic())
        if node is not None:
            self._recovery.began -= max(0.0, asyncio.get_running_loop().time() - node.last_seen)
            self._leave(node)
        self._epochs.place(None)
        self._show("recovering")
        self.status.say(f"{placed.node} is lost", "warning")

    async def _move(self, target: Node) -> None:
        source = self._node
        if source is None:
            await self._take_up()
            return
        self._recovery = Recovery(source.name, planned=True, began=time.monotonic())
        self._show("moving")
        self.status.say(f"moving from {source.name} to {target.name}")
        staging = asyncio.create_task(self._stage(target))
        try:
            if not await self._checkpoint(source, final=True) and self._placed is not None:
                self._recovery.planned = False
                self.status.say(
                    f"{source.name} is leaving and a last checkpoint could not be made; going on"
                    " from the newest there is",
                    "warning",
                )
        except NodeLost:
            staging.cancel()
            raise
        await asyncio.gather(staging, return_exceptions=True)
        self._leave(source)
        self._epochs.place(None)

    async def _stage(self, target: Node) -> None:
        """Have the newest checkpoint brought to ``target`` while the last one is still being made."""
        if self._chain.manifest is None:
            return
        token = self._grant()
        try:
            await target.call(
                "session.stage",
                {**self._access(token), "manifest": self._chain.manifest.number},
                OPEN_TIMEOUT,
            )
        except (GatewayError, NodeLost) as error:
            log.info("session %s: not staged on %s: %s", self.session, target.name, error)
        finally:
            self._grants.revoke(token)

    async def _secure(self, why: Choice) -> None:
        node = self._node
        if node is None:
            await self._take_up()
            return
        self.status.warn("placement", f"{node.name} is leaving and no other node fits: {why}")
        pause = self._due()
        if pause is not None and pause <= 0:
            await self._checkpoint(node)
        else:
            await self._idle(pause)

    def _leave(self, node: Node) -> None:
        """This incarnation is over: it is not heard any more, and its node is told to end it."""
        for kernel in self._channels.wanted():
            self._channels.detach(kernel["kernel_id"])
        if self._token is not None:
            self._grants.revoke(self._token)
            self._token = None
        node.hosting.discard(self.session)
        self._node = None
        if not node.gone.done():
            self._in_background(self._close_on(node))

    async def _close_on(self, node: Node) -> None:
        with contextlib.suppress(GatewayError, NodeLost):
            await node.call("session.close", {"session": self.session})

    # -- small things --------------------------------------------------------------------------

    def node_changed(self, node: Node) -> None:
        """A node joined, came back, is suspect, leaves or is lost."""
        if node is self._node and not node.gone.done():
            if node.connection is not None and self.session not in node.hello.get("sessions", {}):
                self._in_background(self._check_hosted(node))
            self._attach()
            if node.suspect:
                self._in_background(self._stage_elsewhere(node))
        elif (
            node.connection is not None
            and self.session in node.hello.get("sessions", {})
            and (self._placed is None or self._placed.node != node.name)
        ):
            self._in_background(self._close_on(node))
        if not node.gone.done():
            self._failed.discard(node.name)
        self.changed()

    async def _check_hosted(self, node: Node) -> None:
        """An agent came back and does not name the session: unless it has it after all, it is
        lost.
        """
        with contextlib.suppress(NodeLost):
            try:
                await node.call("session.status", {"session": self.session}, 10.0)
            except GatewayError:
                if node is self._node and self._placed is not None:
                    self._lose(self._placed)
                    self.changed()

    async def _stage_elsewhere(self, suspect: Node) -> None:
        step = choose([n.facts() for n in self._nodes if n is not suspect], self._needs())
        if step.node:
            await self._stage(self._nodes.get(step.node))

    def _grant(self) -> str:
        store = StoreWithWrites(self._chain.repository.blobs, self._journal)
        return self._grants.issue(Grant(store, packs_only))

    def _access(self, token: str) -> dict[str, Any]:
        key = base64.b64encode(self._chain.repository.keys.session_key).decode()
        return {"session": self.session, "key": key, "blobs": token}

    def _show(self, state: str) -> None:
        changes: dict[str, Any] = {"state": state}
        if state in {"idle", "waiting", "failed", "recovering"}:
            changes["node"] = None
        self.status.update(**changes)
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)
        self._watchers.clear()

    def _show_checkpoint(self, manifest: Manifest, taken: dict[str, Any] | None = None) -> None:
        taken = taken or {}
        self.status.update(
            checkpoint=CheckpointFacts(
                manifest.number,
                manifest.created,
                int(taken.get("stored", 0)),
                sum(pack.size for pack in manifest.packs),
                float(taken.get("pause", 0.0)),
            )
        )
        self._show(self.status.state)

    async def _next_change(self) -> None:
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.add(watcher)
        await watcher

    async def _idle(self, seconds: float | None = None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def _in_background(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _way(recovery: Recovery) -> str:
    return "moving" if recovery.planned else "recovering"
