"""Bringing a session up: on which nodes that failed, and from which checkpoint it goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from checkpoint.manifest import Manifest
from gateway.errors import GatewayError
from sessionkeeper.keeper.chain import Chain
from sessionkeeper.keeper.checkpoints import Checkpoints, Variables
from sessionkeeper.keeper.incarnation import Incarnation, Incarnations
from sessionkeeper.keeper.metrics import count
from sessionkeeper.keeper.node import Node
from sessionkeeper.keeper.nodes import Nodes
from sessionkeeper.keeper.presence import Presence
from sessionkeeper.keeper.words import Recovery
from sessionkeeper.placement import Needs, choose, differ, no_images

log = logging.getLogger(__name__)

FILES = "files_not_written"
"""What an agent says when nothing of the files could be written there."""

BAD_CHECKPOINT = {"damaged", "not_found", "unknown_format", "wrong_key"}
"""What an agent says when it is the checkpoint, not the node, that cannot be restored."""

STORE_AWAY = {"store_unavailable", "transfer_broken", "store_not_writable", "store_error"}
"""What an agent says when it could not read the checkpoint, which tells nothing about it."""


class Opening:
    """Tries to open a session, and remembers what did not work until something did."""

    def __init__(
        self, chain: Chain, incarnations: Incarnations, checkpoints: Checkpoints, presence: Presence
    ) -> None:
        self.failed: dict[str, str] = {}
        """Nodes that could not take it, and the code of what they said."""
        self._without_images = False
        self._instead = ""
        self.lost = ""
        """What the newest opening did not bring back, in words."""
        self._partly = self._without_kernels = False
        self._chain = chain
        self._incarnations = incarnations
        self._checkpoints = checkpoints
        self._presence = presence
        self._status = presence.status

    def needs(self) -> Needs:
        """What a node must have for it."""
        needs = self._chain.needs()
        return replace(needs, cpu=None) if self._without_kernels else needs

    def no_images(self, node: Node) -> str | None:
        """Why ``node`` is to load variables and not to restore process images; None: it restores
        what there is.
        """
        if self._without_kernels or self._chain.portable is None:
            return None
        if self._without_images:
            return "no node could restore its process images"
        why = no_images(node.facts(), self._chain.needs())
        return f"{node.name} {why}" if why else None

    def variables(self, nodes: Iterable[Node], node: Node, target: Node | None = None) -> Variables:
        """Whether variables are to be beside the images of ``node``, which ``target`` is to take,
        or any of ``nodes`` may have to.
        """
        facts, needs = node.facts(), self._chain.needs()
        if target is not None and differ(facts, [target.facts()], needs):
            return "needed"
        return "if idle" if differ(facts, [n.facts() for n in nodes], needs) else "no"

    async def stage(self, target: Node) -> None:
        """Have the process images brought to ``target``, if it can do something with them."""
        if self.no_images(target) is None:
            await self._incarnations.stage(target)

    async def stage_elsewhere(self, nodes: Nodes, suspect: Node, needs: Needs) -> None:
        """Have them brought to where a session that ``needs`` that would go without that node."""
        choice = choose([n.facts() for n in nodes if n is not suspect], needs)
        if choice.node:
            await self.stage(nodes.get(choice.node))

    async def open(self, node: Node, epoch: int) -> tuple[Incarnation, dict[str, Any]] | None:
        """Bring it up on ``node``; also returns what :meth:`say` says of it.

        None when that failed, which is said and remembered. Raises ``NodeLost``.
        """
        newest, why = self._chain.manifest, self.no_images(node)
        if why is not None:
            self._chain.manifest = self._chain.portable
        try:
            opened = await self._incarnations.open(
                node,
                epoch,
                restore_kernels=not self._without_kernels,
                partly=self._partly,
                no_images=why,
            )
        except GatewayError as error:
            if error.code not in BAD_CHECKPOINT:
                self._chain.manifest = newest
            self._presence.in_background(self._incarnations.close_on(node, epoch))
            await self._failed_on(node, error)
            return None
        except BaseException:
            self._chain.manifest = newest
            raise
        self._forget()
        self._status.warn("store", None)
        self._instead = self._told_instead(node, why, newest) if why and newest else ""
        self._status.kernels = opened[1]["kernels"]  # before it is said that the session runs
        return opened

    def _forget(self) -> None:
        """What was tried counts for nothing any more."""
        self.failed.clear()
        self._without_images = self._partly = self._without_kernels = False

    def _told_instead(self, node: Node, why: str, newest: Manifest) -> str:
        """What it means that variables were loaded, beside what each kernel lost."""
        manifest = self._chain.manifest
        assert manifest is not None
        files = "files" if node.runtime == "container" else "files of the workspace"
        text = (
            f"{why}: of checkpoint {manifest.number} the {files} were taken, and the variables of"
            " Python kernels. Threads, connections and child processes are not there any more"
        )
        if newest is not manifest:
            text += (
                f"; checkpoint {newest.number} is newer and was made in the middle of a cell,"
                " without variables: what came in between is run again"
            )
        return text

    def say(self, node: Node, opened: dict[str, Any], recovery: Recovery | None) -> None:
        """Tell the user that the session runs again, and what became of it."""
        lost = [
            f"{self._status.called(kernel_id)}: {outcome['why']}"
            for kernel_id, outcome in opened["kernels"].items()
            if outcome["state"] == "started" and outcome.get("why")
        ]
        if self._instead:
            lost.insert(0, self._instead)
            self._status.say(self._instead, "warning")
        if recovery is not None and not recovery.saved:
            lost.insert(0, "there was no last checkpoint, what came after the newest one ran again")
        self.lost = "; ".join(lost)
        log.info("session %s: opened on %s: %s", self._status.session, node.name, opened["seconds"])
        for text in opened["refused"]:
            self._status.say(text, "warning")
        for kernel_id, outcome in opened["kernels"].items():
            if outcome.get("why"):
                self._status.say(str(outcome["why"]), "warning", kernel=kernel_id)
        manifest = self._chain.manifest
        count(recovery, resumed=manifest is not None)
        if recovery is not None and not (recovery.planned and recovery.saved):
            lost_for = time.monotonic() - recovery.began
            node.pool.recovered(self._status.session, node.name, lost_for, recovery.repeated)
        if recovery is None:
            resumed = f" again, from checkpoint {manifest.number}" if manifest else ""
            self._status.say(f"runs on {node.name}{resumed}")
            return
        text = recovery.told(node.name, manifest)
        self._status.say(text, "info" if recovery.planned and recovery.saved else "warning")

    @property
    def store_is_away(self) -> bool:
        """Some node could not read the checkpoint, so nobody knows whether it could restore it."""
        return not STORE_AWAY.isdisjoint(self.failed.values())

    async def go_down(self) -> bool:
        """No node could open the session: try it with less. False: there is nothing less.

        Without the process images if there are variables beside them, then without the kernels
        that cannot be restored, then without any; and where it is the files that cannot be
        written, from an older checkpoint.
        """
        manifest = self._chain.manifest
        if manifest is None:
            return False
        if set(self.failed.values()) == {FILES}:
            # Nothing at all in its place would be no answer to a disk that is full.
            why = "no node could write its files."
            return await self._chain.has_older() and await self._step_back(manifest, why)
        if not manifest.processes or self._without_kernels:
            return False
        self.failed.clear()
        could_not = f"no node could restore the kernels of checkpoint {manifest.number}"
        if self._chain.portable is not None and not self._without_images:
            self._without_images = True
            text = (
                f"no node could restore the process images of checkpoint {manifest.number}:"
                " the variables beside them are tried"
            )
        elif not self._partly:
            self._partly = True
            text = f"{could_not}: those that can be restored are, the others start anew"
        else:
            self._without_kernels = True
            text = f"{could_not}: they start anew, and their variables are lost"
        self._status.say(text, "error" if self._partly else "warning")
        return True

    async def skip(self, why: str) -> None:
        """A kernel died of what its checkpoint lacks: go on from the one before, if any."""
        manifest = self._chain.manifest
        if manifest is not None and await self._chain.has_older():
            await self._step_back(manifest, why)

    async def _failed_on(self, node: Node, error: GatewayError) -> None:
        manifest = self._chain.manifest
        if error.code not in BAD_CHECKPOINT or manifest is None:
            self.failed[node.name] = error.code
            if error.code in STORE_AWAY:
                self._status.warn("store", f"the session waits for its store: {error}")
                return
            self._status.say(f"{node.name} could not take the session: {error}", "warning")
            return
        await self._step_back(manifest, str(error))

    async def _step_back(self, manifest: Manifest, why: str) -> bool:
        """Go on from the checkpoint before, if there is one; both is said."""
        older = await self._chain.step_back()
        went = f"going back to checkpoint {older.number}" if older else "there is no older one"
        self._status.say(
            f"checkpoint {manifest.number} was skipped, it cannot be restored: {why} {went}",
            "error",
        )
        self._forget()
        if older is not None:
            self._checkpoints.show(older)
        return True
