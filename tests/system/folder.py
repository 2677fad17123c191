"""A folder of the workspace as JupyterLab sees it: through the contents API of the UI server."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from system.running import System


class Folder:
    """One folder. Names are of entries directly in it."""

    def __init__(self, system: System, name: str) -> None:
        self._system = system
        self.name = name

    async def create(self) -> Folder:
        await self._system.call("PUT", self._path(), {"type": "directory"})
        return self

    async def names(self) -> set[str]:
        return {entry["name"] for entry in (await self.model())["content"]}

    async def model(self, name: str = "", query: str = "") -> dict[str, Any]:
        found: dict[str, Any] = await self._system.call("GET", self._path(name) + query)
        return found

    async def read(self, name: str) -> str:
        return str((await self.model(name, "?type=file&format=text"))["content"])

    async def write(self, name: str, text: str) -> dict[str, Any]:
        model = {"type": "file", "format": "text", "content": text}
        found: dict[str, Any] = await self._system.call("PUT", self._path(name), model)
        return found

    async def delete(self, name: str) -> None:
        await self._system.call("DELETE", self._path(name))

    async def numbers(self, name: str) -> list[int]:
        """The numbers that a counter wrote, one per line."""
        return [int(line) for line in (await self.read(name)).split()]

    def _path(self, name: str = "") -> str:
        return f"/api/contents/{quote(self.name)}" + (f"/{quote(name)}" if name else "")
