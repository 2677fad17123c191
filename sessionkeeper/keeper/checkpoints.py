"""When a session's checkpoints are taken, and how each becomes the newest one."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from checkpoint.errors import CheckpointError, StaleWriter
from checkpoint.manifest import Manifest, decode_body
from gateway.errors import GatewayError
from sessionkeeper.keeper import metrics
from sessionkeeper.keeper.chain import Chain, waits_for_variables
from sessionkeeper.keeper.channels import Channels, Position
from sessionkeeper.keeper.journals import Journals
from sessionkeeper.keeper.node import Node
from sessionkeeper.keeper.sending import Sending
from sessionkeeper.keeper.status import CheckpointFacts, Status
from sessionkeeper.keeper.writes import WriteJournal
from sessionkeeper.policy import Situation, due

log = logging.getLogger(__name__)

Variables = Literal["no", "if idle", "needed"]
"""Whether there are variables beside process images: `needed`, no checkpoint without them."""


TIMEOUT = 600.0
RETRY_AFTER = (1.0, 60.0)
"""Seconds before a failed checkpoint is tried again: at first, and at most."""

TOO_LATE = "no_time_left"
"""What an agent says when a last checkpoint would come too late."""

BUSY = "kernel_busy"
"""What an agent says when a kernel is in the middle of a cell and cannot be saved there."""

RETRY_BUSY = 0.25
"""Seconds until it is asked again, if nobody has told meanwhile that a cell has begun."""

ASK_AGAIN = 5.0
"""Seconds until variables are asked for once more of a kernel that runs nothing and did not answer.
"""

TO_STORE = 1.0
"""Seconds that a last checkpoint takes, beside its pause, for little that is new."""

PAUSE_BEFORE_LAST = 1.0
"""Seconds before a last checkpoint that failed is tried again."""

ARRIVAL = 30.0
"""Seconds that a last checkpoint waits for memory which is on its way, where no node leaves."""

FIRST_COST = 0.3
"""Seconds a checkpoint is expected to stop the kernels, before one was taken."""


class Checkpoints:
    """The checkpoints of one session, while it runs on one node after the other."""

    def __init__(
        self,
        chain: Chain,
        channels: Channels,
        journal: WriteJournal,
        status: Status,
        journals: Journals,
    ) -> None:
        self.chain = chain
        self.journals = journals
        self._channels = channels
        self._journal = journal
        self._status = status
        self.sending = Sending(status)
        self._covered = 0
        self._last = 0.0
        self._changed: float | None = None
        self._cost = FIRST_COST
        self._retry_at = 0.0
        self._retry_delay = RETRY_AFTER[0]
        self._told_ignored = False
        self._given_up = 0
        self._no_time = False
        self._positions: dict[str, Position] = {}
        self.unfit = ""
        """Why what was given up cannot go on from the newest checkpoint either."""

    def begin(self) -> None:
        """A new incarnation: what there is came from the newest checkpoint, or is fresh."""
        self._covered = self._channels.activity().ended
        self.journals.forget()
        self._last, self._changed, self._retry_at = time.monotonic(), None, 0.0
        self._no_time = False

    def give_up(self, epoch: int, unfit: str = "") -> None:
        """The incarnation goes back to the newest checkpoint, as a kernel of it was killed: what is
        being saved of it just now has that kernel dead, or not at all, and is none.
        """
        self._given_up, self.unfit = epoch, unfit

    def is_given_up(self, epoch: int) -> bool:
        """Whether that was said of the incarnation of this ``epoch``."""
        return epoch <= self._given_up

    def has_begun(self, kernel_id: str, number: int) -> bool:
        """Whether the newest checkpoint certainly has the kernel after it was given that input."""
        position = self._positions.get(kernel_id)
        return position is not None and number <= position.applied

    def covers(self, ended: int) -> bool:
        """Whether the newest checkpoint contains what has happened until ``ended`` requests had."""
        return self._covered >= ended

    def exposed(self, now: float) -> float:
        """Return the seconds of work, roughly, that are lost with the node ``now`` (monotonic
        seconds): of what ran since the newest checkpoint.
        """
        activity = self._channels.activity()
        unsaved = activity.ended > self._covered
        begins = self._last if unsaved else max(self._last, activity.at)
        ends = now if activity.busy else activity.at if unsaved else begins
        return max(0.0, ends - begins)

    def hasten(self) -> None:
        """Let the next one be due at once."""
        self._last = self._retry_at = 0.0

    def due(
        self,
        tier: str,
        engine: str | None = None,
        variables: Variables = "no",
        mean_time: float | None = None,
    ) -> float | None:
        """Return in how many seconds the next one should begin; None: not before something
        happens. It should if the newest is without ``variables`` that are wanted.
        """
        activity, now = self._channels.activity(), time.monotonic()
        changed = activity.ended > self._covered or bool(self._journal.after(self.chain.writes))
        again = 0.0
        if variables != "no" and (manifest := self.chain.manifest) is not None:
            changed |= manifest.meta.get("variables", "no") == "no"
            if waits_for_variables(manifest) and not activity.busy:
                changed, again = True, self._last + ASK_AGAIN - now
        if not changed:
            self._changed = None
        elif self._changed is None:
            self._changed = now
        seconds = due(
            Situation(
                now=now,
                last=self._last,
                cost=self._cost,
                busy=activity.busy,
                changed=self._changed,
                active=activity.at,
                tier=tier,
                mid_cell=engine != "namespace",
                mean_time=mean_time,
            )
        )
        return None if seconds is None else max(seconds, self._retry_at - now, again)

    async def take(
        self, node: Node, epoch: int, *, final: bool = False, variables: Variables = "no"
    ) -> bool:
        """Take a checkpoint and commit it; after a ``final`` one the kernels stay frozen.
        ``variables``: whether those of Python kernels are saved beside process images.

        False: there is none, the user was told why, and it is tried again later. Raises
        ``NodeLost``, and ``StaleWriter`` when somebody else owns the session by now.
        """
        ended = self._channels.activity().ended
        positions = {
            k["kernel_id"]: self._channels.position(k["kernel_id"]) for k in self._channels.wanted()
        }
        manifest, began = None, time.monotonic()
        self._status.update(checkpointing=True)
        self.sending.begin(first=self.chain.manifest is None)
        # While the node is at its part; what is said until then follows when it has done that.
        ahead = asyncio.create_task(
            self.journals.ahead(self._channels.snapshots(), self.chain.manifest)
        )
        try:
            call = {
                "session": self._status.session,
                "epoch": epoch,
                "final": final,
                "within": self.patience(node) if final else 0.0,
                "arrive": self._arrival(node) if final else 0.0,
                "left": node.left() if final and node.draining else None,
                "work": self._work(),
                "wanted": variables,
            }
            taken = await node.call("session.checkpoint", call, TIMEOUT)
            if self.is_given_up(epoch):
                log.info("a kernel was killed while it was saved: that is no checkpoint")
                self.journals.forget()
                return False
            body = decode_body(base64.b64decode(taken["body"]))
            body = replace(body, meta={**body.meta, "kernels": self._channels.records()})
            await ahead
            # What was said before the cut and acknowledged is nowhere else.
            body = await self.journals.save(self._channels.snapshots(), self.chain.manifest, body)
            # Also if the node is lost meanwhile: what is going back to must be known before that.
            manifest = await self.chain.commit(body, epoch)
        except StaleWriter:
            self.journals.forget()
            raise
        except (GatewayError, CheckpointError) as error:
            self.journals.forget()
            if self.is_given_up(epoch):
                log.info("a kernel was killed while it was saved: %s", error)
            elif error.code == BUSY and not final:
                self._retry_at = time.monotonic() + RETRY_BUSY
            else:
                self._no_time = error.code == TOO_LATE
                self._failed(error)
            return False
        finally:
            ahead.cancel()
            await asyncio.wait({ahead})
            self.sending.end(committed=manifest is not None)
            self._status.update(checkpointing=False)
        self._last, self._covered, self._changed = began, ended, None
        self._positions = positions
        self._cost = float(taken["pause"])
        self._retry_delay = RETRY_AFTER[0]
        # Else the checkpoint before it may have to be gone back to, and what came after it.
        if self.chain.portable is None or not waits_for_variables(manifest):
            for kernel_id in positions.keys() & manifest.processes.keys():
                self._channels.release(kernel_id, positions[kernel_id])
            self._journal.release(self.chain.writes)
        self._status.warn("checkpoint", None)
        self._status.warn(
            "variables", _not_in(manifest, taken.get("lost", {}), self._status.called)
        )
        self._status.warn("files", taken.get("unsaved"))
        if taken.get("ignored") and not self._told_ignored:
            self._told_ignored = True
            self._status.say(taken["ignored"])
        self.show(manifest, taken)
        metrics.CHECKPOINT_SECONDS.observe(time.monotonic() - began)
        metrics.PAUSE_SECONDS.observe(self._cost)
        metrics.STORED_BYTES.inc(int(taken.get("stored", 0)))
        log.info("checkpoint %d: %s", manifest.number, taken["seconds"])
        return True

    async def take_last(self, node: Node, epoch: int, variables: Variables = "no") -> bool:
        """Take the last one of a node that leaves. What fails, a full disk say, may work a moment
        later: the kernels run on.
        """
        while not await self.take(node, epoch, final=True, variables=variables):
            too_late = self._no_time or self.patience(node) < PAUSE_BEFORE_LAST
            if self.is_given_up(epoch) or too_late:
                return False
            await node.while_there(asyncio.sleep(PAUSE_BEFORE_LAST))
        return True

    def _work(self) -> float:
        """Seconds that the newest checkpoint lacks, at most: they would have to run again."""
        activity, now = self._channels.activity(), time.monotonic()
        if activity.busy:
            return now - self._last
        if self.covers(activity.ended):
            return 0.0
        return now - max(self._last, self._changed or activity.at)

    def show(self, manifest: Manifest, taken: dict[str, Any] | None = None) -> None:
        """Tell the user which checkpoint is the newest."""
        taken = taken or {}
        facts = CheckpointFacts(
            manifest.number,
            manifest.created,
            int(taken.get("stored", 0)),
            sum(pack.size for pack in manifest.packs),
            float(taken.get("pause", 0.0)),
        )
        self._status.update(checkpoint=facts)

    def patience(self, node: Node) -> float:
        """Return for how many seconds the node's last checkpoint may wait: for a running cell to
        end, for what failed to work again.
        """
        return max(0.0, node.left() - TO_STORE - 2 * self._cost)

    def _arrival(self, node: Node) -> float:
        return self.patience(node) if node.draining else ARRIVAL

    def _failed(self, error: Exception) -> None:
        metrics.FAILED.inc()
        self._retry_at = time.monotonic() + self._retry_delay
        self._retry_delay = min(self._retry_delay * 2, RETRY_AFTER[1])
        manifest = self.chain.manifest
        newest = f"checkpoint {manifest.number}" if manifest else "none yet"
        hint = str(getattr(error, "hint", ""))
        why = str(error).removesuffix(".")
        text = f"a checkpoint could not be made: {why}. Newest: {newest}. {hint}"
        self._status.warn("checkpoint", text.strip())


def _not_in(manifest: Manifest, lost: dict[str, str], called: Callable[[str], str]) -> str | None:
    """Return what of the kernels a loss of the node would take away, in words."""
    told = [f"{called(kernel)}: {what}" for kernel, what in lost.items()]
    told += [
        f"{called(kernel)}: {part.detail['unsaved']}"
        for kernel, part in manifest.processes.items()
        if "unsaved" in part.detail
    ]
    return f"not in the checkpoints: {'; '.join(told)}" if told else None
