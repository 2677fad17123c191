"""Entering another network namespace for the length of one call, without leaving a trace in this
thread.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from pathlib import Path

CLONE_NEWNET = 0x40000000
_CLONE_NEWNS = 0x00020000
_TMPFS_MAGIC = 0x01021994  # linux/magic.h
_libc = ctypes.CDLL(None, use_errno=True)


def connect_in(namespace: Path, address: tuple[str, int], timeout: float) -> socket.socket:
    """Return a TCP socket connected to ``address`` as seen in the network namespace at
    ``namespace``.

    A socket belongs to the namespace it was made in; the calling thread is back in its own when
    this returns. Raises OSError. ``timeout`` in seconds.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(there)
        try:
            connection = socket.socket()
        finally:
            _setns(home)
    finally:
        os.close(home)
        os.close(there)
    try:
        connection.settimeout(timeout)
        connection.connect(address)
        if connection.getsockname() == connection.getpeername():
            # Nobody listened, and the port it was given was the one it was looking for.
            raise ConnectionRefusedError(f"nobody listens at {address}")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        connection.close()
        raise
    return connection


def have_run_in_memory() -> None:
    """CRIU keeps what it found out of the kernel on a tmpfs alone, and does not dump where /run is
    none: give this process, before it has threads, one of its own. Nothing where it is one. Raises
    OSError, CalledProcessError.
    """
    found = subprocess.run(
        ["stat", "--file-system", "--format=%t", "/run"], capture_output=True, text=True, check=True
    )
    if int(found.stdout, 16) == _TMPFS_MAGIC:
        return
    if _libc.unshare(_CLONE_NEWNS):
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"], check=True)
    for path in ("/run/netns", "/run/lock"):
        os.mkdir(path)


def has_capability(number: int) -> bool:
    """Return whether this process effectively has the capability ``number`` (capabilities(7))."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET):
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
