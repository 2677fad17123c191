"""Going back: the session goes on from an earlier checkpoint, because its user wants it to.

What is now is saved and tagged first. Then the earlier checkpoint becomes the newest one, under the
next number: from that moment it is what the session is, whatever ends or fails, and all that
follows is done by bringing the session up as after a loss. The kernels of that checkpoint get a new
*generation* in it: where a gateway's record has a lower one, that gateway has not gone back yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from checkpoint import tags
from checkpoint.errors import CheckpointError, StaleWriter
from checkpoint.manifest import Body, Manifest
from gateway.errors import GatewayError
from sessionkeeper.errors import SessionkeeperError, Unavailable
from sessionkeeper.keeper.chain import WENT_BACK
from sessionkeeper.keeper.channels import Channels
from sessionkeeper.keeper.checkpoints import Checkpoints
from sessionkeeper.keeper.epochs import Epochs
from sessionkeeper.keeper.incarnation import Incarnation, Incarnations
from sessionkeeper.keeper.node import NodeLost
from sessionkeeper.keeper.presence import Presence
from sessionkeeper.keeper.words import Recovery
from sessionkeeper.keeper.writes import WriteJournal

log = logging.getLogger(__name__)

PATIENCE = 120.0
"""Seconds until who asks is told that there is no node to save what is now."""

_HELD = "sessionkeeper-goes-back-here"
"""The name of the checkpoint that somebody goes back to, until it is the newest. No user's."""


class NotSaved(SessionkeeperError):
    """What is now could not be saved, so it was not given up."""

    code = "not_saved"
    retryable = True
    hint = (
        "interrupt what runs and try again; --discard goes back all the same, and what is now is"
        " lost"
    )


@dataclass
class WentBack:
    """The session goes on from checkpoint ``to``, which is ``number`` now. What was before is in
    ``saved`` and is called ``tag`` (None: it was not to be saved).
    """

    to: int
    number: int
    saved: int | None
    tag: str | None


@dataclass
class _Wish:
    to: Manifest
    discard: bool
    answer: asyncio.Future[WentBack] = field(default_factory=lambda: asyncio.Future())


