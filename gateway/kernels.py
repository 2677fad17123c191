"""The kernels of this gateway: records, channels, and the seam to whoever runs them.

A record is what is *wanted* and is written down (`<directory>/<id>/kernel.json`, beside the
kernel's journal); what is *observed* (busy, connected clients) is not.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from gateway import durable, journal
from gateway.channel import KernelChannel
from gateway.errors import BadRequest, KernelNotFound
from gateway.notebook_sessions import NotebookSessions
from gateway.observer import KernelExit, Observer
from gateway.rollback import Mode, Rollback

log = logging.getLogger(__name__)

State = Literal["starting", "running", "ended"]


@dataclass
class KernelRecord:
    """What is known of a kernel, whatever node it is on.

    `path`: working directory below the workspace; `notebook`: path of the notebook it was started
    for; `generation` grows with every restart by the user: checkpoints of an older generation hold
    another life of the kernel. All that its process has ever been asked comes after the input
    `since`; None: that is not known.
    """

    id: str
    name: str
    env: dict[str, str] = field(default_factory=dict)
    path: str = ""
    notebook: str = ""
    created: str = ""
    state: State = "starting"
    generation: int = 0
    since: int | None = None


class Compute(Protocol):
    """Runs kernels somewhere. The keeper implements it; tests do with plain processes.

    Errors are `GatewayError`s (or have their attributes): they reach the user as they are.
    """

    async def start(self, record: KernelRecord, next_seq: int, applied: int) -> None:
        """Start a fresh kernel; its shim begins with these numbers. Attach the node to the
        kernel's channel, now or when there is one."""

    async def stop(self, kernel_id: str, final: bool) -> None:
        """Stop a kernel. `final`: it is deleted, and nothing of it is wanted any more."""

    async def interrupt(self, kernel_id: str) -> None:
        """Interrupt what the kernel runs now."""

    async def restart(self, record: KernelRecord, next_seq: int, applied: int) -> None:
        """Replace the kernel's process by a fresh one, as `start`."""

    def kernelspecs(self) -> dict[str, dict[str, Any]]:
        """name → `{"name", "spec", "resources"}`; resources: name → file name."""

    async def kernelspec_resource(self, name: str, file: str) -> bytes | None:
        """Content of a resource (a logo, say), None if there is none."""


