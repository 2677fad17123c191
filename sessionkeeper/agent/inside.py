"""The kernels of the image that this process was brought into, with a Python of its own.

The image's Python is asked as that of any image is (:mod:`sessionkeeper.agent.probe`), and runs the
shim if it can. Where it cannot, ours does: kernels of other languages need no Python in the image.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sessionkeeper.agent import probe
from sessionkeeper.agent.kernelspecs import Specs
from sessionkeeper.agent.roots import ImageKernelspecs
from sessionkeeper.images.errors import ImageUnusable

__all__ = ["Inside", "look_inside"]

_OURS = "SESSIONKEEPER_"
_ANY = ("python", "python3")


@dataclass(frozen=True)
class Inside:
    """What there is: ``python`` is the one that shims are run with. ``unusable`` says why no
    session can be here; None: one can.
    """

    python: str
    kernelspecs: Specs
    unusable: ImageUnusable | None = None


def look_inside(image: str, environ: Mapping[str, str] = os.environ) -> Inside:
    """Return what this file system, which is that of ``image``, has for sessions. Blocks.

    An image without any Python gets our own one, and the name of that kernel says so. One that has
    a Python and no kernel does not: it would not be the Python that its packages are in.
    """
    given = {name: value for name, value in environ.items() if not name.startswith(_OURS)}
    pythons = _pythons(given)
    for python in pythons:
        said = _asked(python, given)
        if said and said["kernelspecs"]:
            found = ImageKernelspecs(image, said["python"], said["kernelspecs"])
            return Inside(said["python"], found)
    there = probe.kernelspecs()
    others = {name: one for name, one in there.items() if not _is_ours(one)}
    if others:
        return Inside(sys.executable, ImageKernelspecs(image, "", others))
    if not pythons:
        own = {name: _named(one) for name, one in there.items()}
        return Inside(sys.executable, ImageKernelspecs(image, sys.executable, own))
    error = ImageUnusable(
        f"{image} has no Jupyter kernel: its Python {pythons[0]} has no ipykernel",
        hint="`pip install ipykernel` in the image",
    )
    return Inside(sys.executable, ImageKernelspecs(image, "", {}), error)


def _pythons(environ: Mapping[str, str]) -> list[str]:
    found = (shutil.which(name, path=environ.get("PATH", "")) for name in probe.PYTHONS)
    return list(dict.fromkeys(filter(None, found)))


def _asked(python: str, environ: Mapping[str, str]) -> dict[str, Any] | None:
    """What the probe says; None: the shim cannot run with it."""
    try:
        done = subprocess.run(
            [python, "-E", probe.__file__],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.CalledProcessError):
        return None
    return said


def _is_ours(one: Mapping[str, Any]) -> bool:
    """Whether a kernel would run in our Python, or in none."""
    argv = one["spec"].get("argv") or [*_ANY]
    own = Path(one["directory"]).is_relative_to(sys.prefix) or one["directory"] == "/"
    return own or argv[0] in _ANY


def _named(one: Mapping[str, Any]) -> dict[str, Any]:
    name = f"{one['spec'].get('display_name', '')} of sessionkeeper (the image has no Python)"
    return {**one, "spec": {**one["spec"], "display_name": name.strip()}}