class GoingBack:
    """Of one session. :meth:`ask` is for everybody, the rest for the session's task."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        channels: Channels,
        incarnations: Incarnations,
        journal: WriteJournal,
        epochs: Epochs,
        presence: Presence,
    ) -> None:
        self._chain = checkpoints.chain
        self._checkpoints = checkpoints
        self._channels = channels
        self._incarnations = incarnations
        self._journal = journal
        self._epochs = epochs
        self._presence = presence
        self._asked = False
        self._wish: _Wish | None = None

    async def ask(self, at: str, *, discard: bool = False) -> WentBack:
        """Have the session go back to the checkpoint of that number or tag; returns when it is the
        newest and what ran before has ended. With ``discard`` what is now is not saved.

        Raises ``UnknownCheckpoint``, ``UnknownTag``, ``Damaged``, :class:`NotSaved`,
        :class:`Unavailable`, and what the store raises; the session is as it was then.
        """
        if self._asked:
            raise Unavailable("the session is going back to another checkpoint just now")
        self._asked = True
        try:
            wish = self._wish = _Wish(await asyncio.to_thread(self._find, at), discard)
            self._presence.changes.note()
            done = await asyncio.wait_for(wish.answer, PATIENCE)
            while (here := self._presence.here) is not None and here.epoch <= self._chain.over:
                await self._presence.changes.watch()
            return done
        except TimeoutError:
            why = self._presence.status.warnings.get("placement", "it is on its way")
            raise Unavailable(f"the session does not run, so it cannot be saved: {why}") from None
        finally:
            self._asked, self._wish = False, None
            await self.tidy()

    async def tidy(self) -> None:
        """Nobody goes back to a checkpoint any more: its name is none."""
        with contextlib.suppress(CheckpointError):
            await asyncio.to_thread(tags.untag, self._chain.repository, _HELD)

    @property
    def wanted(self) -> bool:
        """Somebody asked for it."""
        return self._wish is not None

    @property
    def unsaved(self) -> bool:
        """There is something that no checkpoint has, and nobody said that it may go."""
        discard = self._wish is not None and self._wish.discard
        return not discard and bool(self._journal.after(self._chain.writes))

    async def commit(self, here: Incarnation | None) -> None:
        """Save what is now, and make the checkpoint that is wanted the newest. Whoever asked is
        told what became of it. Raises ``NodeLost``, ``StaleWriter``.
        """
        wish = self._wish
        if wish is None:
            return
        try:
            saved = None if wish.discard else await self._save(here)
            body = self._body(wish, saved)
            newest = self._chain.manifest
            epoch = max(self._epochs.epoch, newest.epoch if newest else 0)
            manifest = await self._chain.commit(body, epoch, wish.to.number)
        except NodeLost:
            raise  # what was to be saved is lost, and the wish is still there
        except Exception as error:
            self._wish = None
            self._checkpoints.journals.forget()
            if not wish.answer.done():
                wish.answer.set_exception(error)
            if here is not None and not wish.discard:
                await self._thaw(here)
            if not isinstance(error, (CheckpointError, SessionkeeperError)) or (
                isinstance(error, StaleWriter)
            ):
                raise
            return
        self._wish = None
        if not wish.answer.done():
            tag = None if saved is None else _tag(saved)
            wish.answer.set_result(WentBack(wish.to.number, manifest.number, saved, tag))

    async def apply(self) -> bool:
        """Bring what this gateway knows in line with the newest checkpoint, if that is of another
        life: of one that was gone back to, or of another gateway. False: it is not.
        """
        manifest, known = self._chain.manifest, self._epochs.epoch
        if manifest is None:
            return False
        # What another gateway did since this one last looked is not told by its epoch.
        if not self._chain.foreign and known > max(manifest.epoch - 1, self._chain.over):
            return False
        await self.adopt(other=self._chain.foreign)
        self._epochs.next(manifest.epoch)
        return True

    async def adopt(self, *, other: bool = False) -> None:
        """Go on with the kernels of the newest checkpoint, from where they are in it; it may be of
        an ``other`` gateway.
        """
        manifest = self._chain.manifest
        if manifest is None:
            return
        self._journal.skip_to(self._chain.writes)
        went_back = WENT_BACK in manifest.meta
        records = manifest.meta["kernels"] if went_back else kernels_of(manifest)
        why = f"This is not run any further: the session {self._why(manifest)}."
        lacking = self._channels.lacking(records)
        found, damaged = await self._checkpoints.journals.bring(manifest, lacking)
        self._channels.go_back(records, why, other=other, journals=found, over=went_back)
        for kernel_id in damaged:
            text = f"what it said before checkpoint {manifest.number} is damaged in the store"
            self._presence.status.say(text, "error", kernel=kernel_id)
        self._checkpoints.show(manifest)

    def recovery(self, node: str) -> Recovery:
        """Return the way back that begins now."""
        manifest = self._chain.manifest
        told = self._why(manifest) if manifest is not None else None
        now = time.monotonic()
        return Recovery(node, planned=False, began=now, told_as=told, cause="went_back")

    # -- small things --------------------------------------------------------------------------

    def _find(self, at: str) -> Manifest:
        repository = self._chain.repository
        if at.isdecimal():
            # Under a name of its own, so that nobody thins it out meanwhile.
            tags.tag(repository, _HELD, int(at))
        target = tags.resolve(repository, _HELD if at.isdecimal() else at)
        repository.reader(target).close()  # what is damaged is found now, and nothing was changed
        return target

    async def _save(self, here: Incarnation | None) -> int | None:
        if here is not None and not await self._checkpoints.take(here.node, here.epoch, final=True):
            text = self._presence.status.warnings.get("checkpoint", "a kernel is busy")
            raise NotSaved(f"what is now could not be saved, so the session stays as it is: {text}")
        newest = self._chain.manifest
        if newest is None:
            return None
        await asyncio.to_thread(
            tags.tag, self._chain.repository, _tag(newest.number), newest.number
        )
        return newest.number

    def _body(self, wish: _Wish, saved: int | None) -> Body:
        """The earlier checkpoint as the newest. What was written since it was saved is written
        again; all before is in what was saved.
        """
        then, now = kernels_of(wish.to), self._channels.records()
        kernels = {
            kernel_id: {
                **then.get(kernel_id, now.get(kernel_id, {})),
                "generation": 1
                + max(one.get(kernel_id, {}).get("generation", 0) for one in (then, now)),
                "inputs": now.get(kernel_id, then.get(kernel_id, {})).get("inputs", 0),
            }
            for kernel_id in {**then, **now}
            if kernel_id in then or not now[kernel_id].get("ended", False)
        }
        processes = {
            kernel_id: replace(
                part,
                detail={**part.detail, "generation": kernels[kernel_id]["generation"]},
            )
            for kernel_id, part in wish.to.processes.items()
        }
        meta = {
            **wish.to.meta,
            "writes": self._journal.last if wish.discard else self._chain.writes,
            "kernels": kernels,
            WENT_BACK: {"to": wish.to.number, "saved": saved},
        }
        return replace(wish.to.body, processes=processes, meta=meta)

    async def _thaw(self, here: Incarnation) -> None:
        """The kernels go on: they were stopped for a last checkpoint that is none."""
        self._incarnations.end(here)
        self._presence.here = None
        try:
            again = await self._incarnations.take_up(here.node, here.epoch)
        except GatewayError as error:
            log.info("session %s goes on later: %s", here.session, error)
            return  # the next step takes it up
        self._presence.here = again
        self._incarnations.attach(again)

    def _why(self, manifest: Manifest) -> str:
        found = manifest.meta.get(WENT_BACK)
        if found is None:
            return f"goes on from checkpoint {manifest.number}"
        text = f"went back to checkpoint {found['to']}"
        if found["saved"] is None:
            return f"{text}; what was before was not to be saved"
        return f"{text}; what was before is checkpoint {found['saved']}, {_tag(found['saved'])}"


def kernels_of(manifest: Manifest) -> dict[str, Mapping[str, Any]]:
    """The records of the kernels in a checkpoint, by id, with the generation they have in it."""
    said: Mapping[str, Mapping[str, Any]] = manifest.meta.get("kernels", {})
    unknown = {"name": "", "env": {}, "path": "", "notebook": "", "created": "", "inputs": 0}
    return {
        kernel_id: {
            **unknown,
            "name": part.detail.get("name", ""),
            **said.get(kernel_id, {}),
            "generation": part.detail.get("generation", 0),
        }
        for kernel_id, part in manifest.processes.items()
    }


def _tag(number: int) -> str:
    return f"before-going-back-{number}"
