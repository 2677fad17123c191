"""A dump of a container by CRIU itself, in the form in which ``runc restore`` takes it.

``runc checkpoint`` drives CRIU by its RPC, and there `--stream` does not work: CRIU (4.2.1) does
not know yet that it is to dump when it looks for whom to stream to, and aborts. So CRIU is asked
for what runc asks it for (runc 1.1, ``libcontainer/container_linux.go``, ``criuSwrk``): whatever
the container has from outside is external, under the name by which ``runc restore`` brings it.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from checkpoint.criu import Capture, Dump, Known
from checkpoint.errors import InvalidImage
from sessionkeeper.agent.errors import DumpFailed
from sessionkeeper.agent.oci import DEVICES, MASKED, Container
from sessionkeeper.agent.reasons import reason
from sessionkeeper.nodes import cgroups

LIMIT = 300.0
"""Seconds that a dump may take."""

DELETED = 512 << 20
"""Bytes of a file that is open and has no name any more: temporary files are made like that. CRIU's
own limit is 1 MiB."""


def dump(
    criu: Sequence[str],
    container: Container,
    pid: int,
    images: Path,
    work: Path,
    known: Known | None,
    room: Path | None,
) -> Dump:
    """Dump a (frozen) container, whose first process is ``pid``, and leave it as it is: its memory
    as :class:`Capture` takes it, the rest into the new directory ``images``, CRIU's log into
    ``work``. Raises :class:`DumpFailed`.
    """
    try:
        images.mkdir(parents=True)
        work.mkdir(exist_ok=True)
        with Capture(images, known, room) as capture:
            try:
                _call(criu, container, pid, images, work)
            except subprocess.CalledProcessError as error:
                said = _own_words(capture.error) or reason(work / "dump.log", error.stderr)
                if error.returncode < 0:
                    said = f"CRIU was killed by signal {-error.returncode}"
                raise DumpFailed(f"the kernel could not be dumped: {said}") from None
            _note_standard_streams(images, pid)
            return capture.dump()
    except subprocess.TimeoutExpired:
        raise DumpFailed(f"CRIU did not end within {LIMIT:.0f} s") from None
    except (InvalidImage, OSError) as error:
        raise DumpFailed(f"the kernel could not be dumped: {error}") from error


def _call(criu: Sequence[str], container: Container, pid: int, images: Path, work: Path) -> None:
    # By a descriptor: CRIU has room for a short path only.
    here = os.open(images, os.O_RDONLY | os.O_DIRECTORY)
    try:
        subprocess.run(
            [*criu, *arguments(container, pid, f"/proc/self/fd/{here}", work)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=True,
            pass_fds=(here,),
            timeout=LIMIT,
            start_new_session=True,
        )
    finally:
        os.close(here)


def arguments(container: Container, pid: int, images: str, work: Path) -> list[str]:
    """What CRIU is told."""
    root = Path(f"/proc/{pid}/root")
    masked = [path for path in MASKED if _is_file(root / path.lstrip("/"))]
    outside = {
        **{bind.target: bind.target for bind in container.binds},
        **dict.fromkeys(masked, "/dev/null"),
        **{device: device for device in DEVICES},
    }
    network = os.stat(f"/proc/{pid}/ns/net").st_ino
    return [
        *("dump", "--stream", "--leave-running", "--file-locks"),
        *("--ghost-limit", str(DELETED)),
        # What is watched by inotify(7) cannot be found by its handle in an overlay: by its name.
        *("--force-irmap", "--irmap-scan-path", container.cwd),
        *("--tree", str(pid), "--images-dir", images, "--work-dir", str(work)),
        *("--log-file", "dump.log", "-v4", "--root", str(container.rootfs)),
        *("--config", str(container.criu_config), "--manage-cgroups=soft"),
        *("--freeze-cgroup", str(cgroups.freezer(container.cgroup)), "--empty-ns", "net"),
        *("--external", f"net[{network}]:extRootNetNS"),
        *(part for at, name in outside.items() for part in ("--external", f"mnt[{at}]:{name}")),
    ]


def _note_standard_streams(images: Path, pid: int) -> None:
    """``runc restore`` opens them again."""
    streams = [os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)]
    (images / "descriptors.json").write_text(json.dumps(streams))


def _is_file(path: Path) -> bool:
    return path.exists() and not path.is_dir()


def _own_words(error: BaseException | None) -> str:
    """What went wrong here; CRIU only knows that nobody read any more."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "there is no room for its memory"
    return str(error) if error is not None else ""
