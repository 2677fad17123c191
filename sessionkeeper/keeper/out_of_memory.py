"""What becomes of a kernel whose memory ran out: it comes back, and what it ran does not.

The cell that did it is answered with the reason and is never applied again. If the checkpoint was
made in its middle, the restored kernel goes on in it: it is interrupted there, before it has done
much, and nothing more of it is shown. If it runs out again all the same, the checkpoint before is
taken, and the one before that. A kernel that no checkpoint has, or helps, begins anew.
"""

from __future__ import annotations

import asyncio

from gateway.kernels import Compute, Kernels
from gateway.requests import Request
from gateway.rollback import Rollback
from sessionkeeper.keeper.keeper import SessionKeeper

_BROUGHT_BACK = (
    "The kernel is brought back from its newest checkpoint, with what it had then; this cell is not"
    " run again."
)
_BEGINS_ANEW = "No checkpoint helps: the kernel begins anew, and this cell is not run again."


class OutOfMemory:
    """For the kernels of one session; ``compute`` is what starts them."""

    def __init__(self, kernels: Kernels, keeper: SessionKeeper, compute: Compute) -> None:
        self._kernels = kernels
        self._keeper = keeper
        self._compute = compute
        self._limits: dict[str, int | None] = {}
        self._cells: dict[str, Request] = {}
        self._restarts: set[asyncio.Task[None]] = set()

    def heard(self, kernel_id: str, limit: int | None) -> None:
        """The kernel is about to be said to be killed: memory had run out, of which its session may
        use ``limit`` bytes.
        """
        self._limits[kernel_id] = limit

    def exited(self, kernel_id: str) -> str | None:
        """The kernel was killed. Returns what is told to who waits, if it was for that and it comes
        back.
        """
        if kernel_id not in self._limits:
            return None
        cell = self._running(kernel_id)
        text = words(cell.summary if cell is not None else None, self._limits.pop(kernel_id))
        number = cell.number if cell is not None else 0
        if self._keeper.kernels.bring_back(kernel_id, ran_out=number):
            if cell is not None:
                self._cells[kernel_id] = cell
            return f"{text} {_BROUGHT_BACK}"
        if not self._keeper.kernels.may_begin_anew(kernel_id):
            return None
        restart = asyncio.create_task(self._kernels.restart(kernel_id, self._compute))
        self._restarts.add(restart)
        restart.add_done_callback(self._restarts.discard)
        return f"{text} {_BEGINS_ANEW}"

    def rolled_back(self, rollback: Rollback) -> None:
        """A kernel is restored: if it is in the middle of the cell, that ends here."""
        cell = self._cells.pop(rollback.kernel_id, None)
        if cell is None or cell.number > rollback.applied:
            return
        self._kernels.channel(rollback.kernel_id).ends.muted.setdefault(cell.msg_id, 0)
        self._keeper.kernels.interrupt_in(rollback.kernel_id, cell.number)

    def _running(self, kernel_id: str) -> Request | None:
        """The cell that it runs."""
        waiting = self._kernels.channel(kernel_id).ends.requests.unfinished()
        return next((one for one in waiting if one.msg_type == "execute_request"), None)


def words(cell: str | None, limit: int | None) -> str:
    """Return what is said of a kernel whose memory ran out while it ran ``cell``, in a session that
    may use ``limit`` bytes.
    """
    what = f"`{cell}` ran out of memory" if cell else "The kernel ran out of memory"
    if limit is None:
        return f"{what}."
    return f"{what}: the session may use {limit / (1 << 20):.0f} MiB."
