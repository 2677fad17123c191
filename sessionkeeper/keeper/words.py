"""What a user reads when a session was moved, was brought back, or went back to a checkpoint."""

from __future__ import annotations

import time
from dataclasses import dataclass

from gateway.rollback import Rerun, Rollback

SHOWN_CELLS = 3


@dataclass
class Recovery:
    """A way back that is under way: from which node, by plan or not, since when (monotonic)."""

    node: str
    planned: bool
    began: float

    def told(self, node: str, checkpoint: int | None) -> str:
        """Return how it ended: on ``node``, from the checkpoint of that number."""
        took = f"in {time.monotonic() - self.began:.1f} s"
        if self.planned:
            return f"moved from {self.node} to {node} {took}"
        source = f"checkpoint {checkpoint}" if checkpoint else "what was recorded"
        lost = "" if node == self.node else f"{self.node} was lost; "
        return f"{lost}recovered on {node} from {source} {took}"


def rolled_back(rollback: Rollback) -> str:
    """Return which cells ran again, which went on, which were given up."""
    said = []
    if rollback.mode == "stop":
        if rollback.rerun:
            said.append(f"not run again (on_rollback=stop): {_cells(rollback.rerun)}")
    elif rollback.rerun:
        said.append(f"ran again {_cells(rollback.rerun)}")
    if rollback.continued:
        said.append(f"went on in {_cells(rollback.continued)}")
    if rollback.missing:
        said.append(f"{rollback.missing} requests could not be sent again: they are not recorded")
    kernel = f"kernel {rollback.kernel_id[:8]} went back to its checkpoint"
    return f"{kernel}: {'; '.join(said)}" if said else kernel


def _cells(requests: tuple[Rerun, ...]) -> str:
    shown = ", ".join(f"`{one.summary}`" for one in requests[:SHOWN_CELLS])
    more = len(requests) - SHOWN_CELLS
    return f"{shown} and {more} more" if more > 0 else shown
