"""PID 1 of a session's pod: prepares the container, and keeps the agent running.

    python -m sessionkeeper.kubernetes.entry

The agent's settings are in the environment. It may crash: kernels live on, and the next agent finds
them. SIGTERM (the pod is deleted, its node drained) is the agent's notice; when it has ended in
order, its session is elsewhere, and all that is left here ends.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import certifi

from sessionkeeper.nodes import init
from sessionkeeper.nodes.cgroups import hierarchies
from sessionkeeper.values import parse_duration

__all__ = ["certificates", "main", "own_control_groups"]

SPARE_SECONDS = 3.0


def main() -> int:
    """See above. Returns the exit status."""
    if os.environ.get("SESSIONKEEPER_RUNTIME") == "container":
        for root in hierarchies():
            own_control_groups(root)
    else:
        os.environ.update(certificates(os.environ))
    grace = parse_duration(os.environ.get("SESSIONKEEPER_GRACE", "30s")) + SPARE_SECONDS
    return init.keep_running([sys.executable, "-I", "-m", "sessionkeeper", "agent"], grace=grace)


def certificates(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what lets a Python that was brought into an image know certificate authorities, which
    the image need not have, or has elsewhere. Empty if they are where ours looks.
    """
    paths = ssl.get_default_verify_paths()
    known = environ.get("SSL_CERT_FILE") or environ.get("SSL_CERT_DIR")
    if known or paths.cafile or (paths.capath and os.listdir(paths.capath)):
        return {}
    return {"SSL_CERT_FILE": certifi.where()}


def own_control_groups(root: Path) -> None:
    """Make the container's part of a hierarchy one that runc can make groups in.

    It is mounted read-only for a container that is not privileged. In version 2 a group has either
    processes or groups with controllers ("no internal processes", cgroups(7)): all that is here
    goes to a group of its own first. Raises ``CalledProcessError`` without the right to mount.
    """
    if os.statvfs(root).f_flag & os.ST_RDONLY:
        subprocess.run(["mount", "-o", "remount,bind,rw", str(root)], check=True)
    controllers = root / "cgroup.controllers"
    # Version 1 has no such rule, nor has the machine's own root, which has no events: not to be
    # touched, it is everybody's.
    if not controllers.exists() or not (root / "cgroup.events").exists():
        return
    own = root / "agent"
    own.mkdir(exist_ok=True)
    for pid in (root / "cgroup.procs").read_text().split():
        with contextlib.suppress(OSError):  # it has just ended, or is the kernel's
            (own / "cgroup.procs").write_text(pid)
    for name in controllers.read_text().split():
        with contextlib.suppress(OSError):  # not one that is handed down: runc does without
            (root / "cgroup.subtree_control").write_text(f"+{name}")


if __name__ == "__main__":
    sys.exit(main())
