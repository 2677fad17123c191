"""Ends a kernel whose memory has not arrived when the agent that brings it dies.

A process that waits for memory finds zeros there as soon as nobody has its userfaultfd any more.
So a guard has it as well, from the moment that the agent gets it: when the agent is gone before it
said that all memory has arrived, the guard ends the kernel first. It is then brought back as after
any other loss, from the checkpoint that it was just restored from.

The other end is a process of its own (`python -I -S guard.py DESCRIPTOR GROUP...`), which needs
the standard library alone: it is started for each lazy restore, and ends with it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

_KEEP, _RELEASE, _OVER = b"keep", b"release", b"over"
_QUIET = 1.0
"""Seconds without a process in the control group: what CRIU was still restoring has ended too."""


class Guard:
    """The agent's end. `groups` are the directories of the kernel's control group."""

    def __init__(self, groups: Sequence[str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, str(theirs.fileno()), *groups],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def keep(self, descriptor: int) -> None:
        """Have this descriptor open until `release`. Raises OSError when the guard is gone."""
        socket.send_fds(self._socket, [b"%s %d" % (_KEEP, descriptor)], [descriptor])

    def release(self, descriptor: int) -> None:
        """Close it."""
        with suppress(OSError):
            self._socket.send(b"%s %d" % (_RELEASE, descriptor))

    def end(self) -> None:
        """There is nothing to guard any more."""
        with suppress(OSError):
            self._socket.send(_OVER)
        self._socket.close()
        self._process.wait()


def end_group(groups: Sequence[str], quiet: float = 0.0) -> None:
    """Kill all processes of a control group, frozen or not; return when none is left.

    Nor has been for `quiet` seconds. `groups` are its directories in the hierarchies.
    """
    since = time.monotonic()
    while True:
        pids = {pid for group in groups for pid in _processes(group)}
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if pids:
            since = time.monotonic()
            for group in groups:
                _thaw(group)
        elif time.monotonic() - since >= quiet:
            return
        time.sleep(0.005)  # nobody tells when a group becomes empty


def _processes(group: str) -> list[int]:
    try:
        with open(os.path.join(group, "cgroup.procs")) as file:
            # 0 is a process that cannot be seen from here
            return [pid for line in file if (pid := int(line))]
    except OSError:
        return []


def _thaw(group: str) -> None:
    """In version 1 a frozen process does not die of SIGKILL."""
    for name, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
        path = os.path.join(group, name)
        if os.path.exists(path):
            with suppress(OSError), open(path, "w") as file:
                file.write(word)


def main(arguments: Sequence[str]) -> None:
    """The guard's end."""
    kept: dict[bytes, int] = {}
    with socket.socket(fileno=int(arguments[0])) as other:
        while True:
            try:
                said, descriptors, _, _ = socket.recv_fds(other, 64, 1)
            except OSError:
                said = b""
            match said.split():
                case [word, number] if word == _KEEP:
                    kept[number] = descriptors[0]
                case [word, number] if word == _RELEASE and number in kept:
                    os.close(kept.pop(number))
                case [word] if word == _OVER:
                    return
                case []:
                    end_group(arguments[1:], _QUIET)
                    return


if __name__ == "__main__":
    main(sys.argv[1:])
