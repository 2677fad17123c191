"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sessionkeeper import criu

__all__ = ["BUSY", "describe"]

BUSY = 0.7
"""Processes per core waiting to run, from which on figures tell more about others than about us."""

_PACKAGES = (
    "sessionkeeper",
    "jupyter_server",
    "jupyterlab",
    "jupyter_kernel_gateway",
    "ipykernel",
    "websockets",
)


def describe() -> dict[str, Any]:
    """The machine, its load now (1 minute's average) and what is installed. `runtime` is filled in
    by who starts a system."""
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return {
        "cpu": _cpu(),
        "cores": cores,
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "load": round(load, 2),
        "busy": load > BUSY * cores,
        "runtime": None,
        "versions": _versions(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    there = criu.find()
    found["criu"] = criu.version_text(there.version) if there else None
    found["runc"] = _runc()
    return found


def _runc() -> str | None:
    try:
        said = subprocess.run(["runc", "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return said.stdout.partition("\n")[0].removeprefix("runc version ") or None
