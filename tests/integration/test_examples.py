"""The example notebooks, with the plug of their node pulled after every single cell."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from system.client import KernelClient
from system.folder import Folder
from system.running import System

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
LONGEST_CELL = 120.0

Outputs = list[list[dict[str, Any]]]


@dataclass
class Reading:
    """A notebook on its way through its cells, in a kernel of the session."""

    name: str
    cells: list[str]
    kernel: KernelClient
    ending: AsyncExitStack
    outputs: Outputs = field(default_factory=list)

    @property
    def at_its_end(self) -> bool:
        return len(self.outputs) == len(self.cells)

    async def next(self) -> None:
        """Run the next cell, if there is one. Nobody would look at the kernel after the last."""
        if self.at_its_end:
            return
        cell = await self.kernel.run(self.cells[len(self.outputs)], LONGEST_CELL)
        self.outputs.append(cell.outputs)
        if self.at_its_end:
            await self.ending.aclose()


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(outputs: list[dict[str, Any]]) -> list[Any]:
    """What a reader sees: text, in one piece, and data. Warnings on standard error may come or
    not: a font cache is built once, say."""
    found: list[Any] = []
    for output in outputs:
        if output["output_type"] != "stream":
            found.append(output.get("data", output))
        elif output["name"] == "stdout" and found and isinstance(found[-1], str):
            found[-1] += output["text"]
        elif output["name"] == "stdout":
            found.append(output["text"])
    return found


async def undisturbed(path: Path, place: Path) -> Outputs:
    """What the cells show on a plain local kernel."""
    place.mkdir()
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(place)}}
    await NotebookClient(notebook, timeout=LONGEST_CELL, resources=resources).async_execute()
    return [cell.outputs for cell in code(notebook)]


async def killed_after_every_cell(system: System, names: list[str]) -> dict[str, Outputs]:
    """All notebooks side by side in one session, so that each kill is one for each of them."""
    async with AsyncExitStack() as stack:
        readings = []
        for name in names:
            notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
            folder = await Folder(system, name).create()
            language = notebook.metadata.kernelspec.name
            ending = await stack.enter_async_context(AsyncExitStack())
            kernel = await ending.enter_async_context(system.kernel(language, path=folder.name))
            cells = [cell.source for cell in code(notebook)]
            readings.append(Reading(name, cells, kernel, ending))
        coming_back: asyncio.Task[str] | None = None
        while True:
            before = await system.number()
            await asyncio.gather(*(one.next() for one in readings))
            if coming_back is not None:
                await coming_back
            if all(one.at_its_end for one in readings):
                break
            await system.saved(before)
            lost = await system.lose()
            coming_back = asyncio.create_task(system.start_node(lost))
        return {one.name: one.outputs for one in readings}


@pytest.mark.container
@pytest.mark.needs("r", "bash")
@pytest.mark.timeout(420)
async def test_examples_show_the_same_with_a_kill_after_every_cell(system: System, tmp_path: Path):
    names = [path.stem for path in NOTEBOOKS]
    assert len(names) >= 4
    plain = asyncio.gather(*(undisturbed(path, tmp_path / path.stem) for path in NOTEBOOKS))
    got = await killed_after_every_cell(system, names)
    wanted = dict(zip(names, await plain, strict=True))
    for name in names:
        for number, (here, there) in enumerate(zip(got[name], wanted[name], strict=True), 1):
            assert shown(here) == shown(there), f"{name}, cell {number}"
