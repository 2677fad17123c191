"""A notebook file with its kernel, as JupyterLab's HTTP requests see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from system.client import PATIENCE, Cell, KernelClient
from system.lab import content
from system.running import System

Model = dict[str, Any]


class Paper:
    """Cells are called `c0`, `c1` ... in it."""

    def __init__(self, system: System, path: str) -> None:
        self.system = system
        self.path = path
        self.kernel_id = ""
        self.session_id = ""

    async def create(self, cells: list[str]) -> Paper:
        """Write the file, and have a kernel for it."""
        await self.save(content(cells))
        wish = {"path": self.path, "name": "", "type": "notebook", "kernel": {"name": "python3"}}
        session = await self.system.call("POST", "/api/sessions", wish)
        self.session_id, self.kernel_id = session["id"], session["kernel"]["id"]
        return self

    async def tab(self, *, busy: bool = False) -> KernelClient:
        """Connect to the kernel as a new page does."""
        return await self.system.client(self.kernel_id).open(busy=busy)

    async def save(self, notebook: Model) -> Model:
        """Save as a page does; the model that it gets."""
        model = {"type": "notebook", "format": "json", "content": notebook}
        saved: Model = await self.system.call("PUT", f"/api/contents/{self.path}", model)
        return saved

    async def model(self, **query: int) -> Model:
        """What a page gets that opens the notebook, or looks whether it has changed."""
        words = "&".join(f"{name}={value}" for name, value in query.items())
        found: Model = await self.system.call("GET", f"/api/contents/{self.path}?{words}")
        return found

    async def opened(self) -> list[Model]:
        """The cells that a page shows which opens it."""
        cells: list[Model] = (await self.model())["content"]["cells"]
        return cells

    async def file(self) -> list[Model]:
        """The cells that the file has."""
        path = f"/api/sessionkeeper/files/{self.path}"
        raw = await self.system.call("GET", path, server="gateway")
        cells: list[Model] = raw["cells"]
        return cells

    async def until(self, condition: Callable[[list[Model]], Any]) -> list[Model]:
        """Wait until the file's cells fulfil a condition; nothing announces that."""
        cells: list[Model] = []
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition(cells := await self.file()):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"waited in vain; the file has {cells}") from None
        return cells

    async def go(self, name: str = "go") -> None:
        """Make the file that a cell waits for."""
        model = {"type": "file", "format": "text", "content": ""}
        await self.system.call("PUT", f"/api/contents/{name}-{self.path}.txt", model)

    def waits(self, name: str = "go") -> str:
        """Code that waits for `go(name)`."""
        file = f"{name}-{self.path}.txt"
        return f"import os, time\nwhile not os.path.exists({file!r}): time.sleep(0.02)\n"

    async def close(self) -> None:
        await self.system.call("DELETE", f"/api/sessions/{self.session_id}")


def text(cell: Model) -> str:
    """What a stored cell shows, as plain text."""
    return "".join(
        "".join(output.get("text") or output.get("data", {}).get("text/plain", ""))
        if output["output_type"] != "error"
        else f"{output['ename']}: {output['evalue']}"
        for output in cell["outputs"]
    )


async def numbers(cell: Cell, at_least: int) -> list[int]:
    """Wait for so many numbered lines; all there are."""
    await cell.until(lambda one: len(one.numbers) >= at_least)
    return cell.numbers
