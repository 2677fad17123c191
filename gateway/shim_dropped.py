"""What a kernel has dropped of its output, or may have: it drops what it cannot send, so also the
end of a long output, its `idle`. It is said in its place.

Standard library only, Python >= 3.8.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any, Callable, Sequence  # noqa: UP035

from gateway.shim_ends import Ends
from gateway.shim_starved import Starved, waited


class Dropped:
    """Of one kernel. `say(event)` tells what is missing. A `pid` is that of a kernel that drops;
    None of one that waits until it is heard, or has ended.
    """

    def __init__(self, say: Callable[[dict[str, Any]], None]) -> None:
        self.ends = Ends()
        self._starved = Starved()
        self._say = say

    def heard(self, parts: Sequence[Any], pid: int | None) -> None:
        """A message of iopub, ours included."""
        self._starved.messages += 1
        if b'"status"' not in parts[0]:
            return
        parent = json.loads(parts[1]).get("msg_id", "")
        if b'"busy"' in parts[3]:
            self.ends.begins(parent, time.monotonic())
        elif b'"idle"' in parts[3]:
            if self._starved.messages > 100:
                self._doubt(time.monotonic(), pid)
            self.ends.ends(parent)

    def replied(self, parts: Sequence[Any]) -> None:
        """A reply of a kernel that drops."""
        self.ends.replied(json.loads(parts[1]).get("msg_id", ""), time.monotonic())

    def look(self, now: float, pid: int | None, deaf: bool) -> None:
        """Time has passed. `deaf`: nothing is read from the kernel now."""
        if deaf:
            self.ends.wait(now)
            return
        for msg_id in self.ends.dropped(now):
            self._say({"event": "output_lost", "msg_id": msg_id})
        if self._starved.due(now):
            self._doubt(now, pid)

    def _doubt(self, now: float, pid: int | None) -> None:
        if pid is not None:
            self._starved.look(now, waited(os.getpid(), pid))
            for msg_id, seconds in self._starved.doubtful(self.ends.busy):
                self._say({"event": "output_doubtful", "msg_id": msg_id, "seconds": seconds})
