"""`bench checkpoint`: what a checkpoint costs in bytes and in time, and how fast it is brought
back; beside Kishu, dill and plain `runc checkpoint`."""

# ruff: noqa: ASYNC240 (nothing else waits for this program)

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sessionkeeper import criu
from sessionkeeper.bench.engines import CELLS
from sessionkeeper.bench.figures import REQUIRED, Figure
from sessionkeeper.bench.peers import Environment, environment
from sessionkeeper.errors import SessionkeeperError
from sessionkeeper.nodes import cgroups
from sessionkeeper.nodes.processes import descendants, end_all
from sessionkeeper.up.terminal import Terminal

__all__ = ["FIGURES", "ROOM", "measure"]

ROOM = 16 * 10**9
"""Bytes of disk that it takes at most at a time."""

MEDIUM, BIG = 200, 2000
"""MB (10**6 bytes) in the array of the kernel."""

BIG_RUNS = 3
"""At most: each writes gigabytes."""

FIGURES: Mapping[str, Sequence[str]] = {
    "criu": (
        "stored_criu_total_mb",
        "stored_criu_cell_mb",
        "pause_criu_ms",
        "restore_criu_s",
    ),
    "big": ("big_pause_s", "big_commit_s", "big_restore_s", "big_lazy_restore_s"),
    "namespace": (
        "stored_namespace_total_mb",
        "stored_namespace_cell_kb",
        "array_element_namespace_kb",
        "pause_namespace_ms",
        "restore_namespace_s",
    ),
    "frame": ("pandas_columns_ratio",),
    "store": ("store_mb_per_s",),
}
"""What each part of it measures. The first two take root and CRIU."""

_PRIVATE = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
# CRIU keeps its cache of what the kernel can do only on a tmpfs, as a node's /run is.
_RUN = ("sh", "-c", 'mount -t tmpfs -o mode=755 tmpfs /run && exec "$@"', "sh")


async def measure(terminal: Terminal, runs: int) -> tuple[list[Figure], str]:
    """The figures; and `container` where the `criu` engine could be measured, else `process`."""
    container = await asyncio.to_thread(_dumps, terminal)
    with terminal.step("installing Kishu and dill in an environment of their own"):
        peers = await asyncio.to_thread(environment)
    figures = {
        name: Figure(name, must=REQUIRED[name])
        for part, names in FIGURES.items()
        if container or part not in ("criu", "big")
        for name in names
    }
    with tempfile.TemporaryDirectory(prefix="sessionkeeper-bench-") as name:
        scratch = Path(name)
        scratch.chmod(0o711)  # the kernels' user passes through it
        for part in FIGURES:
            if FIGURES[part][0] in figures:
                count = min(runs, BIG_RUNS) if part == "big" else runs
                size = BIG if part == "big" else MEDIUM
                with terminal.step(f"measuring: {part}"):
                    await _engines(terminal, scratch / part, part, count, size, figures)
        if peers.python is None:
            terminal.say(f"Kishu and dill are not installable: {peers.why}")
        for peer in ("kishu", "dill"):
            with terminal.step(f"measuring: {peer}"):
                await _peer(terminal, peer, peers, scratch / peer, figures)
    return list(figures.values()), "container" if container else "process"


def _dumps(terminal: Terminal) -> bool:
    try:
        criu.require()
    except SessionkeeperError as error:
        terminal.say(f"The criu engine is not measured: {error}")
        return False
    return True


async def _engines(
    terminal: Terminal, scratch: Path, part: str, runs: int, size: int, figures: dict[str, Figure]
) -> None:
    """Run `engines.py`, and add what it says to the figures."""
    scratch.mkdir(mode=0o711)
    words = [sys.executable, "-c", f"from {__package__}.engines import main; main()"]
    words += [str(scratch), part, "--runs", str(runs), "--mb", str(size)]
    alone = part in ("criu", "big")
    group = f"/{scratch.parent.name}-{part}"
    words += ["--cgroup", group]
    process = await asyncio.create_subprocess_exec(
        *((*_PRIVATE, *_RUN) if alone else ()),
        *words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us to pass on
    )
    assert process.stdout is not None
    assert process.stderr is not None
    trouble = asyncio.create_task(process.stderr.read())
    try:
        async for line in process.stdout:
            _take(terminal, json.loads(line), figures)
        if await process.wait():
            why = (await trouble).decode(errors="replace").strip().splitlines() or ["no reason"]
            for name in FIGURES[part]:
                figures[name].failures.append(why[-1])
                figures[name].runs.append(None)
    finally:
        trouble.cancel()
        if process.returncode is None:
            pid = process.pid
            await asyncio.to_thread(end_all, lambda: {pid} | descendants(pid))
            await process.wait()
        await asyncio.to_thread(cgroups.thaw, group)
        await asyncio.to_thread(cgroups.remove, group)
        shutil.rmtree(scratch, ignore_errors=True)


def _take(terminal: Terminal, said: Mapping[str, Any], figures: dict[str, Figure]) -> None:
    if "say" in said:
        terminal.say(f"  {said['say']}")
        return
    figure = figures[said["figure"]]
    if "failure" in said:
        figure.failures.append(said["failure"])
        figure.runs.append(None)
    elif "peer" in said:
        figure.peers[said["peer"]] = said["value"]
    else:
        figure.runs.append(said["value"])


async def _peer(
    terminal: Terminal, peer: str, where: Environment, scratch: Path, figures: dict[str, Figure]
) -> None:
    """Add what a peer reaches to the figures of both engines; nothing where it is not to be had."""
    if where.python is None:
        return
    scratch.mkdir()
    program = Path(__file__).with_name("peers") / f"{peer}_cells.py"
    words = [str(where.python), str(program), str(scratch), str(CELLS), str(MEDIUM * 10**6)]
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=scratch,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        shutil.rmtree(scratch, ignore_errors=True)
    if process.returncode:
        why = errors.decode(errors="replace").strip().splitlines() or ["no reason"]
        terminal.say(f"  {peer} failed: {why[-1]}")
        return
    found = json.loads(output.splitlines()[-1])
    for name, key, unit in (
        ("stored_{}_total_mb", "total_mb", 1),
        ("stored_criu_cell_mb", "cell_mb", 1),
        ("stored_namespace_cell_kb", "cell_mb", 1000),
        ("array_element_namespace_kb", "cell_mb", 1000),
        ("pause_{}_ms", "pause_ms", 1),
        ("restore_{}_s", "restore_s", 1),
    ):
        for full in {name.format("criu"), name.format("namespace")}:
            if full in figures and found[key] is not None:
                figures[full].peers[peer] = found[key] * unit
