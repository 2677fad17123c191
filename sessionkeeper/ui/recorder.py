"""Puts what cells show into their notebooks' files, whether a browser is there or not.

Who writes when:

* While tabs are open on a kernel, they save what they have got, as they always did. What they had
  not got by then is put into what they save (`saving`).
* When the last tab has gone, and for what no tab saved within a minute, the file is written here.
* A notebook that is opened shows what its file does not have yet (`opening`), and the messages of
  cells that still run begin anew for the tab (`arrive`).

A file written here keeps, for tabs, the time and the hash it had (`looks_like`): what a tab saves
later is not in conflict with it, as only outputs were changed, which the tab gets by itself.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import nbformat
from tornado import web

from sessionkeeper.ui.files import WorkspaceFiles
from sessionkeeper.ui.follower import Follower
from sessionkeeper.ui.own_files import OwnFiles
from sessionkeeper.ui.placing import judge, place
from sessionkeeper.ui.positions import Position, Positions
from sessionkeeper.ui.rest import ask
from sessionkeeper.ui.runs import Run, messages

__all__ = ["Recorder", "Tab"]

log = logging.getLogger(__name__)

_CATCH_UP_SECONDS = 5.0
_SWEEP_SECONDS = 30.0


class Tab(Protocol):
    """A client's connection to a kernel."""

    @property
    def confirmed(self) -> Position | None:
        """What it said to have."""

    @property
    def sent(self) -> Position | None:
        """What it was sent."""


