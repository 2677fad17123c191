"""What of a checkpoint can be brought back for the kernels that are wanted. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from checkpoint.manifest import Manifest, Part
from sessionkeeper.agent.hosted import HostedKernel
from sessionkeeper.agent.staging import Staged


def only(manifest: Manifest, kernels: Iterable[str]) -> Manifest:
    """Return ``manifest`` without the processes of kernels that have ended since."""
    kept = {k: part for k, part in manifest.processes.items() if k in set(kernels)}
    return replace(manifest, body=replace(manifest.body, processes=kept))


def part_of(manifest: Manifest, kernel: dict[str, Any]) -> Part | None:
    """Return what a checkpoint has of this life of a kernel."""
    part = manifest.processes.get(kernel["kernel_id"])
    return part if part and part.detail["generation"] == kernel["generation"] else None


def restorable(
    kernels: Iterable[dict[str, Any]], manifest: Manifest | None, images: Staged | None
) -> dict[str, HostedKernel]:
    """Return the kernels whose processes can be brought back."""
    if manifest is None or images is None:
        return {}
    return {
        kernel["kernel_id"]: HostedKernel.from_record(dict(part.detail))
        for kernel in kernels
        if kernel["kernel_id"] in images.kernels and (part := part_of(manifest, kernel)) is not None
    }
