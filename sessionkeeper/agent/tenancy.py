"""A session's stay on this node, from being opened to being closed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Awaitable, Iterable, Mapping
from functools import partial
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from checkpoint.blobs import BlobStore
from checkpoint.errors import CheckpointError, StoreUnavailable
from checkpoint.manifest import Manifest, Part
from sessionkeeper.agent import beside, unsaved, variables
from sessionkeeper.agent.errors import FileRefused
from sessionkeeper.agent.hosted import HostedKernel, HostedSession, kernelspec_launch
from sessionkeeper.agent.kernelspecs import Specs
from sessionkeeper.agent.restorable import only, part_of, restorable
from sessionkeeper.agent.savepoint import Savepoints
from sessionkeeper.agent.saving import Saving
from sessionkeeper.agent.staging import Staged
from sessionkeeper.agent.stopwatch import Stopwatch
from sessionkeeper.agent.turns import Turns
from sessionkeeper.cpu import NodeCpu
from sessionkeeper.cpu_levels import held_to
from sessionkeeper.errors import SessionkeeperError

log = logging.getLogger(__name__)

PIECE = 4 << 20
LARGEST_IN_MEMORY = 64 << 20
GIVEN = "variables"
"""What a kernel loads, in the part of its exchange that it can only read."""


class Tenancy:
    """One session on this node. What it raises reaches the keeper as it is."""

    def __init__(
        self,
        hosted: HostedSession,
        savepoints: Savepoints,
        store: BlobStore,
        kernelspecs: Specs,
        cpu: NodeCpu,
        turns: Turns | None = None,
    ) -> None:
        self.hosted = hosted
        self.savepoints = savepoints
        self._store = store
        self._kernelspecs = kernelspecs
        self._cpu = cpu
        self._turns = turns or Turns()
        saving = Saving(hosted, savepoints, self._meta, self._turns)
        self.checkpoint, self.thaw = saving.checkpoint, saving.thaw

    async def open(
        self,
        manifest: int | None,
        kernels: list[dict[str, Any]],
        restore_kernels: bool,
        writes: list[dict[str, Any]],
        staged: Staged | None,
        no_images: str | None = None,
        partly: bool = False,
        interrupt: Iterable[str] = (),
    ) -> dict[str, Any]:
        """Bring the session up: files, then what was written to them since, then its kernels.

        ``no_images`` says why process images cannot be restored here, if they cannot: variables
        that were saved beside them are loaded into fresh kernels. ``partly``: a kernel that cannot
        be restored starts anew, and the others are restored; otherwise it raises. The kernels
        ``interrupt`` are not to go on with what they are in the middle of.

        Returns ``{"kernels": {id: {"state", "why"}}, "refused": [...], "seconds": {...}}``, where
        ``refused`` says which writes could not be done, and what of the files could not be set.
        """
        clock = Stopwatch()
        place = self.hosted.place
        newest: Manifest | None = None
        opened: Manifest | None = None
        images: Staged | None = None
        refused: list[str] = []
        # One turn for all of it: of many sessions some are up soon, instead of all late; and what
        # the images of one take is given back before the next one needs it.
        async with self._turns.turn():
            if manifest is None:
                await asyncio.to_thread(place.create)
            else:
                load, session = self.savepoints.load, self.hosted.session
                newest = await asyncio.to_thread(load, session, manifest)
                if not restore_kernels:
                    kernels = [{**kernel, "since": None} for kernel in kernels]
                wanted = {k["kernel_id"] for k in kernels} if restore_kernels else set()
                opened = only(newest, wanted)
                if no_images is not None:
                    opened = beside.fall_back(opened, no_images)
                problems, images = await asyncio.gather(
                    asyncio.to_thread(self.savepoints.restore_tree, opened),
                    asyncio.to_thread(self.savepoints.restore_images, opened, staged),
                )
                refused += [f"{unsaved.shown(path, place.home)}: {why}" for path, why in problems]
                self.hosted.writes = int(opened.meta.get("writes", 0))
            clock.lap("fetch")
            await asyncio.to_thread(place.open)
            restored = restorable(kernels, opened, images)
            failed = await self._restore(restored, images, partly)
            clock.lap("restore")
        # What was written after the checkpoint comes after what the kernels had open then.
        for write in writes:
            try:
                await self._redo(write)
            except FileRefused as error:
                # Done before, but to files that are not in the checkpoint.
                refused.append(f"{write['operation']} {write['path']} was not done again: {error}")
        clock.lap("files")
        for kernel_id in restored.keys() & set(interrupt):
            await asyncio.to_thread(place.interrupt, restored[kernel_id].slot)
        failed |= await self._let_go(restored, partly)
        others = [
            {**kernel, "since": None} if kernel["kernel_id"] in failed else kernel
            for kernel in kernels
            if kernel["kernel_id"] not in restored
        ]
        outcome = await self._start_others(others, opened, newest)
        for kernel_id, failure in failed.items():
            why = f"started anew, its variables are lost: {failure}"
            outcome[kernel_id] = {"state": "started", "why": why}
        outcome |= {kernel_id: {"state": "restored", "why": None} for kernel_id in restored}
        clock.lap("kernels")
        self.savepoints.go_on_from(opened, images)
        self._reaching = asyncio.create_task(self._reach_out())
        self.hosted.keep_warm()
        return {"kernels": outcome, "refused": refused, "seconds": clock.laps}

    async def _reach_out(self) -> None:
        try:
            await asyncio.to_thread(self.hosted.place.reach_out)
        except SessionkeeperError as error:
            log.warning("the kernels cannot reach the outside: %s", error)

    async def _restore(
        self, restored: dict[str, HostedKernel], images: Staged | None, partly: bool
    ) -> dict[str, Exception]:
        """Bring back the processes of all these kernels; they stand still.

        With ``partly``, those that cannot be are removed from ``restored`` and returned.
        """
        if images is None:
            return {}
        self.hosted.reserve(kernel.slot for kernel in restored.values())
        epoch, restore = self.hosted.epoch, self.savepoints.restore
        failed = await _each(
            {
                kernel_id: asyncio.to_thread(restore, kernel.slot, images.kernels[kernel_id], epoch)
                for kernel_id, kernel in restored.items()
            },
            partly,
        )
        for kernel_id in failed:
            await asyncio.to_thread(self.hosted.place.stop, restored.pop(kernel_id).slot)
        return failed

    async def _let_go(
        self, restored: dict[str, HostedKernel], partly: bool
    ) -> dict[str, Exception]:
        """Let them go on, and link them; ``partly`` as above."""
        slots = [kernel.slot for kernel in restored.values()]
        await asyncio.to_thread(self.hosted.place.thaw, slots)
        adopt = self.hosted.adopt
        failed = await _each({k: adopt(kernel) for k, kernel in restored.items()}, partly)
        for kernel_id in failed:
            del restored[kernel_id]
            await self.hosted.stop_kernel(kernel_id)
        return failed

    async def _start_others(
        self, kernels: list[dict[str, Any]], opened: Manifest | None, newest: Manifest | None
    ) -> dict[str, Any]:
        """Start the kernels whose processes do not come back, with their variables if those do."""
        outcome: dict[str, Any] = {}

        async def start(kernel: dict[str, Any]) -> None:
            kernel_id = kernel["kernel_id"]
            part = part_of(opened, kernel) if opened is not None else None
            if opened is not None and part is not None and part.engine == "namespace":
                outcome[kernel_id] = await self._load(opened, kernel, part)
                return
            if kernel["since"] is not None:
                # It began after the checkpoint, so all that it was asked can be asked again.
                await self._start(**{**kernel, "applied": kernel["since"]})
                outcome[kernel_id] = {"state": "started", "why": None}
                return
            await self._start(**kernel)
            why = None
            if kernel["applied"]:
                there = newest is not None and part_of(newest, kernel) is not None
                reason = "it could not be restored" if there else "no checkpoint has it"
                why = f"started anew: {reason}, its variables are lost"
            outcome[kernel_id] = {"state": "started", "why": why}

        await _each({kernel["kernel_id"]: start(kernel) for kernel in kernels})
        return outcome

    async def _load(self, manifest: Manifest, kernel: dict[str, Any], part: Part) -> dict[str, Any]:
        detail = part.detail
        if "unsaved" in detail:
            await self._start(**kernel)
            return {
                "state": "started",
                "why": f"{detail['unsaved']}; started anew, its variables are lost",
            }
        position = {"next_seq": detail["next_seq"], "applied": detail["applied"]}
        await self._start(**{**kernel, **position})
        place = self.hosted.place
        moved = Path(detail["workspace"]), Path(place.seen(place.home))
        hosted = self.hosted.kernels[kernel["kernel_id"]]
        try:
            exchange = await asyncio.to_thread(place.exchange, hosted.slot)
            if part.root is None and place.engine == "namespace":
                dumped = place.tree / variables.DIRECTORY / hosted.kernel_id
                why = await beside.load(hosted, exchange, dumped, moved)
            else:
                given = exchange.given / GIVEN
                load = self.savepoints.restore_variables
                await asyncio.to_thread(load, manifest, hosted.kernel_id, given)
                why = await beside.load(hosted, exchange, exchange.seen_given / GIVEN, moved)
                await asyncio.to_thread(shutil.rmtree, given, ignore_errors=True)
        except StoreUnavailable:
            raise  # that passes: all is tried again
        except CheckpointError as error:
            await variables.release([hosted])
            return {"state": "started", "why": f"its variables are lost: {error}"}
        told = filter(None, (detail.get("stale"), why))
        return {"state": "restored", "why": "; ".join(told) or None}

    async def start_kernel(self, **kernel: Any) -> None:
        """Start a kernel of the kernelspec ``name`` in the directory ``path`` of the workspace."""
        await self._start(**kernel)
        self.hosted.keep_warm()

    async def _start(
        self,
        kernel_id: str,
        name: str,
        env: dict[str, str],
        path: str | None,
        generation: int,
        next_seq: int,
        applied: int,
        since: int | None = None,
    ) -> None:
        spec, resources = await asyncio.to_thread(self._kernelspecs.find, name)
        cwd = await self._directory(path or "")
        launch = kernelspec_launch(spec, resources, env, cwd)
        if self._cpu.level:
            env = held_to(self._cpu.level, launch["env"])
            launch = {**launch, "env": env, "cpu": self._cpu.level}
        await self.hosted.start_kernel(kernel_id, name, generation, launch, next_seq, applied)

    async def _redo(self, write: dict[str, Any]) -> None:
        """Do what was done before on another node, also in directories that the checkpoint has not:
        what was saved there is kept.
        """
        if int(write["number"]) > self.hosted.writes and write["operation"] != "delete":
            above = (write["to"] or write["path"]).strip("/").split("/")[:-1]
            for depth in range(1, len(above) + 1):
                with contextlib.suppress(FileRefused):  # it is there, or the write itself will tell
                    await self.in_workspace("mkdir", "/".join(above[:depth]))
        await self.apply(write)

    async def apply(self, write: dict[str, Any]) -> Any:
        """Do a recorded write of the UI, unless it was done before. Raises :class:`FileRefused`."""
        async with self.hosted.changing:
            number = int(write["number"])
            if number <= self.hosted.writes:
                return await self.in_workspace("stat", write["to"] or write["path"])
            try:
                done = await self._apply(number, write)
            except FileRefused:
                self.hosted.writes = number  # refused for good, it is dealt with as well
                raise
            self.hosted.writes = number
            return done

    async def _apply(self, number: int, write: dict[str, Any]) -> Any:
        operation, path = write["operation"], write["path"]
        if operation in {"write", "append"}:
            append = operation == "append"
            # Not by a thread of the session's user, who may not read what this program consists of.
            with await asyncio.to_thread(self._fetch, number, int(write["size"])) as content:
                fill = partial(shutil.copyfileobj, content, length=PIECE)
                return await self.in_workspace("write", path, fill, append=append, at=write["at"])
        if operation == "mkdir":
            return await self.in_workspace("mkdir", path)
        if operation == "delete":
            await self.in_workspace("delete", path, recursive=bool(write["recursive"]))
            return {}
        return await self.in_workspace(operation, path, write["to"])

    def _fetch(self, number: int, size: int) -> IO[bytes]:
        content = SpooledTemporaryFile(max_size=LARGEST_IN_MEMORY)  # noqa: SIM115
        for start in range(0, size, PIECE):
            content.write(self._store.get(f"writes/{number}", start, min(PIECE, size - start)))
        content.seek(0)
        return content

    async def in_workspace(self, what: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the live workspace, as the session's user."""
        loop = asyncio.get_running_loop()
        method = getattr(self.hosted.workspace, what)
        return await loop.run_in_executor(self.hosted.files, lambda: method(*arguments, **options))

    async def close(self) -> None:
        """End everything of the session here."""
        await self.hosted.close()
        await asyncio.to_thread(self.savepoints.close)

    def _meta(self) -> dict[str, Any]:
        return {
            "writes": self.hosted.writes,
            **self._cpu.needed(k.launch.get("cpu") for k in self.hosted.kernels.values()).json(),
            "engine": self.hosted.place.engine,
            "workspace": self.hosted.place.home,
        }

    async def _directory(self, path: str) -> str:
        """Return the directory ``path`` (or that of the file ``path``) as the kernels see it."""
        place = self.hosted.place
        for candidate in (path, path.rpartition("/")[0]):
            try:
                found = await self.in_workspace("stat", candidate)
            except FileRefused:
                continue
            if found["type"] == "directory" and candidate:
                return place.seen(f"{place.home}/{candidate.strip('/')}")
        return place.seen(place.home)


async def _each(work: Mapping[str, Awaitable[None]], partly: bool = False) -> dict[str, Exception]:
    """Await all of it; then raise what failed first, or with ``partly`` return what failed, for
    good.
    """
    results = await asyncio.gather(*work.values(), return_exceptions=True)
    failed = {}
    for name, result in zip(work, results, strict=True):
        if isinstance(result, Exception) and partly and not isinstance(result, StoreUnavailable):
            failed[name] = result
        elif isinstance(result, BaseException):
            raise result
    return failed