class Recorder:
    """For one UI server. `directory` is where it remembers; `notary` signs notebooks."""

    def __init__(self, directory: Path, files: WorkspaceFiles, notary: Any) -> None:
        self._files = files
        self._notary = notary
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._positions = Positions(directory / "positions")
        self._own = OwnFiles(directory / "files.json", files)
        self._followers: dict[str, Follower] = {}
        self._tabs: dict[str, set[Tab]] = defaultdict(set)
        self._paths: dict[str, list[str]] = {}
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._waited: set[str] = set()
        self._writing: dict[str, asyncio.Task[None]] = {}
        self._sweeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look after the kernels that have notebooks."""
        self._sweeper = asyncio.create_task(self._sweep(), name="outputs of notebooks")

    async def stop(self) -> None:
        tasks = [t for t in (self._sweeper, *self._writing.values()) if t is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for follower in self._followers.values():
            await follower.close()

    # Tabs

    async def arrive(self, kernel_id: str) -> tuple[Position, list[bytes]] | None:
        """A new client: where it is to begin, and what of running cells it is told before.

        None: nothing is known, and it begins with what comes from now on.
        """
        follower = await self._current(kernel_id)
        if follower is None:
            return None
        told = [
            message
            for run in follower.runs
            if not (run.ended and run.in_file) or run.displays
            for message in messages(run)
        ]
        return follower.position, told

    def attached(self, kernel_id: str, tab: Tab) -> None:
        """A tab is there, and has what its cells show."""
        self._tabs[kernel_id].add(tab)
        if kernel_id in self._followers:
            self._followers[kernel_id].stay(False)

    def left(self, kernel_id: str, tab: Tab) -> None:
        """A tab is gone."""
        self._tabs[kernel_id].discard(tab)
        if not self._tabs[kernel_id]:
            del self._tabs[kernel_id]
            if kernel_id in self._followers:
                self._followers[kernel_id].stay(True)

    def answered(self, kernel_id: str) -> None:
        """A tab answered what the kernel asked for."""
        if kernel_id in self._followers:
            self._followers[kernel_id].runs.answered()

    def _have(self, kernel_id: str, run: Run) -> bool:
        follower = self._followers[kernel_id]
        return any(
            tab.confirmed is not None
            and tab.confirmed.journal == follower.position.journal
            and tab.confirmed.cursor >= run.last
            for tab in self._tabs.get(kernel_id, ())
        )

    # Files

    async def opening(self, path: str, notebook: dict[str, Any]) -> None:
        """A tab opens `notebook`: have it show what the file does not have yet."""
        for follower in await self._of(path):
            missing = [run for run in follower.runs if not (run.ended and run.in_file)]
            place(notebook, missing, may_add=self._is_only(follower), trusted=True)
            for run in follower.runs:
                run.seen = run.ended

    @asynccontextmanager
    async def saving(self, path: str, notebook: dict[str, Any]) -> AsyncIterator[None]:
        """A tab saves `notebook` inside the context: have it contain what it does not know."""
        async with self._locks[path]:
            settled = []
            for follower in await self._of(path):
                kept = partial(self._have, follower.kernel_id)
                runs = [run for run in follower.runs if run.happened]
                judged = judge(notebook, runs, kept)
                settled.append((follower, [(run, run.last) for run in judged]))
            yield
            for follower, filed in settled:
                for run, last in filed:
                    run.filed(last)
                self._settled(follower)

    async def looks_like(self, path: str, mtime: float) -> tuple[float, str] | None:
        """Time and SHA-256 that tabs are to take the file for, if it is as we left it."""
        return await self._own.looked(path, mtime)

    async def _of(self, path: str) -> list[Follower]:
        await self._learn()
        there = [kernel for kernel, paths in self._paths.items() if path in paths]
        found = [await self._current(kernel) for kernel in there]
        return [follower for follower in found if follower is not None]

    async def _current(self, kernel_id: str) -> Follower | None:
        """The kernel's follower, which has read all by now; None if there is none, or no word."""
        if kernel_id not in self._paths:
            await self._learn()
        if kernel_id not in self._paths:
            return None
        follower = self._follower(kernel_id)
        return follower if await follower.catch_up(_CATCH_UP_SECONDS) else None

    def _follower(self, kernel_id: str) -> Follower:
        follower = self._followers.get(kernel_id)
        if follower is None:
            follower = Follower(kernel_id, self._positions, self._changed)
            self._followers[kernel_id] = follower
        return follower

    async def _learn(self) -> None:
        """Which kernels have which notebooks. A kernel that is gone keeps those that it had."""
        try:
            sessions = await ask("GET", "sessions")
        except web.HTTPError:
            return  # the gateway is away
        there: dict[str, list[str]] = {}
        for session in sessions:
            if session.get("type") == "notebook" and session.get("kernel"):
                there.setdefault(session["kernel"]["id"], []).append(session["path"])
        kept = {k: p for k, p in self._paths.items() if k in self._followers}
        self._paths = kept | there

    def _is_only(self, follower: Follower) -> bool:
        """Whether a cell of the kernel can be of one notebook only."""
        return len(self._paths.get(follower.kernel_id, ())) == 1

    # Writing

    def _changed(self, follower: Follower) -> None:
        """A kernel that no tab looks at has ended a run, or itself."""
        kernel_id = follower.kernel_id
        if self._tabs.get(kernel_id) and not follower.gone:
            return
        if kernel_id not in self._writing:
            task = asyncio.create_task(self._write(follower))
            self._writing[kernel_id] = task
            task.add_done_callback(lambda _: self._writing.pop(kernel_id, None))

    async def _write(self, follower: Follower, only: set[str] | None = None) -> None:
        """Until all runs that have ended are in files, or cannot be put there now."""
        while True:
            runs = [
                run
                for run in follower.runs
                if run.ended and not run.in_file and (only is None or run.msg_id in only)
            ]
            if not runs:
                break
            # While it is written, a later cell may change what an earlier one displays.
            as_placed = [(run, run.last) for run in runs]
            await self._learn()
            for path in self._paths.get(follower.kernel_id, []):
                try:
                    await self._write_file(path, runs, may_add=self._is_only(follower))
                except Exception as error:  # nbformat raises whatever a broken notebook leads to
                    log.warning("%s: what its cells showed is not in it yet: %r", path, error)
                    return
            for run, last in as_placed:  # also those whose cell is nowhere
                run.filed(last)
            self._settled(follower)
        if follower.gone:
            self._followers.pop(follower.kernel_id, None)

    def _settled(self, follower: Follower) -> None:
        follower.runs.tidy()
        follower.note()

    async def _write_file(self, path: str, runs: list[Run], *, may_add: bool) -> None:
        async with self._locks[path]:
            stat = await self._files.stat(path)
            if stat is None:
                return  # deleted
            raw = await self._files.read(path)
            notebook = await asyncio.to_thread(_parse, raw)
            if notebook.get("nbformat") != 4:
                return
            # The notary's database belongs to this thread.
            trusted = self._notary.check_signature(notebook)
            before = json.dumps(notebook)
            place(notebook, runs, may_add=may_add)
            notebook = nbformat.from_dict(notebook)
            if json.dumps(notebook) == before:
                return
            if trusted:
                self._notary.sign(notebook)
            text = await asyncio.to_thread(_format, notebook)
            await self._own.write(path, stat["mtime"], raw, text)

    async def _sweep(self) -> None:
        """Now and then look after what nothing else calls for."""
        while True:
            try:
                await self._learn()
                for kernel_id in list(self._paths):
                    await self._look_after(kernel_id)
            except Exception:
                log.exception("outputs of notebooks: trying again in %.0f s", _SWEEP_SECONDS)
            await asyncio.sleep(_SWEEP_SECONDS if self._paths else 1.0)

    async def _look_after(self, kernel_id: str) -> None:
        follower = self._follower(kernel_id)
        tabs = self._tabs.get(kernel_id)
        if not tabs:
            follower.stay(True)
            self._changed(follower)  # if it could not be written before
            return
        sent = max((tab.sent.cursor for tab in tabs if tab.sent is not None), default=0)
        if sent > follower.position.cursor:
            await follower.catch_up(_CATCH_UP_SECONDS)
        # Tabs save by themselves; what they did not save until the second look is written.
        late = {run.msg_id for run in follower.runs if run.ended and not run.in_file}
        await self._write(follower, only=late & self._waited)
        self._waited = (self._waited - late) | late


def _parse(raw: bytes) -> Any:
    return nbformat.reads(raw.decode(), as_version=nbformat.NO_CONVERT)


def _format(notebook: Any) -> bytes:
    text: str = nbformat.writes(notebook, version=nbformat.NO_CONVERT)
    return (text if text.endswith("\n") else text + "\n").encode()
