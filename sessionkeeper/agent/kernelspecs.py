"""The kernels a node can start: Jupyter's kernelspecs, as this Python environment finds them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Protocol

from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

from sessionkeeper.agent.errors import KernelStartFailed

RESOURCES = ("logo-svg.svg", "logo-64x64.png", "logo-32x32.png", "kernel.js", "kernel.css")
LARGEST_RESOURCE = 1 << 18


class Specs(Protocol):
    """Kernelspecs by name."""

    def all(self) -> dict[str, Any]:
        """Return ``{name: {"name", "spec", "resources": {file: base64}}}``."""
        ...

    def find(self, name: str) -> tuple[dict[str, Any], Path]:
        """Return a ``kernel.json`` and its directory. Raises :class:`KernelStartFailed`."""
        ...


class Kernelspecs:
    """Those of this Python environment; looked up anew at every call, as people install kernels."""

    def __init__(self) -> None:
        self._manager = KernelSpecManager()

    def all(self) -> dict[str, Any]:
        """Return ``{name: {"name", "spec", "resources": {file: base64}}}``."""
        return {
            name: {
                "name": name,
                "spec": found["spec"],
                "resources": _resources(Path(found["resource_dir"])),
            }
            for name, found in self._manager.get_all_specs().items()
        }

    def find(self, name: str) -> tuple[dict[str, Any], Path]:
        """Return a ``kernel.json`` and its directory. Raises :class:`KernelStartFailed`."""
        try:
            found = self._manager.get_kernel_spec(name or "python3")
        except NoSuchKernel:
            raise KernelStartFailed(f"this node has no kernelspec {name!r}") from None
        return found.to_dict(), Path(found.resource_dir)


def _resources(directory: Path) -> dict[str, str]:
    found = {}
    for name in RESOURCES:
        file = directory / name
        if file.is_file() and file.stat().st_size <= LARGEST_RESOURCE:
            found[name] = base64.b64encode(file.read_bytes()).decode()
    return found
