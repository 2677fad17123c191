"""What of a checkpoint means something on a node of another runtime, or without its image."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from checkpoint import files
from checkpoint.manifest import Manifest
from checkpoint.reader import Reader
from sessionkeeper.agent.place import Place
from sessionkeeper.agent.rootfs import give
from sessionkeeper.agent.variables import DIRECTORY, DUMPED


def workspace(reader: Reader, manifest: Manifest, place: Place) -> list[files.Skipped]:
    """Fill a new ``place`` with the workspace of another runtime's file tree; what of it could not
    be set, and why. Raises ``CheckpointError``.
    """
    assert manifest.tree is not None
    home = os.fsencode(str(manifest.meta["workspace"]).strip("/"))
    there = place.tree / place.home.strip("/")
    place.create()
    shutil.rmtree(there, ignore_errors=True)
    restored = files.materialize(reader, manifest.tree, there, home)
    place.take_workspace()
    return restored.problems


def variables(
    reader: Reader, manifest: Manifest, kernel_id: str, directory: Path, user: int | None
) -> None:
    """Put the variables of a kernel into ``directory``, which is emptied, for ``user`` to read:
    those beside its process image, or in the tree of plain processes. Raises ``CheckpointError``.
    """
    root, below = manifest.processes[kernel_id].root, DUMPED
    if root is None:
        root, below = manifest.tree, os.fsencode(f"{DIRECTORY}/{kernel_id}")
    assert root is not None
    shutil.rmtree(directory, ignore_errors=True)
    files.materialize(reader, root, directory, below)
    if user is not None:
        give(directory, user)
