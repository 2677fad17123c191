"""The runs of `bench checkpoint`, in a process and namespaces of their own (`checkpoint.py` starts
it): whatever happens, nothing of the node is left.

Standard output is one JSON object a line: `{"figure": name, "value": number}`,
`{"figure", "failure": words}`, or `{"say": words}`. A value with `"peer"` is what that one reaches.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from checkpoint.blobs import LocalDirectory
from checkpoint.errors import CheckpointError
from checkpoint.keys import SessionKeys
from checkpoint.writer import Writer
from gateway.errors import GatewayError
from sessionkeeper.agent.offer import Offer, offer
from sessionkeeper.bench.errors import RunFailed
from sessionkeeper.bench.stand import Stand, stand
from sessionkeeper.errors import SessionkeeperError
from sessionkeeper.settings import AgentSettings

CELLS = 30
COLUMNS = 10
MB = 10**6
STREAM = 1000 * MB
"""Bytes written for one run of `store_mb_per_s`."""

# What the cells are; a figure's peers run the same ones.
FILL = "import numpy; x = numpy.random.default_rng(0).random({bytes} // 8); y = numpy.zeros(125)"
CHANGE = "y[:] = {cell}.5"  # 1 kB
CHECK = "(float(x.sum()), float(y.sum()))"
ELEMENT = "x[{at}] = {cell}.25"
FRAME = """
import numpy, pandas
f = pandas.DataFrame({'a': numpy.random.default_rng(1).random(12_500_000)})
"""
COLUMN = "f['c{cell}'] = numpy.random.default_rng({cell}).random(len(f))"
FRAME_BYTES = "int(f.memory_usage(index=True).sum())"

_TROUBLE = (SessionkeeperError, CheckpointError, GatewayError, OSError, TimeoutError)


def main() -> None:
    """Measure what the arguments name."""
    parser = argparse.ArgumentParser()
    parser.add_argument("scratch", type=Path)
    parser.add_argument("what", choices=["criu", "big", "namespace", "frame", "store"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--mb", type=int, default=200)
    parser.add_argument("--cgroup", default="/sessionkeeper-bench")
    found = parser.parse_args()
    if found.what == "store":
        _stream(found.scratch, found.runs)
        return
    engine = "namespace" if found.what in ("namespace", "frame") else "criu"
    settings = AgentSettings(
        gateway_url="http://127.0.0.1:1",
        token="none",  # noqa: S106
        node="bench",
        data=found.scratch / "node",
        runtime="container" if engine == "criu" else "process",
        cgroup=found.cgroup,
    )
    runs = {"criu": _cells, "namespace": _cells, "frame": _frame, "big": _big}[found.what]
    asyncio.run(runs(Bench(offer(settings), engine, found.scratch, found.runs, found.mb * MB)))


class Bench:
    """What the runs share."""

    def __init__(self, node: Offer, engine: str, scratch: Path, runs: int, size: int) -> None:
        self.node, self.engine, self.runs, self.size = node, engine, runs, size
        self.scratch = scratch
        self._stores = 0

    def stand(self) -> Any:
        """A session with a store of its own; gone with the `async with`."""
        self._stores += 1
        return stand(self.node, self.scratch / f"store-{self._stores}", f"bench{self._stores}")


async def _cells(bench: Bench) -> None:
    """The array, and cells that each change 1 kB beside it; then SIGKILL, and the first cell."""
    engine = bench.engine
    async with bench.stand() as one:
        await one.run(FILL.format(bytes=bench.size))
        await one.checkpoint()
        with _failures(f"stored_{engine}_total_mb"):
            cells = [await _cell(one, CHANGE.format(cell=cell)) for cell in range(CELLS)]
            _value(f"stored_{engine}_total_mb", one.stored() / MB)
            for cell in cells:
                if engine == "criu":
                    _value("stored_criu_cell_mb", cell.stored / MB)
                else:
                    _value("stored_namespace_cell_kb", cell.stored / 1000)
                _value(f"pause_{engine}_ms", cell.pause * 1000)
            _say(f"{engine}: of a pause {_parts([cell.seconds for cell in cells])}")
        for _ in range(bench.runs):
            with _failures(f"restore_{engine}_s"):
                await _restore(one, f"restore_{engine}_s")
        if engine == "criu":
            await _plain(bench, one)
        else:
            with _failures("array_element_namespace_kb"):
                for cell in range(bench.runs):
                    changed = await _cell(one, ELEMENT.format(at=cell * 100003, cell=cell))
                    _value("array_element_namespace_kb", changed.stored / 1000)


async def _plain(bench: Bench, one: Stand) -> None:
    """The same kernel, dumped whole by `runc` alone."""
    pause, stored, restore = await one.plain(bench.scratch / "plain")
    total = stored * (CELLS + 1) / MB
    for figure, value in (
        ("stored_criu_total_mb", total),
        ("stored_criu_cell_mb", stored / MB),
        ("pause_criu_ms", 1000 * pause),
        ("restore_criu_s", restore),
    ):
        _emit(figure=figure, peer="runc", value=value)


async def _cell(one: Stand, code: str) -> Any:
    await one.run(code)
    return await one.checkpoint()


async def _restore(one: Stand, figure: str, *, lazily: bool = True) -> None:
    wanted = await one.run("", CHECK)
    await one.kill()
    began = time.perf_counter()
    await one.begin(lazily=lazily)
    await one.run("z = x[0]")
    taken = time.perf_counter() - began
    if (found := await one.run("", CHECK)) != wanted:
        raise RunFailed(f"the kernel holds other values: {found} is not {wanted}")
    _value(figure, taken)
    _say(f"{figure}: {_parts([one.opening])}")


async def _big(bench: Bench) -> None:
    """A kernel so large that copying it is what takes the time: each run has one of its own."""
    for number in range(bench.runs):
        async with bench.stand() as one:
            with _failures("big_pause_s", "big_commit_s", "big_restore_s"):
                await one.run(FILL.format(bytes=bench.size))
                first = await one.checkpoint()
                _value("big_pause_s", first.pause)
                _value("big_commit_s", first.committed)
                _say(f"big {number + 1}: {first.seconds}")
                await _restore(one, "big_restore_s", lazily=False)
                if not number:
                    pause, _, restore = await one.plain(bench.scratch / "plain")
                    _emit(figure="big_pause_s", peer="runc", value=pause)
                    _emit(figure="big_restore_s", peer="runc", value=restore)
            with _failures("big_lazy_restore_s"):
                if not one.lazy:
                    raise RunFailed("this machine has no userfaultfd for CRIU")
                await _restore(one, "big_lazy_restore_s")
        shutil.rmtree(one.store)


async def _frame(bench: Bench) -> None:
    """A frame of 100 MB that gains a column with each cell: what is stored, by its size in the
    end."""
    with _failures("pandas_columns_ratio"):
        async with bench.stand() as one:
            await one.run(FRAME)
            await one.checkpoint()
            for cell in range(COLUMNS):
                await _cell(one, COLUMN.format(cell=cell))
            _value("pandas_columns_ratio", one.stored() / await one.run("", FRAME_BYTES))


def _stream(scratch: Path, runs: int) -> None:
    """Bytes that do not compress, in chunks as process images have them, until all are durable."""
    piece = 256 << 10
    data = memoryview(os.urandom(STREAM // piece * piece))
    for number in range(runs):
        directory = scratch / f"stream-{number}"
        keys = SessionKeys.generate()
        with _failures("store_mb_per_s"), Writer(LocalDirectory(directory), keys) as writer:
            began = time.perf_counter()
            for at in range(0, len(data), piece):
                writer.add(data[at : at + piece])
            writer.finish()
            _value("store_mb_per_s", len(data) / MB / (time.perf_counter() - began))
        shutil.rmtree(directory, ignore_errors=True)


def _parts(seconds: list[dict[str, float]]) -> str:
    names = dict.fromkeys(name for one in seconds for name in one)
    medians = {name: statistics.median(one.get(name, 0.0) for one in seconds) for name in names}
    return ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in medians.items())


@contextmanager
def _failures(*figures: str) -> Iterator[None]:
    try:
        yield
    except _TROUBLE as error:
        for figure in figures:
            _emit(figure=figure, failure=str(error))


def _value(figure: str, value: float) -> None:
    _emit(figure=figure, value=value)


def _say(words: str) -> None:
    _emit(say=words)


def _emit(**fields: str | float) -> None:
    print(json.dumps(fields), flush=True)
