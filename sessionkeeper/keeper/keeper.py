"""Keeps one session: brings it up where it can run, and brings it back when its node is gone.

One task per session does one step at a time (:func:`sessionkeeper.session.decide` says which)
and is the only one that changes where the session is. Everything else tells it that something
changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from pathlib import Path

from checkpoint.errors import StaleWriter
from checkpoint.repository import Repository
from gateway.errors import GatewayError
from sessionkeeper import session as steps
from sessionkeeper.keeper.blobs import Grants
from sessionkeeper.keeper.chain import Chain
from sessionkeeper.keeper.checkpoints import Channels, Checkpoints
from sessionkeeper.keeper.epochs import Epochs
from sessionkeeper.keeper.fence import Fence
from sessionkeeper.keeper.going_back import GoingBack
from sessionkeeper.keeper.incarnation import Incarnation, Incarnations
from sessionkeeper.keeper.nodes import Node, NodeLost, Nodes
from sessionkeeper.keeper.opening import Opening
from sessionkeeper.keeper.presence import Presence
from sessionkeeper.keeper.session_kernels import SessionKernels
from sessionkeeper.keeper.status import State, Status
from sessionkeeper.keeper.words import Recovery
from sessionkeeper.keeper.writes import WriteJournal
from sessionkeeper.placement import choose

log = logging.getLogger(__name__)

PAUSE_AFTER_ERROR = 1.0
PAUSE_WITHOUT_STORE = 2.0

WAIT_QUIETLY = 2.0
"""Seconds without a node that are no news: they may just be starting."""


class SessionKeeper:
    """One session. :meth:`run` is its task; other calls may come from anywhere in the event
    loop.
    """

    def __init__(
        self,
        repository: Repository,
        nodes: Nodes,
        channels: Channels,
        journal: WriteJournal,
        grants: Grants,
        state: Path,
        run: str | None = None,
    ) -> None:
        self.session = repository.session_id
        self.status = Status(self.session, state.with_name("events.json"), called=channels.called)
        self._epochs = Epochs.load(state)
        self.chain = Chain(repository, self._epochs.gateway)
        self._nodes = nodes
        self._channels = channels
        self._checkpoints = Checkpoints(self.chain, channels, journal, self.status)
        self._incarnations = Incarnations(self.chain, channels, journal, grants)
        self._presence = Presence(self.status)
        self._changes = self._presence.changes
        self._opening = Opening(self.chain, self._incarnations, self._checkpoints, self._presence)
        self.kernels = SessionKernels(
            self._presence, self._incarnations, channels, self._checkpoints
        )
        self.going_back = GoingBack(
            self._checkpoints, channels, self._incarnations, journal, self._epochs, self._presence
        )
        self.fence = Fence(self.chain, self._epochs, self.going_back, self._presence, run)
        self._recovery: Recovery | None = None
        self._resting = False
        self._rested = asyncio.Event()
        self._left: frozenset[str] = frozenset()

    # -- what others ask -----------------------------------------------------------------------

    def changed(self) -> None:
        """Something that may matter is different: nodes, kernels, activity."""
        self._changes.note()

    @property
    def node(self) -> Node | None:
        """The node that has the session, up and running; None while there is none."""
        return self._presence.node

    @property
    def placed(self) -> bool:
        """Whether there may be something of the session on a node, running or not."""
        return self._epochs.placed is not None

    async def settled(self) -> Node | None:
        """Return the node that has the session, None without compute; waits while it moves."""
        while self.node is None and self.status.state not in {"idle", "waiting", "failed"}:
            await self._changes.watch()
        return self.node

    async def drain(self, node: Node) -> str | None:
        """The node is leaving: wait until the session is elsewhere. Returns what was lost on the
        way, in words, ``""`` when nothing was; None when the session was not there.

        It stays there, secured by checkpoints, as long as no other node fits.
        """
        there = self._is_on(node)
        self.changed()
        while self._is_on(node) and not node.gone.done():
            await self._changes.watch()
        if not there:
            return None
        await self.settled()
        return self._opening.lost

    async def checkpointed(self) -> bool:
        """Wait for a checkpoint with everything up to now; False if it could not be made."""
        ended = self._channels.activity().ended
        failed = self.status.warnings.get("checkpoint")
        self._checkpoints.hasten()
        self.changed()
        while not self._checkpoints.covers(ended) and self.node is not None:
            await self._changes.watch()
            if self.status.warnings.get("checkpoint") not in {None, failed}:
                return False
        return self.node is not None

    async def rest(self) -> None:
        """Take a last checkpoint and end the session's compute: it is taken up another time.

        Without that checkpoint the compute is left as it is. :meth:`run` ends either way.
        """
        self._resting = True
        self.changed()
        await self._rested.wait()

    def node_changed(self, node: Node) -> None:
        """A node joined, came back, is suspect, leaves or is lost."""
        hosts = node.connection is not None and self.session in node.hello.get("sessions", {})
        here = self._presence.here
        if here is not None and node is here.node and not node.gone.done():
            if node.connection is not None and not hosts:
                self._presence.in_background(self._check_hosted(here))
            self._incarnations.attach(here)
            if node.suspect:
                self._presence.in_background(self._stage_elsewhere(node))
        elif hosts and not self._is_on(node):
            epoch = int(node.hello["sessions"][self.session])
            self._presence.in_background(self._incarnations.close_on(node, epoch))
        if not node.gone.done():
            self._opening.failed.pop(node.name, None)
        self.changed()

    # -- the task ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read what the store has, and expect what ran when this process ended."""
        for one in await self.chain.read():
            self.status.say(f"checkpoint {one.number} was skipped: {one.reason}", "warning")
        if self.chain.manifest is not None:
            self._checkpoints.show(self.chain.manifest)
        await self.going_back.tidy()
        self.going_back.apply()
        self.fence.start()
        self._left = frozenset(kernel["kernel_id"] for kernel in self._channels.wanted())
        if self._epochs.placed is not None:
            self._nodes.expect(self._epochs.placed.node)

    async def run(self) -> None:
        """Do one step after the other, until :meth:`rest` is asked for."""
        while not self._rested.is_set():
            self._changes.look()
            try:
                await self._step()
            except Exception as error:  # whatever it is: without its keeper a session is lost
                log.exception("session %s: a step failed", self.session)
                self.status.say(str(error) or repr(error), "error")
                await self._changes.idle(PAUSE_AFTER_ERROR)

    async def _step(self) -> None:
        try:
            if self._resting:
                await self._come_to_rest()
                return
            self.fence.look()
            if self.going_back.wanted:
                self.fence.take_back()
            await self._do(steps.decide(self._facts()))
        except NodeLost:
            pass  # the next step is about that
        except StaleWriter as error:
            self._leave()  # whatever the store says next: it is not heard any more
            await self.fence.yield_to(error)

    def _facts(self) -> steps.Facts:
        nodes, here = list(self._nodes), self._presence.node
        lost = {n.name for n in nodes if n.gone.done()}
        if here is not None and here.gone.done():
            lost.add(here.name)  # even if another one of that name is there by now
        return steps.Facts(
            wanted=bool(self._channels.wanted()) and not (self.chain.deleted or self.fence.lost),
            placed=self._epochs.placed,
            nodes=tuple(n.facts() for n in nodes),
            lost=frozenset(lost),
            leaving=frozenset(n.name for n in nodes if n.draining),
            needs=self._opening.needs(),
            failed=frozenset(self._opening.failed),
            go_back=self.going_back.wanted,
            unsaved=self.going_back.unsaved,
            over=self.chain.over,
        )

    async def _do(self, step: steps.Step) -> None:
        match step:
            case steps.Rest():
                self._show("failed" if self.fence.lost else "idle")
                await self._changes.idle()
            case steps.Wait(why):
                self._show("waiting")
                if await self._changes.idle(WAIT_QUIETLY):
                    return
                self.status.warn("placement", f"waiting for a node ({why})")
                await self._changes.idle()
            case steps.Open(name):
                await self._open(self._nodes.get(name))
            case steps.GiveUp(nodes):
                await self._give_up(nodes)
            case steps.Lose():
                self._lose()
            case steps.GoBack() if self._epochs.placed is None:
                await self.going_back.commit(None)
                self.going_back.apply()
            case steps.End():
                self._end()
            case steps.Serve() | steps.Secure() | steps.Move() | steps.GoBack():
                if self._presence.here is None:
                    await self._take_up()
                elif isinstance(step, steps.GoBack):
                    await self.going_back.commit(self._presence.here)
                elif self.kernels.to_go_back(self._presence.here):
                    await self._go_back(self._presence.here)
                elif isinstance(step, steps.Move):
                    await self._move(self._presence.here, self._nodes.get(step.target))
                else:
                    if isinstance(step, steps.Secure):
                        text = f"is leaving and no other node fits ({step.why})"
                        self.status.warn("placement", f"{self._presence.here.node.name} {text}")
                    await self._serve(self._presence.here)

    # -- coming up -----------------------------------------------------------------------------

    async def _open(self, node: Node) -> None:
        await self.chain.settle()
        self.status.warn("placement", None)
        recovery = self._recovery
        self._show("starting" if not recovery else "moving" if recovery.planned else "recovering")
        epoch = await self.fence.claim()
        opened = await self._opening.open(node, epoch)
        if opened is None:
            return
        here, outcome = opened
        self._settle(here)
        self._recovery = None
        self._opening.say(node, outcome, recovery)

    async def _take_up(self) -> None:
        """After a restart of this process: the node that has the session says so, or is lost."""
        placed = self._epochs.placed
        assert placed is not None
        node = self._nodes.find(placed.node)
        self._show("recovering")
        if node is None or node.connection is None:
            await self._changes.idle()
            return
        try:
            here = await self._incarnations.take_up(node, placed.epoch)
        except GatewayError as error:
            log.info("session %s was not taken up on %s: %s", self.session, node.name, error)
            if error.code == "not_hosted" or not error.retryable:
                self._lose()
            else:
                await self._changes.idle(PAUSE_AFTER_ERROR)
            return
        self._settle(here)
        for kernel in self._channels.wanted():
            if kernel["kernel_id"] in self._left - here.kernels:
                self._presence.in_background(self.kernels.start(kernel))
        self.status.say(f"is still on {node.name}: the gateway was started again")

    def _settle(self, here: Incarnation) -> None:
        self._epochs.place(steps.Placed(here.node.name, here.epoch, up=True))
        self._presence.here = here
        self._checkpoints.begin()
        self.kernels.only_wanted(here)
        self._incarnations.attach(here)
        self._presence.in_background(self.kernels.look_for_gone(here))
        node = here.node
        self.status.update(
            node=node.name, epoch=here.epoch, runtime=node.runtime, engine=node.engine
        )
        self._show("running")

    async def _give_up(self, nodes: frozenset[str]) -> None:
        if self._opening.store_is_away:
            await self._changes.idle(PAUSE_WITHOUT_STORE)
            self._opening.failed.clear()
            return
        if await self._opening.go_down():
            return
        self._show("failed")
        self.status.warn("placement", f"no node can run the session: {', '.join(sorted(nodes))}")
        await self._changes.idle()
        self._opening.failed.clear()

    # -- running, and going away ---------------------------------------------------------------

    async def _serve(self, here: Incarnation) -> None:
        tier = str(here.node.hello.get("tier", "on-demand"))
        variables = self._opening.variables(self._nodes, here.node)
        pause = self._checkpoints.due(tier, here.node.engine, variables)
        self._show("running")
        if pause is None or pause > 0:
            await self._changes.idle(pause)
        else:
            await self._checkpoints.take(here.node, here.epoch, variables=variables)

    async def _come_to_rest(self) -> None:
        here = self._presence.here
        try:
            if here is not None and await self._checkpoints.take_last(
                here.node, here.epoch, self._opening.variables(self._nodes, here.node)
            ):
                self._leave()
                await self._incarnations.close_on(here.node, here.epoch)
        finally:
            self._rested.set()

    async def _go_back(self, here: Incarnation) -> None:
        self._recovery = Recovery(here.node.name, planned=False, began=time.monotonic())
        damage = await self._incarnations.damage(here)
        self._leave()
        if damage is not None:
            await self._opening.skip(damage)

    def _end(self) -> None:
        placed = self._epochs.placed
        assert placed is not None
        self.going_back.apply()
        self._recovery = self.going_back.recovery(placed.node)
        node = self._nodes.find(placed.node)
        if self._presence.here is None and node is not None:
            self._presence.in_background(self._incarnations.close_on(node, placed.epoch))
        self._leave()

    def _lose(self) -> None:
        placed, here = self._epochs.placed, self._presence.here
        assert placed is not None
        began = time.monotonic()
        if here is not None:
            began -= max(0.0, asyncio.get_running_loop().time() - here.node.last_seen)
        last_seen = time.time() - (time.monotonic() - began) if here is not None else None
        self._recovery = Recovery(placed.node, planned=False, began=began, last_seen=last_seen)
        self._leave()
        self.status.say(f"{placed.node} is lost")

    async def _move(self, here: Incarnation, target: Node) -> None:
        source = here.node
        self._recovery = Recovery(source.name, planned=True, began=time.monotonic())
        self.status.warn("placement", None)
        self._show("moving")
        self.status.say(f"moving from {source.name} to {target.name}")
        try:
            # One that was heard a moment ago may be dead all the same: ask before anything stops.
            await source.while_there(self._incarnations.is_on(target))
        except NodeLost:
            self._recovery = None
            return
        variables = self._opening.variables(self._nodes, source, target)
        staging = asyncio.create_task(self._opening.stage(target))
        try:
            # The kernels run on meanwhile: what is there already need not be waited for frozen.
            await source.while_there(asyncio.wait({staging}, timeout=source.time_to_stage()))
            if not await self._checkpoints.take_last(here.node, here.epoch, variables):
                self._recovery.saved = False
                text = f"{source.name} is leaving without a last checkpoint; the newest is taken"
                self.status.say(text, "warning")
        finally:
            staging.cancel()
        self._leave()

    def _leave(self) -> None:
        """This incarnation is over: it is not heard any more, and its node is told to end it."""
        here, self._presence.here = self._presence.here, None
        self._epochs.place(None)
        if here is not None:
            self._incarnations.end(here)
            self._presence.in_background(self._incarnations.close_on(here.node, here.epoch))
        planned = self._recovery is not None and self._recovery.planned
        self._show("moving" if planned else "recovering")

    async def _check_hosted(self, here: Incarnation) -> None:
        """An agent came back and does not name the session: unless it has it, it is lost."""
        with contextlib.suppress(NodeLost):
            if not await self._incarnations.is_on(here.node) and here is self._presence.here:
                self._lose()
                self.changed()

    async def _stage_elsewhere(self, suspect: Node) -> None:
        choice = choose([n.facts() for n in self._nodes if n is not suspect], self._opening.needs())
        if choice.node:
            await self._opening.stage(self._nodes.get(choice.node))

    def _is_on(self, node: Node) -> bool:
        placed, here = self._epochs.placed, self._presence.node
        return placed is not None and placed.node == node.name and here in {None, node}

    def _show(self, state: State) -> None:
        if state in {"idle", "waiting", "failed", "recovering"}:
            self.status.update(state=state, node=None)
        else:
            self.status.update(state=state)
        self._changes.tell()
