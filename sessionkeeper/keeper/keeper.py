"""Keeps one session: brings it up where it can run, and brings it back when its node is gone.

One task per session does one step at a time (:func:`sessionkeeper.session.decide` says which)
and is the only one that changes where the session is. Everything else tells it that something
changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from checkpoint.errors import StaleWriter
from checkpoint.repository import Repository
from sessionkeeper import session as steps
from sessionkeeper.keeper.blobs import Grants
from sessionkeeper.keeper.chain import Chain
from sessionkeeper.keeper.channels import Channels
from sessionkeeper.keeper.checkpoints import Checkpoints
from sessionkeeper.keeper.epochs import Epochs
from sessionkeeper.keeper.fence import Fence
from sessionkeeper.keeper.going_back import GoingBack
from sessionkeeper.keeper.image import SessionImage
from sessionkeeper.keeper.incarnation import Incarnation, Incarnations
from sessionkeeper.keeper.journals import Journals
from sessionkeeper.keeper.leaving import Leaving
from sessionkeeper.keeper.node import Node, NodeLost
from sessionkeeper.keeper.nodes import Nodes
from sessionkeeper.keeper.opening import Opening
from sessionkeeper.keeper.presence import Presence
from sessionkeeper.keeper.pressure import relieved
from sessionkeeper.keeper.session_kernels import SessionKernels
from sessionkeeper.keeper.settling import PAUSE_AFTER_ERROR, Settling
from sessionkeeper.keeper.sleep import Sleep
from sessionkeeper.keeper.status import AT_REST, State, Status
from sessionkeeper.keeper.whereto import Line, Whereto
from sessionkeeper.keeper.writes import WriteJournal
from sessionkeeper.rebalance import Advice
from sessionkeeper.registration import Registration

log = logging.getLogger(__name__)

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
        registration: Registration | None = None,
        line: Line | None = None,
        sleeps: Callable[[bool], None] = lambda asleep: None,
        image: SessionImage | None = None,
    ) -> None:
        """``sleeps`` is told when the session is to hibernate, and when not any more."""
        self.session = repository.session_id
        self.status = Status(self.session, state.with_name("events.json"), called=channels.called)
        self._epochs = Epochs.load(state)
        self.chain = Chain(repository, self._epochs.gateway)
        self._nodes = nodes
        self._channels = channels
        journals = Journals(repository, state.with_name("arriving"))
        self._checkpoints = Checkpoints(self.chain, channels, journal, self.status, journals)
        registration, line = registration or Registration(self.session), line or Line(nodes)
        limit = registration.limit
        self._incarnations = Incarnations(self.chain, channels, journal, grants, limit, image)
        self._incarnations.received = self._checkpoints.sending.received
        self._presence = Presence(self.status)
        self._changes = self._presence.changes
        self._opening = Opening(self.chain, self._incarnations, self._checkpoints, self._presence)
        self._whereto = Whereto(registration, nodes, line, channels.wanted)
        self.kernels = SessionKernels(
            self._presence, self._incarnations, channels, self._checkpoints, self._whereto
        )
        self.going_back = GoingBack(
            self._checkpoints, channels, self._incarnations, journal, self._epochs, self._presence
        )
        self.fence = Fence(self.chain, self._epochs, self.going_back, self._presence, run)
        self.sleep = Sleep(self._presence, registration.hibernated, sleeps)
        line.enter(registration, self.changed)
        incarnation = self._checkpoints, self._incarnations, self._presence
        self._leaving = Leaving(
            *(nodes, self._epochs, channels, *incarnation),
            *(self._opening, self._whereto, self.going_back, self.sleep),
        )
        self._settling = Settling(
            *(nodes, self._epochs, channels, *incarnation, self.kernels, self._leaving)
        )
        self._resting, self._save_last = False, True
        self._rested = asyncio.Event()

    # -- what others ask -----------------------------------------------------------------------

    def changed(self, *, soon: bool = False) -> None:
        """Something that may matter is different: nodes, kernels; activity, which is seen soon."""
        (self._changes.note_soon if soon else self._changes.note)()

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
        while self.node is None and self.status.state not in AT_REST:
            await self._changes.watch()
        return self.node

    async def awake(self) -> None:
        """Wait until the session, which is to run again, has begun to, and is somewhere."""
        while self.status.state == "hibernated":
            await self._changes.watch()
        await self.settled()

    async def drain(self, node: Node) -> str | None:
        """The node is leaving: wait until the session is elsewhere. Returns what was lost on the
        way, in words, ``""`` when nothing was; None when the session was not there.

        It stays there, secured by checkpoints, as long as no other node fits.
        """
        there = self.is_on(node)
        self.changed()
        while self.is_on(node) and not node.gone.done():
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

    def why(self) -> dict[str, object]:
        """Return where the session would go now, and why not elsewhere: ``{"node", "reasons",
        "place", "line"}``, the last two of the line in which it waits.
        """
        failed = frozenset(self._opening.failed)
        return self._whereto.why(self._opening.needs(), failed)

    async def rest(self, *, save: bool = True) -> None:
        """Take a last checkpoint and end the session's compute: it is taken up another time.

        Without that checkpoint the compute is left as it is, unless it is not to be saved.
        :meth:`run` ends either way.
        """
        self._resting, self._save_last = True, save
        self.changed()
        await self._rested.wait()

    async def disown(self) -> None:
        """End what any node has of it, or is just beginning. After :meth:`run` has ended."""
        there = [node for node in self._nodes if node.connection is not None]
        closing = (self._incarnations.close_on(node, self._epochs.epoch) for node in there)
        self._epochs.place(None)
        self._presence.end()
        await asyncio.gather(*closing)

    def node_changed(self, node: Node) -> None:
        """A node joined, came back, is suspect, leaves or is lost."""
        hosts = node.connection is not None and self.session in node.hello.get("sessions", {})
        here = self._presence.here
        if here is not None and node is here.node and not node.gone.done():
            if node.connection is not None and not hosts:
                self._presence.in_background(self._check_hosted(here))
            self._incarnations.attach(here)
            if node.suspect:
                needs = self._whereto.needs(self._opening.needs())
                elsewhere = self._opening.stage_elsewhere(self._nodes, node, needs)
                self._presence.in_background(elsewhere)
            self.status.warn("notice", node.notice)
        elif hosts and not self.is_on(node):
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
        await self.going_back.apply()
        self.fence.start()
        self._refuse()
        self._settling.expect()

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
                self._refuse()
            await self._do(steps.decide(self._facts()))
        except NodeLost:
            pass  # the next step is about that
        except StaleWriter as error:
            self._leaving.leave()  # whatever the store says next: it is not heard any more
            await self.fence.yield_to(error)
            self._refuse()

    def _refuse(self) -> None:
        """Who asks kernels that nobody will run here is told so, and does not wait for ever."""
        gone = "The session was deleted." if self.chain.deleted else ""
        lost = self.status.warnings.get("owner", "") if self.fence.lost else ""
        self._channels.refuse(gone or lost)

    def _facts(self) -> steps.Facts:
        nodes, here = list(self._nodes), self._presence.node
        lost = {n.name for n in nodes if n.gone.done()}
        if here is not None and here.gone.done():
            lost.add(here.name)  # even if another one of that name is there by now
        wanted = bool(self._channels.wanted()) or self._incarnations.to_begin
        wanted = wanted and not (self.chain.deleted or self.fence.lost)
        needs, failed = self._whereto.needs(self._opening.needs()), frozenset(self._opening.failed)
        waits = self._epochs.placed is None and wanted and not self.sleep.asleep
        leaving = {n.name for n in nodes if n.draining}
        leaving |= self._whereto.barred(here, busy=self._channels.activity().busy)
        return steps.Facts(
            wanted=wanted,
            placed=self._epochs.placed,
            nodes=tuple(n.facts(but=self.session) for n in nodes),
            lost=frozenset(lost),
            leaving=frozenset(leaving),
            needs=needs,
            failed=failed,
            turn=self._whereto.turn(needs, failed) if waits else None,
            better=self._advice().target,
            asleep=self.sleep.asleep,
            go_back=self.going_back.wanted,
            unsaved=self.going_back.unsaved,
            over=self.chain.over,
        )

    async def _do(self, step: steps.Step) -> None:
        match step:
            case steps.Rest():
                self._whereto.rests()
                calm: State = "hibernated" if self.sleep.asleep else "idle"
                self._presence.show("failed" if self.fence.lost else calm)
                await self._changes.idle()
            case steps.Wait(why):
                self._whereto.heads_for(None)
                self._presence.show("waiting")
                if await self._changes.idle(WAIT_QUIETLY):
                    return
                self.status.warn("placement", f"waiting for a node ({why})")
                await self._changes.idle()
            case steps.Open(name):
                await self._open(self._nodes.get(name))
            case steps.GiveUp(nodes):
                await self._give_up(nodes)
            case steps.Lose():
                self._leaving.lose()
            case steps.GoBack() if self._epochs.placed is None:
                await self.going_back.commit(None)
                await self.going_back.apply()
            case steps.End():
                await self._leaving.end()
            case _:
                if self._presence.here is None:
                    await self._settling.take_up()
                elif isinstance(step, steps.GoBack):
                    await self.going_back.commit(self._presence.here)
                elif self.kernels.to_go_back(self._presence.here):
                    await self._leaving.go_back(self._presence.here)
                elif isinstance(step, steps.Move):
                    await self._leaving.move(self._presence.here, self._nodes.get(step.target))
                elif isinstance(step, steps.Rebalance):
                    await self._leaving.rebalance(self._presence.here, self._nodes.get(step.target))
                elif isinstance(step, steps.Hibernate):
                    await self._leaving.hibernate(self._presence.here)
                else:
                    if isinstance(step, steps.Secure):
                        text = f"is leaving and no other node fits ({step.why})"
                        self.status.warn("placement", f"{self._presence.here.node.name} {text}")
                    await self._serve(self._presence.here)

    # -- coming up -----------------------------------------------------------------------------

    async def _open(self, node: Node) -> None:
        self._whereto.heads_for(node)
        await self.chain.settle()
        self.status.warn("placement", None)
        recovery = self._leaving.recovery
        self._presence.show(
            "starting" if not recovery else "moving" if recovery.planned else "recovering"
        )
        epoch = await self.fence.claim()
        try:
            await relieved(node, self._nodes)
            opened = await self._opening.open(node, epoch)
        finally:
            self._whereto.heads_for(None)
        if opened is None:
            return
        here, outcome = opened
        self._settling.settle(here)
        self._leaving.recovery = None
        self._opening.say(node, outcome, recovery)

    async def _give_up(self, nodes: frozenset[str]) -> None:
        if self._opening.store_is_away:
            await self._changes.idle(PAUSE_WITHOUT_STORE)
            self._opening.failed.clear()
            return
        if await self._opening.go_down():
            return
        self._presence.show("failed")
        self.status.warn("placement", f"no node can run the session: {', '.join(sorted(nodes))}")
        await self._changes.idle()
        self._opening.failed.clear()

    # -- running, and going away ---------------------------------------------------------------

    async def _serve(self, here: Incarnation) -> None:
        node, variables = here.node, self._opening.variables(self._nodes, here.node)
        pause = self._checkpoints.due(node.tier, node.engine, variables, node.mean_time)
        self._presence.show("running")
        if pause is None or pause > 0:
            again = self._advice().again
            await self._changes.idle(min(filter(None, (pause, again)), default=None))
        else:
            await self._checkpoints.take(here.node, here.epoch, variables=variables)

    def _advice(self) -> Advice:
        activity, pending = self._channels.activity(), self._channels.pending()
        needs, busy = self._opening.needs(), activity.busy or pending
        return self._whereto.advise(self._presence.here, activity.at, busy, needs)

    async def _come_to_rest(self) -> None:
        here = self._presence.here
        try:
            if here is not None:
                await self._leaving.come_to_rest(here, save=self._save_last)
        finally:
            self._rested.set()

    async def _check_hosted(self, here: Incarnation) -> None:
        """An agent came back and does not name the session: unless it has it, it is lost."""
        with contextlib.suppress(NodeLost):
            if not await self._incarnations.is_on(here.node) and here is self._presence.here:
                self._leaving.lose()
                self.changed()

    def is_on(self, node: Node) -> bool:
        """Whether the session is on the node, as far as is known."""
        placed, here = self._epochs.placed, self._presence.node
        return placed is not None and placed.node == node.name and here in {None, node}
