"""The root file system of a session on a node: one overlay, shared by its kernels' containers.

The lower layer is the session's image, or the host's own root when there is none; then places
that may hold other people's secrets (homes, this program's state, run-time directories) are
hidden by the upper layer. Everything a session writes lands in the upper layer, and that is
what a checkpoint holds.

Source: Linux Documentation/filesystems/overlayfs.rst (opaque directories, whiteouts).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sessionkeeper.agent.errors import NodeSetupFailed
from sessionkeeper.agent.oci import (
    CONTROL_DIR,
    HOME,
    IPC_DIR,
    OWN_PACKAGES,
    USER_ID,
    USER_NAME,
)

HIDDEN = ("root", "home", "run", "tmp", "var/tmp", "mnt", "media", "srv", "boot", "lost+found")
STICKY = ("tmp", "var/tmp")
# Mount points that only exist so that something can be mounted there; they are made anew on
# each node.
NOT_SAVED = (CONTROL_DIR, IPC_DIR)

VOLATILE = "volatile"
"""Nothing waits for the disk in there, whatever it syncs: what a machine that is gone had on it is
of no use, checkpoints are what outlives it. IPython syncs its history four times per cell."""


@dataclass(frozen=True)
class Layers:
    """Directories of one session's root file system, all below ``base`` on one plain file
    system.
    """

    base: Path

    @property
    def upper(self) -> Path:
        return self.base / "upper"

    @property
    def work(self) -> Path:
        return self.base / "work"

    @property
    def root(self) -> Path:
        """Where it is mounted: what the kernels see as ``/``."""
        return self.base / "root"

    @property
    def home(self) -> Path:
        return self.root / HOME.lstrip("/")


def create_upper(upper: Path) -> None:
    """Make the upper layer of a new session: hidden places empty, the user's home there and
    owned by the user.
    """
    upper.mkdir(parents=True, exist_ok=True)
    upper.chmod(0o755)
    hide(upper, (Path("/") / place for place in HIDDEN))
    give_home(upper)
    add_user(upper / "etc", *(_text(Path("/etc") / name) for name in ("passwd", "group")))


def give_home(upper: Path) -> None:
    """Make the home with all that is in it the user's."""
    # There from the start: Python looks once whether a directory of its path exists.
    (upper / OWN_PACKAGES.lstrip("/")).mkdir(parents=True, exist_ok=True)
    give(upper / HOME.lstrip("/"), USER_ID)


def give(directory: Path, user: int, group: int | None = None) -> None:
    """Make a directory with all that is in it ``user``'s, who does not run anything there yet."""
    group = user if group is None else group
    os.chown(directory, user, group)
    for above, directories, names in os.walk(directory):
        for name in (*directories, *names):
            os.chown(os.path.join(above, name), user, group, follow_symlinks=False)


def hide(upper: Path, places: Iterable[Path]) -> None:
    """Let directories of the host look empty. For those of one node also in a session that comes
    from another: its checkpoint knows nothing of them.
    """
    for place in places:
        if place.is_dir() and not place.is_symlink():
            inside = place.relative_to("/")
            _opaque(upper, inside, 0o1777 if str(inside) in STICKY else 0o755)


def prepare_mount_points(upper: Path) -> None:
    """Make what a checkpoint leaves out: the places where this node mounts something of its own."""
    for place in NOT_SAVED:
        make(upper, place.lstrip("/"), 0o755)


def mount(layers: Layers, lower: Sequence[str] = ("/",), within: Path = Path("/")) -> None:
    """Mount the overlay; ``lower`` are directories in ``within``, the topmost first. Raises
    :class:`NodeSetupFailed` with the kernel's own words.
    """
    for directory in (layers.upper, layers.work, layers.root):
        directory.mkdir(parents=True, exist_ok=True)
    below = ":".join(lower)
    options = f"lowerdir={below},upperdir={layers.upper},workdir={layers.work},xino=off"
    # What is only copied up in part would be saved with holes.
    options += ",metacopy=off"
    # The mark of an earlier mount, which says that its machine may have gone meanwhile. If it had,
    # the session would have gone on from a checkpoint, in another upper layer.
    shutil.rmtree(layers.work / "work" / "incompat", ignore_errors=True)
    # Linux before 5.10 does not know it.
    said = _mounted(layers, f"{options},{VOLATILE}", within) and _mounted(layers, options, within)
    if said:
        raise NodeSetupFailed(f"the session's root file system could not be mounted: {said}")


def _mounted(layers: Layers, options: str, within: Path) -> str:
    done = subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", options, str(layers.root)],
        capture_output=True,
        text=True,
        cwd=within,
        # One call with all options: as single ones they may have 256 bytes (util-linux 2.39).
        env={**os.environ, "LIBMOUNT_FORCE_MOUNT2": "always"},
    )
    return done.stderr.strip() or "mount failed" if done.returncode else ""


def unmount(layers: Layers) -> None:
    """Take the overlay away; lazily, as a process that is just ending may still hold it."""
    subprocess.run(["umount", "-l", str(layers.root)], capture_output=True)


def _opaque(upper: Path, place: Path, mode: int) -> None:
    # Parents get the mode they have below, as the merged view takes it from the upper layer.
    done = Path()
    for part in place.parts:
        done /= part
        directory = upper / done
        if not directory.exists():
            directory.mkdir()
            directory.chmod((Path("/") / done).stat().st_mode & 0o7777)
    (upper / place).chmod(mode)
    os.setxattr(upper / place, "trusted.overlay.opaque", b"y")


def make(upper: Path, place: str, mode: int) -> Path:
    """Make a directory of the upper layer. What a checkpoint has in its place goes: a link there,
    of a user who may write to the root of an image, leads anywhere on this node.
    """
    directory = upper
    for part in Path(place).parts:
        directory /= part
        if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
            directory.unlink()
        directory.mkdir(mode=0o755, exist_ok=True)
    directory.chmod(mode)
    return directory


def add_user(etc: Path, passwd: str, group: str) -> None:
    """Write the user databases of a new session: those below it, and the session's own user."""
    etc.mkdir(exist_ok=True)
    passwd = passwd or "root:x:0:0:root:/root:/bin/sh\n"
    mine = {
        "passwd": (passwd, f"{USER_NAME}:x:{USER_ID}:{USER_ID}::{HOME}:/bin/bash\n"),
        "group": (group or "root:x:0:\n", f"{USER_NAME}:x:{USER_ID}:\n"),
    }
    for name, (text, line) in mine.items():
        (etc / name).write_text(text if f":{USER_ID}:" in text else text + line)
        (etc / name).chmod(0o644)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
