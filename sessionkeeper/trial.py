"""Start, dump and restore one container, in all respects as it is done with every kernel.

`criu check` passes on machines where a dump then fails (CRIU 4.1 and `SO_PASSCRED`, a control group
that cannot be written, an overlay that CRIU cannot look through). Only the attempt tells.

It is made in a process and mount namespace of its own, with a tmpfs on /run, as a node has one:
CRIU keeps its cache of what the kernel can do only on a tmpfs.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

from sessionkeeper.agent import rootfs
from sessionkeeper.agent.held import let_go
from sessionkeeper.agent.mappings import processes_of
from sessionkeeper.agent.oci import Container
from sessionkeeper.agent.runc import Runc
from sessionkeeper.errors import SessionkeeperError

__all__ = ["trial"]


_SECONDS = 60.0
_SCRIPT = 'mount -t tmpfs -o mode=755 tmpfs /run && exec "$@"'


def trial(directory: Path, criu: Path) -> str:
    """Empty when a process in a container below `directory` was dumped and came back; else why not.

    Leaves nothing behind. Needs root, `runc`, `ip` and a CRIU that passes its own check.
    """
    command = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        _SCRIPT,
        "sh",
        sys.executable,
        "-m",
        "sessionkeeper.trial",
    ]
    try:
        done = subprocess.run(
            [*command, str(directory), str(criu)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it did not end within {_SECONDS:.0f} seconds"
    said = (done.stdout + done.stderr).strip().splitlines()
    return "" if done.returncode == 0 else (said or [f"exit status {done.returncode}"])[-1]


def _make(directory: Path, criu: Path) -> str:
    name = f"sk-trial-{uuid.uuid4().hex[:8]}"
    try:
        with tempfile.TemporaryDirectory(prefix=".trial-", dir=directory) as scratch:
            Path(scratch).chmod(0o755)
            return _in(Path(scratch), name, criu)
    except (OSError, subprocess.CalledProcessError) as error:
        return str(error)


def _in(scratch: Path, name: str, criu: Path) -> str:
    layers = rootfs.Layers(scratch / "session")
    runc = Runc(scratch / "runc", criu)
    container = Container(
        name=name,
        rootfs=layers.root,
        network=Path("/run/netns") / name,
        cgroup=f"/{name}",
        argv=("/usr/bin/sleep", "600"),
    )
    with contextlib.ExitStack() as undo:
        try:
            rootfs.create_upper(layers.upper)
            rootfs.mount(layers)
            undo.callback(rootfs.unmount, layers)
            subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
            undo.callback(subprocess.run, ["ip", "netns", "delete", name], capture_output=True)
            undo.callback(runc.delete, name)
            runc.run(container)
            runc.pause(container)
            runc.dump_whole(container, scratch / "image")
            runc.delete(name)
            runc.restore(container, scratch / "image")
            let_go(processes_of(container.cgroup), frozenset())
            return "" if runc.alive(name) else "the restored process was not there"
        except SessionkeeperError as error:
            return str(error)


if __name__ == "__main__":
    sys.exit(_make(Path(sys.argv[1]), Path(sys.argv[2])) or 0)
