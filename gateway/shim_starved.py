"""Whether a kernel that drops what it cannot send may have dropped something.

It does when 1000 messages wait for its sending thread (ZMQ_SNDHWM), which happens when that thread,
or ours that receives, does not get a processor while the kernel says much. The operating system
counts how long threads wait for one (/proc/PID/task/TID/schedstat, sched-stats.rst).

Standard library only, Python >= 3.8.
"""

from __future__ import annotations

import os

# Messages that may wait in a kernel; half of what it drops after, as its rate is only estimated.
WAITING = 500
# Seconds between two looks.
LOOK = 0.1


def waited(*pids: int) -> float:
    """Seconds that the threads with which libzmq sends and receives have waited for a processor, in
    these processes, since they began.
    """
    nanoseconds = 0
    for pid in pids:
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue
        for thread in threads:
            place = f"/proc/{pid}/task/{thread}"
            try:
                with open(f"{place}/comm") as name:
                    if not name.read().startswith("ZMQbg/IO"):
                        continue
                with open(f"{place}/schedstat") as counts:
                    nanoseconds += int(counts.read().split()[1])
            except (OSError, IndexError, ValueError):
                continue
    return nanoseconds / 1e9


class Starved:
    """Of one kernel; `messages` counts what came since the last look. Without a clock: `now` and
    `waited` are seconds that only grow.
    """

    def __init__(self) -> None:
        self.messages = 0
        self._since = self._waited = self._held = 0.0
        self._began = False
        self._told: frozenset[str] = frozenset()

    def due(self, now: float) -> bool:
        """Whether it is time to look."""
        return self.messages > 0 and now - self._since >= LOOK

    def look(self, now: float, waited: float) -> None:
        """`waited`: by the threads that send and receive, for a processor, until now."""
        held, took, messages = waited - self._waited, now - self._since, self.messages
        self.messages, self._since, self._waited = 0, now, waited
        rate = messages / max(took - held, LOOK / 10)
        # At first there is nothing to compare with; where it is restored, counting begins anew.
        self._held = held if self._began and held > 0 and rate * held > WAITING else 0.0
        self._began = True

    def doubtful(self, busy: set[str]) -> list[tuple[str, float]]:
        """Requests of which something may be missing, of those that the kernel works on, and the
        seconds for which nothing was sent. Each is told once.
        """
        if not self._held:
            return []
        new, self._told = busy - self._told, frozenset(busy)
        return [(msg_id, self._held) for msg_id in new]
