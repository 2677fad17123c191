"""When a shim writes to its agent. Pure, standard library only, Python >= 3.8.

Each write costs every process up to the page a turn, which is most of what a small cell costs
there. So what a kernel says may wait a moment for what comes next, which often is the end of the
cell; the end itself, and what somebody is to answer, does not.
"""

from __future__ import annotations

from typing import Any, Sequence  # noqa: UP035

from gateway.frames import IOPUB, SHELL

# Seconds that something may wait for company: that a cell begins, and what it then says.
BEGINS, SAYS = 0.02, 0.003
# Bytes of a content that is not worth to wait with.
LONG = 4096


def patience(channel: int, parts: Sequence[Any], busy: bool) -> float:
    """Seconds that a message of the kernel may wait, 0 if it must not. `busy`: the kernel has not
    said yet that the request it belongs to has ended.
    """
    if channel == SHELL:
        return SAYS if busy else 0.0
    if channel != IOPUB or len(parts) > 4 or len(parts[3]) > LONG:
        return 0.0
    if b'"status"' in parts[0]:
        return BEGINS if b'"busy"' in parts[3] else 0.0
    return BEGINS if b'"execute_input"' in parts[0] else SAYS


class Haste:
    """`until`: when what waits is to be written, None while nothing waits. Seconds of one clock."""

    def __init__(self) -> None:
        self.until: float | None = None
        self._now = False

    def hurry(self) -> None:
        """There is something that must not wait."""
        self._now = True

    def wait(self, now: float, seconds: float) -> None:
        """There is something that may wait for so long."""
        if self.until is None or now + seconds < self.until:
            self.until = now + seconds

    def due(self, now: float) -> bool:
        """Whether to write all there is, now."""
        if not self._now and (self.until is None or now < self.until):
            return False
        self._now, self.until = False, None
        return True
