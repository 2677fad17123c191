"""PID 1 of a node: keeps the agent running, reaps orphans, and ends everything when told.

    python -m sessionkeeper.nodes.init --ready-fd N [--hide DIRECTORY [--keep DIRECTORY]...]
        [--nameserver ADDRESS]... -- AGENT [ARG]...

It says "started" on the descriptor, and starts the agent when it reads a line from standard input,
by which time the supervisor has connected the node's network; it ends when there is none. When the
agent ends by itself it says "failed" and starts it again, so that kernels outlive it. SIGTERM ends
the agent, then everything else on the node.

Without a PID namespace it is a "child subreaper" (prctl(2)): what daemonises inside the node stays
its descendant. Only the standard library, and little of that: it costs memory on every node.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

from sessionkeeper.nodes.processes import descendants, end_all
from sessionkeeper.up.ready import announce

_PR_SET_CHILD_SUBREAPER = 36
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC = 2, 4, 4096, 16384
_MASK = (signal.SIGCHLD, signal.SIGTERM)
_GRACE_SECONDS = 5.0
_LONGEST_DELAY = 5.0
_STEADY_SECONDS = 10.0
_RESOLVER = "/etc/resolv.conf"


def main(arguments: list[str]) -> int:
    """See above. Returns the exit status."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _MASK)
    split = arguments.index("--")
    options, agent = _options(arguments[:split]), arguments[split + 1 :]
    if os.getpid() == 1:
        _arrange_mounts(options.get("--hide", []), options.get("--keep", []))
        _name_servers(options.get("--nameserver", []))
    else:
        _libc().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ready_fd = int(options["--ready-fd"][0])
    announce(ready_fd, "started")
    if not sys.stdin.readline():
        return 1
    _give_up_stdin()
    return keep_running(agent, ready_fd)


def _options(words: list[str]) -> dict[str, list[str]]:
    options: dict[str, list[str]] = {}
    for name, value in zip(words[::2], words[1::2], strict=True):
        options.setdefault(name, []).append(value)
    return options


def keep_running(
    agent: list[str], ready_fd: int | None = None, grace: float = _GRACE_SECONDS
) -> int:
    """Run the agent until SIGTERM, again when it ends by itself. In order it ends within ``grace``
    seconds. Returns the exit status.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _MASK)
    delay = 0.1
    while True:
        started = time.monotonic()
        # The agent must not inherit the blocked signals.
        pid = os.posix_spawn(agent[0], agent, os.environ, setsigmask=[])
        while (status := _reap(pid)) is None:
            if signal.sigwait(_MASK) == signal.SIGTERM:
                return _end(pid, grace)
        delay = 0.1 if time.monotonic() - started > _STEADY_SECONDS else delay
        announce(ready_fd, "failed")
        _say(f"the agent ended ({_reason(status)}); starting it again in {delay:.1f} s")
        until = time.monotonic() + delay
        while (left := until - time.monotonic()) > 0:
            got = signal.sigtimedwait(_MASK, left)
            if got and got.si_signo == signal.SIGTERM:
                return _end(None, grace)
            _reap(None)
        delay = min(delay * 2, _LONGEST_DELAY)


def _reap(pid: int | None) -> int | None:
    """Collect every child that is dead; the wait status of `pid` if it is among them."""
    found = None
    while True:
        try:
            dead, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if dead == 0:
            return found
        if dead == pid:
            found = status


def _end(agent: int | None, grace: float) -> int:
    until = time.monotonic() + grace
    if agent:
        os.kill(agent, signal.SIGTERM)
        while _reap(agent) is None and (left := until - time.monotonic()) > 0:
            signal.sigtimedwait((signal.SIGCHLD,), left)
    if os.getpid() != 1:  # With PID 1 the kernel ends the rest of its namespace.
        end_all(lambda: descendants(os.getpid()))
    return 0


def _arrange_mounts(hidden: list[str], kept: list[str]) -> None:
    """/run is the node's own: names of network namespaces, state of runc, and CRIU's cache of what
    the kernel can do, which it keeps only on a tmpfs. What a hidden directory holds beside the kept
    ones is not there for the node."""
    inside = [one for one in kept if os.path.isdir(one)]
    # Open first: once a tmpfs covers them they can be reached by descriptor alone.
    handles = {one: os.open(one, os.O_PATH) for one in inside}
    resolver = _read(_RESOLVER)
    _mount("tmpfs", "/run", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755")
    for path in ("/run/netns", "/run/lock"):
        os.mkdir(path)
    if not os.path.exists(_RESOLVER):  # a link to a file in /run
        _write(os.path.realpath(_RESOLVER), resolver)
    for path in hidden:
        os.makedirs(path, mode=0o700, exist_ok=True)
        _mount("tmpfs", path, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=700,size=64k")
    for path, handle in handles.items():
        os.makedirs(path, mode=0o700, exist_ok=True)
        _mount(f"/proc/self/fd/{handle}", path, None, _MS_BIND | _MS_REC, None)
        os.close(handle)
    # A working directory below what is now hidden would be a way around.
    os.chdir("/")


def _name_servers(addresses: list[str]) -> None:
    """Ask these, where the machine's configuration names a resolver on its own loopback."""
    words = _read(_RESOLVER).split()
    if not addresses or not any(word.startswith(("127.", "::1")) for word in words):
        return
    _write("/run/resolv.conf", "".join(f"nameserver {one}\n" for one in addresses))
    _mount("/run/resolv.conf", os.path.realpath(_RESOLVER), None, _MS_BIND, None)


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None) -> None:
    arguments = [one.encode() if one is not None else None for one in (source, target, kind)]
    failed = _libc().mount(*arguments, flags, data.encode() if data else None)
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot mount {target}: {os.strerror(number)}")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _give_up_stdin() -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def _reason(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit status {code}" if code >= 0 else signal.Signals(-code).name


def _say(text: str) -> None:
    print(f"init: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
