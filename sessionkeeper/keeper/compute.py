"""Between the gateway's kernels and the session that runs them: each as the other wants to see
it.
"""

from __future__ import annotations

import base64
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gateway.journal import Snapshot
from gateway.kernels import KernelRecord, Kernels
from gateway.notebook_sessions import NotebookSession
from gateway.observer import KernelExit, Observer
from gateway.rollback import Rollback
from sessionkeeper.keeper.channels import Activity, Position
from sessionkeeper.keeper.image import SessionImage
from sessionkeeper.keeper.keeper import SessionKeeper
from sessionkeeper.keeper.node import Node
from sessionkeeper.keeper.nodes import Nodes
from sessionkeeper.keeper.out_of_memory import OutOfMemory
from sessionkeeper.keeper.words import ONLY_LOOKS, rolled_back

KEPT = ("name", "env", "path", "notebook", "created", "generation")
"""What a checkpoint keeps of a kernel's record."""


EXPECTED: dict[str, Any] = {
    "name": "python3",
    "spec": {"argv": [], "display_name": "Python 3 (ipykernel)", "language": "python"},
    "resources": {},
}


class KernelChannels:
    """The kernels of the gateway, for the keeper (its ``Channels``)."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._done = 0
        self._done_at = 0.0

    def called(self, kernel_id: str) -> str:
        return self._kernels.called(kernel_id)

    def wanted(self) -> list[dict[str, Any]]:
        return [
            describe(
                record,
                **self._kernels.channel(record.id).positions(),
                since=record.since,
            )
            for record in self._kernels.records.values()
            if record.state != "ended"
        ]

    def records(self) -> dict[str, dict[str, Any]]:
        return {
            record.id: {
                **{name: getattr(record, name) for name in KEPT},
                "notebook": self._kernels.notebooks.path_of(record.id) or record.notebook,
                "inputs": self._kernels.channel(record.id).link.inputs.last,
                "ended": record.state == "ended",
                "notebook_sessions": [
                    asdict(one)
                    for one in self._kernels.notebooks.all()
                    if one.kernel_id == record.id
                ],
            }
            for record in self._kernels.records.values()
        }

    def snapshots(self) -> Mapping[str, Snapshot]:
        return self._kernels.snapshots()

    def lacking(self, kernels: Iterable[str]) -> list[str]:
        return [kernel for kernel in kernels if not self._kernels.has_journal(kernel)]

    def refuse(self, why: str) -> None:
        for kernel_id in self._kernels.records:
            self._kernels.channel(kernel_id).refuse(why)

    def go_back(
        self,
        records: Mapping[str, Mapping[str, Any]],
        why: str,
        *,
        other: bool = False,
        journals: Mapping[str, Path] | None = None,
        over: bool = False,
    ) -> None:
        for kernel_id, said in records.items():
            if kernel_id not in self._kernels:
                facts = {name: said[name] for name in KEPT}
                record = KernelRecord(kernel_id, **facts, state="running")
                journal = (journals or {}).get(kernel_id)
                channel = self._kernels.adopt(record, int(said["inputs"]), journal)
                if over and journal is not None:
                    channel.go_back(why)
                notebook, notebooks = str(said["notebook"]), self._kernels.notebooks
                for one in said.get("notebook_sessions", ()):
                    notebooks.take_over(NotebookSession(**one))
                if notebook and notebooks.by_path(notebook) is None:
                    name = notebook.rpartition("/")[2]
                    notebooks.create(notebook, name, "notebook", kernel_id)
            elif other or self._kernels.record(kernel_id).generation < said["generation"]:
                inputs = int(said["inputs"]) if other else 0
                self._kernels.go_back(kernel_id, int(said["generation"]), why, inputs)

    def begins(self, kernel_id: str, applied: int) -> None:
        """A fresh process is started for the kernel; nothing up to the input ``applied`` reaches
        it. That is written down: until there is a checkpoint, it is what brings the kernel back.
        """
        record = self._kernels.record(kernel_id)
        record.since = applied
        self._kernels.save(record)

    def give_up(self, kernel_id: str, upto: int, why: str) -> None:
        if kernel_id in self._kernels:
            self._kernels.channel(kernel_id).ends.abort_pending("KernelLost", why, upto)

    def end(self, kernel_id: str, why: str) -> None:
        if kernel_id in self._kernels:
            self._kernels.end(kernel_id, why)

    def attach(
        self, kernel_id: str, send: Callable[[bytes | memoryview], None], epoch: int
    ) -> None:
        self._kernels.channel(kernel_id).attach_node(send, epoch)

    def detach(self, kernel_id: str) -> None:
        self._kernels.channel(kernel_id).detach_node()

    def position(self, kernel_id: str) -> Position:
        link = self._kernels.channel(kernel_id).link
        return Position(applied=link.acked, produced=link.received[1])

    def release(self, kernel_id: str, position: Position) -> None:
        if kernel_id in self._kernels:
            self._kernels.channel(kernel_id).release(position.applied, position.produced)

    def gone(self, kernel_id: str) -> None:
        if kernel_id in self._kernels and self._kernels.record(kernel_id).state != "ended":
            self._kernels.channel(kernel_id).exited(KernelExit(None, signal.SIGKILL))

    def activity(self) -> Activity:
        busy = any(
            self._kernels.channel(kernel_id).execution_state == "busy"
            for kernel_id in self._kernels.records
        )
        return Activity(self._done, self._done_at, busy)

    def pending(self) -> bool:
        links = (
            self._kernels.channel(record.id).link
            for record in self._kernels.records.values()
            if record.state != "ended"
        )
        return any(link.inputs.last > link.acked for link in links)

    def done(self, msg_type: str) -> None:
        """A request of that type has ended."""
        if msg_type not in ONLY_LOOKS:
            self._done += 1
            self._done_at = time.monotonic()


class SessionCompute(Observer):
    """The session, for the gateway: what starts its kernels, and what is told of them."""

    def __init__(
        self,
        kernels: Kernels,
        channels: KernelChannels,
        keeper: SessionKeeper,
        nodes: Nodes,
        image: SessionImage | None = None,
    ) -> None:
        self._kernels = kernels
        self._channels = channels
        self._keeper = keeper
        self._nodes = nodes
        self._image = image
        self._specs: dict[str, dict[str, Any]] = {}
        self.out_of_memory = OutOfMemory(kernels, keeper, self)

    # -- gateway.kernels.Compute ---------------------------------------------------------------

    async def start(self, record: KernelRecord, next_seq: int, applied: int) -> None:
        self._channels.begins(record.id, applied)
        self._keeper.sleep.wake()
        await self._keeper.kernels.start(describe(record, next_seq, applied))

    async def stop(self, kernel_id: str, final: bool) -> None:
        await self._keeper.kernels.stop(kernel_id)

    async def interrupt(self, kernel_id: str) -> None:
        await self._keeper.kernels.interrupt(kernel_id)

    async def restart(self, record: KernelRecord, next_seq: int, applied: int) -> None:
        self._channels.begins(record.id, applied)
        self._keeper.sleep.wake()
        await self._keeper.kernels.stop(record.id)
        await self._keeper.kernels.start(describe(record, next_seq, applied))

    def kernelspecs(self) -> dict[str, dict[str, Any]]:
        """Those of its image, else those of all nodes; the last ones known while there is no node,
        also to a gateway before this one. Where nodes are started for sessions there may not have
        been one yet: then the one that every image has.
        """
        if self._image is None or self._image.reference is None:
            for node in self._nodes:
                specs = node.hello.get("kernelspecs", {})
                # A machine that joined adds some; what the operator's nodes have stays as it is.
                self._specs = {**specs, **self._specs} if joined(node) else {**self._specs, **specs}
            if self._image is not None and self._specs:
                self._image.learn(self._specs)
        known = self._known()
        if not known and self._nodes.pool.reserved.on_demand:
            return {"python3": EXPECTED}
        return {
            name: {
                **spec,
                "resources": {file.partition(".")[0]: file for file in spec["resources"]},
            }
            for name, spec in known.items()
        }

    def _known(self) -> dict[str, dict[str, Any]]:
        return self._specs or (self._image.kernelspecs() if self._image is not None else {})

    async def kernelspec_resource(self, name: str, file: str) -> bytes | None:
        found = self._known().get(name, {}).get("resources", {}).get(file)
        return base64.b64decode(found) if found else None

    # -- gateway.observer.Observer -------------------------------------------------------------

    def exited(self, kernel_id: str, ended: KernelExit) -> str | None:
        if (told := self.out_of_memory.exited(kernel_id)) is not None:
            self._keeper.status.say(told, "error", kernel=kernel_id)
            return told
        if ended.signal and self._keeper.kernels.bring_back(kernel_id, passes=ended.passes):
            text = f"{ended} It is brought back from its checkpoint; what ran is not run again."
            if ended.signal == signal.SIGKILL and not ended.why:
                text += " Most likely it was out of memory."
            self._keeper.status.say(text, "error", kernel=kernel_id)
            return text
        self._keeper.kernels.ended(kernel_id)
        last_words = ended.stderr.strip()
        if ended.signal:
            self._keeper.status.say(str(ended), "error", kernel=kernel_id)
        elif ended.code:
            words = f"\nIts last words:\n{last_words}" if last_words else ""
            self._keeper.status.say(f"{ended}{words}", "warning", kernel=kernel_id)
        return None

    def rolled_back(self, rollback: Rollback) -> None:
        self.out_of_memory.rolled_back(rollback)
        text = rolled_back(rollback)
        if text is not None:
            self._keeper.status.say(text, "warning", kernel=rollback.kernel_id, headline=False)

    def interrupt_again(self, kernel_id: str) -> None:
        self._keeper.kernels.interrupt_again(kernel_id)

    def missing(self, kernel_id: str, count: int) -> None:
        self._keeper.status.say(
            f"{count} outputs are lost; the end of the gateway's journal is missing",
            "error",
            kernel=kernel_id,
        )

    def wanted(self, kernel_id: str, msg_type: str) -> None:
        # Also for a request that only looks: a page that is opened asks for the kernel's info, and
        # sends no cell before it has it. One that is merely open asks for nothing.
        self._keeper.sleep.wake()
        self._keeper.changed()

    def heavy(self, seconds: float) -> None:
        self._nodes.stand_still(seconds)

    def busy(self, kernel_id: str) -> None:
        self._keeper.changed(soon=True)  # from now on the time that a cell takes counts

    def request_done(self, kernel_id: str, msg_type: str) -> None:
        self._channels.done(msg_type)
        self._keeper.changed(soon=True)


def joined(node: Node) -> bool:
    """Whether it is a machine that has joined, and not one of the operator's own."""
    return node.hello.get("joined") is True and node.hello.get("tier") != "on-demand"


def describe(
    record: KernelRecord, next_seq: int, applied: int, since: int | None = None
) -> dict[str, Any]:
    """Return what an agent needs to know of a kernel. All that it has ever been asked comes after
    the input ``since``; None: that is not known.
    """
    return {
        "kernel_id": record.id,
        "name": record.name,
        "env": record.env,
        "path": record.path,
        "generation": record.generation,
        "next_seq": next_seq,
        "applied": applied,
        "since": since,
    }
