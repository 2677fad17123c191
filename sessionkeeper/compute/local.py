"""Compute as processes of this machine, one group for each session: no cluster, no root.

A directory per name says what was asked for; its processes are known by a mark in their
environment (:mod:`sessionkeeper.nodes.processes`), so they are found by the next gateway as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path

from gateway import durable
from sessionkeeper.compute.backend import Compute, ComputeFailed, Found, Phase
from sessionkeeper.nodes.local import erase
from sessionkeeper.nodes.processes import end_all, part_of, parts

__all__ = ["LocalBackend"]

Argv = Callable[[Compute, Path], Sequence[str]]
RECORD, LOG, ENDING = "compute.json", "log", "ending"


class LocalBackend:
    """``state`` is its directory. ``argv`` is what is started, given a directory for its data; it
    ends on SIGTERM, else ``grace`` seconds later.
    """

    tiers: Mapping[str, float] = {"on-demand": 60.0}

    def __init__(self, state: Path, argv: Argv, grace: float = 10.0) -> None:
        self._state = state
        self._argv = argv
        self._grace = grace
        self._instance = hashlib.sha256(os.fsencode(state.absolute())).hexdigest()[:12]
        self._changed: set[asyncio.Event] = set()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}

    async def start(self, wanted: Compute) -> None:
        home = self._state / wanted.name
        if self._alive(wanted.name):
            if (home / ENDING).exists():
                raise ComputeFailed(f"{wanted.name} is just ending")
            return
        try:
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
            said = {"session": wanted.session, "tier": wanted.tier}
            # First what is to be, then what is: who dies in between leaves a record to clear away.
            durable.replace(home / RECORD, json.dumps(said))
            (home / ENDING).unlink(missing_ok=True)
            self._children[wanted.name] = self._spawn(wanted, home)
        except OSError as error:
            raise ComputeFailed(f"{wanted.name} was not started: {error}") from error
        self._tell()

    def _spawn(self, wanted: Compute, home: Path) -> subprocess.Popen[bytes]:
        with (home / LOG).open("ab") as words:
            return subprocess.Popen(
                self._argv(wanted, home / "data"),
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                start_new_session=True,
                env={
                    **os.environ,
                    **part_of(self._instance, wanted.name),
                    "SESSIONKEEPER_TOKEN": wanted.token,
                },
            )

    async def stop(self, name: str, *, at_once: bool = False) -> None:
        home = self._state / name
        if not home.exists():
            return
        (home / ENDING).touch()
        if not at_once:
            for pid in self._processes(name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        self._tell()
        ending = self._ending.get(name)
        if ending is None:
            ending = asyncio.create_task(self._end(name, 0.0 if at_once else self._grace))
            self._ending[name] = ending
            ending.add_done_callback(lambda _: self._ending.pop(name, None))
        elif at_once:
            await asyncio.to_thread(end_all, lambda: self._processes(name))

    async def _end(self, name: str, grace: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._gone(self._processes(name))
        await asyncio.to_thread(end_all, lambda: self._processes(name))
        child = self._children.pop(name, None)
        if child is not None:
            await asyncio.to_thread(child.wait)
        await asyncio.to_thread(erase, self._state / name)
        self._tell()

    async def prepare(self, images: frozenset[str]) -> None:
        """There are no images here."""

    async def watch(self) -> AsyncGenerator[Mapping[str, Found], None]:
        changed = asyncio.Event()
        self._changed.add(changed)
        waits: dict[int, asyncio.Task[None]] = {}
        said: Mapping[str, Found] | None = None
        try:
            while True:
                changed.clear()
                running = await asyncio.to_thread(parts, self._instance)
                for pid in running.keys() - waits.keys():
                    waits[pid] = asyncio.create_task(self._gone({pid}))
                    waits[pid].add_done_callback(lambda _: changed.set())
                waits = {pid: task for pid, task in waits.items() if pid in running}
                now = self._found(set(running.values()))
                if now != said:
                    said = now
                    yield now
                await changed.wait()
        finally:
            self._changed.discard(changed)
            for task in waits.values():
                task.cancel()

    async def close(self) -> None:
        for task in list(self._ending.values()):
            await task

    def _found(self, running: set[str]) -> dict[str, Found]:
        there = {}
        for record in self._state.glob(f"*/{RECORD}"):
            home, name = record.parent, record.parent.name
            try:
                said = json.loads(record.read_text())
            except (OSError, ValueError):
                continue  # it is just being cleared away
            phase: Phase = "ending" if (home / ENDING).exists() else "running"
            if name not in running:
                phase = "ended"
            there[name] = Found(name, str(said["session"]), str(said["tier"]), phase)
        return there

    def _processes(self, name: str) -> set[int]:
        child = self._children.get(name)
        if child is not None:
            child.poll()  # a zombie has no environment that could be read
        return {pid for pid, part in parts(self._instance).items() if part == name}

    def _alive(self, name: str) -> bool:
        return bool(self._processes(name))

    async def _gone(self, pids: set[int]) -> None:
        """Return when all of them have ended."""
        loop = asyncio.get_running_loop()
        for pid in pids:
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            over = asyncio.Event()
            loop.add_reader(handle, over.set)
            try:
                await over.wait()
            finally:
                loop.remove_reader(handle)
                os.close(handle)

    def _tell(self) -> None:
        for changed in self._changed:
            changed.set()
