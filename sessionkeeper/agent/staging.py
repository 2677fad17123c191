"""Bringing the images of a checkpoint to a node before the session is there."""

from __future__ import annotations

import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

from checkpoint import criu
from checkpoint.blobs import BlobStore, Prefixed
from checkpoint.errors import StoreUnavailable
from checkpoint.keys import SessionKeys
from checkpoint.manifest import Manifest
from checkpoint.reader import Reader


@dataclass
class Staged:
    """Images of a checkpoint that lie on this node, ready to be restored or to be completed."""

    number: int
    kernels: dict[str, criu.Materialized]

    def has_all_of(self, manifest: Manifest, lazy_above: int | None) -> bool:
        """Whether nothing is to be completed: all images of ``manifest`` are here, and none has
        more than ``lazy_above`` bytes, so that its kernel had better not wait for them.
        """
        if self.number != manifest.number or not images_of(manifest).keys() <= self.kernels.keys():
            return False
        return lazy_above is None or all(k.size() <= lazy_above for k in self.kernels.values())


def images_of(manifest: Manifest) -> dict[str, bytes]:
    """Return the roots of the process images in a checkpoint, by kernel."""
    parts = manifest.processes.items()
    return {k: part.root for k, part in parts if part.engine == "criu" and part.root is not None}


def stage(
    store: BlobStore,
    keys: SessionKeys,
    manifest: Manifest,
    where: Path,
    lazy_above: int | None,
    hurried: threading.Event,
) -> Staged:
    """Write the images of ``manifest``, whole, to directories in ``where``.

    One with more than ``lazy_above`` bytes of memory that could as well arrive later is left out
    from when ``hurried`` is set: it would be waited for. Raises ``CheckpointError``.
    """
    staged = Staged(manifest.number, {})
    for kernel_id, root in images_of(manifest).items():
        with Reader(store, keys, manifest.packs) as reader:
            large = lazy_above is not None and criu.lazy_bytes(reader, root) > lazy_above
        source = _Until(store, hurried) if large else store
        try:
            with Reader(source, keys, manifest.packs) as reader:
                staged.kernels[kernel_id] = criu.materialize(reader, root, where / kernel_id)
        except StoreUnavailable:
            if not (large and hurried.is_set()):
                raise
            shutil.rmtree(where / kernel_id, ignore_errors=True)
    return staged


class _Until(Prefixed):
    """A store until ``stop`` is set: then it is unavailable."""

    def __init__(self, store: BlobStore, stop: threading.Event) -> None:
        super().__init__(store, "")
        self._stop = stop

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        if self._stop.is_set():
            raise StoreUnavailable("Nothing is to be fetched from the store any more.")
        return super().get(key, start, length)