class Kernels(Observer):
    """All kernels, over restarts of the gateway. `observer` may be set later. `environment`: what
    new ones have in theirs, unless who starts one says otherwise."""

    def __init__(
        self,
        directory: Path,
        observer: Observer | None = None,
        on_rollback: Mode = "replay",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.environment = dict(environment or {})
        self.observer = observer or Observer()
        self.on_rollback: Mode = on_rollback
        self.records: dict[str, KernelRecord] = {}
        self._channels: dict[str, KernelChannel] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        directory.mkdir(parents=True, exist_ok=True)
        self.notebooks = NotebookSessions(directory / "notebook-sessions.json")
        self.damaged: list[Path] = []
        for file in sorted(directory.glob("*/kernel.json")):
            try:
                self._open(KernelRecord(**json.loads(file.read_text())))
            except (ValueError, TypeError) as error:
                # The others go on; this one may be in a checkpoint.
                log.error("%s: %s", file, error)
                self.damaged.append(file)

    def __contains__(self, kernel_id: str) -> bool:
        return kernel_id in self.records

    def _open(self, record: KernelRecord) -> KernelChannel:
        kept = journal.Journal(self.directory / record.id)
        channel = KernelChannel(record.id, kept, self, self.on_rollback)
        if record.state == "ended":
            channel.ended, channel.execution_state = True, "dead"
            channel.ends.abort_pending("KernelEnded", "The kernel has ended. Restart it to go on.")
        elif record.state == "running":
            channel.execution_state = "busy" if channel.works else "idle"
        self.records[record.id] = record
        self._channels[record.id] = channel
        return channel

    def create(
        self,
        name: str,
        env: dict[str, str] | None = None,
        path: str = "",
        kernel_id: str | None = None,
        notebook: str = "",
    ) -> KernelRecord:
        """Note a new kernel; starting it is the caller's. Raises `BadRequest`."""
        try:
            kernel_id = str(uuid.UUID(kernel_id)) if kernel_id else str(uuid.uuid4())
        except ValueError:
            raise BadRequest(f"A kernel id is a UUID, {kernel_id!r} is none.") from None
        if kernel_id in self.records:
            raise BadRequest(f"There is a kernel {kernel_id} already.")
        record = KernelRecord(
            id=kernel_id,
            name=name,
            env={**self.environment, **(env or {})},
            path=path,
            notebook=notebook,
            created=datetime.now(UTC).isoformat(),
        )
        self._open(record)
        self.save(record)
        return record

    def has_journal(self, kernel_id: str) -> bool:
        """Whether the kernel's journal is on this disk, even if its record cannot be read."""
        return journal.exists(self.directory / kernel_id)

    def adopt(
        self, record: KernelRecord, inputs: int, journaled: Path | None = None
    ) -> KernelChannel:
        """Take over a kernel of another gateway, from a checkpoint whose last input is `inputs`.

        New inputs are numbered after it. `journaled`: a directory with the kernel's journal of that
        moment, which is moved here unless there is one. Nothing if the kernel is known here.
        """
        if record.id in self.records:
            return self._channels[record.id]
        if journaled is not None and not self.has_journal(record.id):
            place = self.directory / record.id
            shutil.rmtree(place, ignore_errors=True)
            journaled.rename(place)
        channel = self._open(record)
        if inputs > channel.link.inputs.last:
            channel.link.inputs.skip_to(inputs + 1)
            channel.link.acked = channel.link.sent_high = inputs
        self.save(record)
        return channel

    def snapshots(self) -> dict[str, journal.Snapshot]:
        """Every kernel's journal at this moment, by kernel id."""
        return {name: channel.journal.snapshot() for name, channel in self._channels.items()}

    def save(self, record: KernelRecord) -> None:
        """Write a record down, in one step."""
        durable.replace(self.directory / record.id / "kernel.json", json.dumps(asdict(record)))

    def record(self, kernel_id: str) -> KernelRecord:
        """Raises `KernelNotFound`."""
        try:
            return self.records[kernel_id]
        except KeyError:
            raise KernelNotFound(kernel_id) from None

    def channel(self, kernel_id: str) -> KernelChannel:
        """Raises `KernelNotFound`."""
        try:
            return self._channels[kernel_id]
        except KeyError:
            raise KernelNotFound(kernel_id) from None

    def lock(self, kernel_id: str) -> asyncio.Lock:
        """One start, stop or restart at a time."""
        return self._locks.setdefault(kernel_id, asyncio.Lock())

    async def restart(self, kernel_id: str, compute: Compute) -> None:
        """Restart at the user's wish. Raises `KernelNotFound`, and what `Compute` raises."""
        async with self.lock(kernel_id):
            record, channel = self.record(kernel_id), self.channel(kernel_id)
            channel.restarting()
            record.generation += 1
            record.state = "starting"
            self.save(record)
            try:
                await compute.restart(record, **channel.positions())
            except Exception as error:
                # Nobody tries again by itself: whoever waits, and asks from now on, is told.
                self.end(kernel_id, f"The kernel could not be started again: {error}")
                raise

    def end(self, kernel_id: str, reason: str) -> None:
        """The kernel has no process and gets none, until its user restarts it."""
        self._now(kernel_id, "ended")
        self.channel(kernel_id).end(reason)

    def go_back(self, kernel_id: str, generation: int, reason: str, inputs: int = 0) -> None:
        """The kernel goes on from an earlier moment, under `generation`, or from one at which
        another gateway had given it `inputs`. What it was asked is answered with `reason`; one that
        had ended runs again. Raises `KernelNotFound`."""
        record, channel = self.record(kernel_id), self.channel(kernel_id)
        channel.go_back(reason)
        if inputs > channel.link.inputs.last:
            channel.link.inputs.skip_to(inputs + 1)
            channel.link.acked = channel.link.sent_high = inputs
        record.generation, record.state, record.since = generation, "running", None
        self.save(record)

    def remove(self, kernel_id: str) -> None:
        """Forget a kernel, and its journal; its clients are sent away."""
        self.records.pop(kernel_id, None)
        channel = self._channels.pop(kernel_id, None)
        self._locks.pop(kernel_id, None)
        if channel is not None:
            channel.close(deleted=True)
        shutil.rmtree(self.directory / kernel_id, ignore_errors=True)
        self.notebooks.kernel_gone(kernel_id)

    def called(self, kernel_id: str) -> str:
        """What a user calls the kernel: by its notebook, else by the beginning of its id."""
        return self.notebooks.path_of(kernel_id) or f"kernel {kernel_id[:8]}"

    def model(self, kernel_id: str) -> dict[str, Any]:
        """The kernel as REST clients see it. Raises `KernelNotFound`."""
        record, channel = self.record(kernel_id), self.channel(kernel_id)
        return {
            "id": record.id,
            "name": record.name,
            "last_activity": channel.last_activity.isoformat().replace("+00:00", "Z"),
            "execution_state": channel.execution_state,
            "connections": sum(not feed.watches for feed in channel.outlet.feeds),
        }

    def close(self) -> None:
        """Close all journals; the records stay."""
        for channel in self._channels.values():
            channel.close(deleted=False)

    # -- Observer: note what changes a record, pass everything on ------------------------------

    def _now(self, kernel_id: str, state: State) -> None:
        record = self.records.get(kernel_id)
        if record is not None and record.state != state:
            record.state = state
            self.save(record)

    def started(self, kernel_id: str) -> None:
        self._now(kernel_id, "running")
        self.observer.started(kernel_id)

    def exited(self, kernel_id: str, ended: KernelExit) -> str | None:
        comes_back = self.observer.exited(kernel_id, ended)
        if comes_back is None:
            self._now(kernel_id, "ended")
        return comes_back

    def rolled_back(self, rollback: Rollback) -> None:
        self.observer.rolled_back(rollback)

    def interrupt_again(self, kernel_id: str) -> None:
        self.observer.interrupt_again(kernel_id)

    def fenced(self, kernel_id: str, epoch: int) -> None:
        self.observer.fenced(kernel_id, epoch)

    def missing(self, kernel_id: str, count: int) -> None:
        self.observer.missing(kernel_id, count)

    def wanted(self, kernel_id: str, msg_type: str) -> None:
        self.observer.wanted(kernel_id, msg_type)

    def heavy(self, seconds: float) -> None:
        self.observer.heavy(seconds)

    def busy(self, kernel_id: str) -> None:
        self.observer.busy(kernel_id)

    def request_done(self, kernel_id: str, msg_type: str) -> None:
        self.observer.request_done(kernel_id, msg_type)
