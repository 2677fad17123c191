"""What a user reads when a session was moved, was brought back, or went back to a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from checkpoint.manifest import Manifest
from gateway.rollback import Rerun, Rollback

SHOWN_CELLS = 3
ONLY_LOOKS = {
    "kernel_info_request",
    "comm_info_request",
    "complete_request",
    "debug_request",
    "history_request",
    "inspect_request",
    "is_complete_request",
}
"""Requests after which a kernel is as it was before."""


@dataclass
class Recovery:
    """A way back that is under way: from which node, by plan or not, since when (monotonic).

    ``saved``: everything is in the newest checkpoint; not, when a planned move could not take one.
    """

    node: str
    planned: bool
    began: float
    saved: bool = True
    last_seen: float | None = None
    """When the node was last heard, in Unix seconds."""
    told_as: str | None = None
    """What it is called, if it is not about a node."""
    repeated: float = 0.0
    """Seconds of work that no checkpoint had."""
    cause: str = "node_lost"
    """For the metrics: one of their causes."""

    def told(self, node: str, checkpoint: Manifest | None) -> str:
        """Return how it ended: on ``node``, from that checkpoint."""
        took = f"in {time.monotonic() - self.began:.1f} s"
        if self.told_as is not None:
            return f"{self.told_as}; runs on {node} again {took}"
        if self.planned and self.saved:
            return f"moved from {self.node} to {node} {took}"
        source = "what was recorded"
        if checkpoint is not None:
            source = f"checkpoint {checkpoint.number}"
            if self.last_seen is not None:
                before = max(0.0, self.last_seen - checkpoint.created)
                source += f" ({before:.1f} s before the loss)"
        if self.planned:
            return f"moved from {self.node} to {node}, back to {source}, {took}"
        lost = "" if node == self.node else f"{self.node} was lost; "
        return f"{lost}recovered on {node} from {source} {took}"


def rolled_back(rollback: Rollback) -> str | None:
    """Return which cells ran again, which went on, which were given up; None: nothing to tell."""
    said = []
    rerun = [one for one in rollback.rerun if one.summary not in ONLY_LOOKS]
    continued = [one for one in rollback.continued if one.summary not in ONLY_LOOKS]
    if rerun and rollback.mode == "stop":
        said.append(f"not run again (on_rollback=stop): {_cells(rerun)}")
    elif rerun:
        said.append(f"ran again {_cells(rerun)}")
    if continued:
        said.append(f"went on in {_cells(continued)}")
    if rollback.interrupted:
        said.append(f"did not go on with what was interrupted: {_cells(rollback.interrupted)}")
    if rollback.missing:
        said.append(f"{rollback.missing} requests could not be sent again: they are not recorded")
    return "; ".join(said) or None


def _cells(requests: Sequence[Rerun]) -> str:
    shown = ", ".join(f"`{one.summary}`" for one in requests[:SHOWN_CELLS])
    more = len(requests) - SHOWN_CELLS
    return f"{shown} and {more} more" if more > 0 else shown
