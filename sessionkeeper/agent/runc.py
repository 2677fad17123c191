"""``runc``, and CRIU by itself and as runc drives it, as calls that return or raise.

What made dump and restore work, and why:

* ``tcp-close``, ``skip-in-flight``: a connection, accepted or not yet, cannot move to another
  node; a listening socket can.
* ``network-lock skip``: the lock is for keeping connections alive; its drop rules would stay in
  the namespace.
* ``--file-locks``: sqlite3 and others hold some.
* ``leave-stopped``, at a restore: kernels of one session go on together, when all are there. An
  option of CRIU that runc has not, so it is in the configuration file while that runs.
* A root without ``CAP_SYS_RESOURCE`` (as in many sandboxes) may read another user's limits only
  with the same *real* user id (prlimit(2)); CRIU then runs with the user's real and root's
  effective id.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from checkpoint.criu import Dump, Known
from sessionkeeper.agent import dumping
from sessionkeeper.agent.errors import DumpFailed, KernelStartFailed, RestoreFailed
from sessionkeeper.agent.namespaces import has_capability
from sessionkeeper.agent.oci import Container, config
from sessionkeeper.agent.reasons import reason, words
from sessionkeeper.nodes import cgroups

CAP_SYS_RESOURCE = 24
CRIU_CONFIG_FILE = "criu.conf"
PID_FILE = "pid"
"""In a bundle: the id of the container's first process."""
CRIU_CONFIG = "tcp-close\nskip-in-flight\nnetwork-lock skip\n"
_CHECKPOINT_FLAGS = ("--file-locks",)

MOST_PRINTED = 16 << 20
ALONE = ("pid", "mount", "ipc", "uts", "network")
"""Namespaces of a container that reaches nobody."""

SHORT, LONG = 60.0, 300.0
"""Seconds that a call of runc may take; the long one is for those that copy a kernel's memory."""


@dataclass(frozen=True)
class Outcome:
    """How a call of runc ended; ``log`` is what it logged."""

    returncode: int
    stdout: str
    log: str


class Runc:
    """One node's containers: bundles and state below ``base``, all through one ``criu``.

    Thread-safe; every call blocks until the container is in the state asked for.
    """

    def __init__(self, base: Path, criu: Path, *, runc: str = "runc") -> None:
        self.base = base
        self._runc = runc
        self._bundles = base / "bundles"
        base.mkdir(parents=True, exist_ok=True)
        self._criu = criu
        # Fills CRIU's cache of what the kernel can do, which saves each later call some 30 ms.
        subprocess.run([criu, "check"], capture_output=True)

    def run(self, container: Container) -> None:
        """Create and start ``container``. Raises :class:`KernelStartFailed`."""
        if self._exists(container.name):
            raise KernelStartFailed(f"there is a container {container.name} already")
        bundle = self._bundle(container)
        done = self._call(
            *("run", "--detach", "--pid-file", str(bundle / PID_FILE)),
            *("--bundle", str(bundle), container.name),
        )
        if done.returncode:
            self.delete(container.name)
            raise KernelStartFailed(f"the container did not start: {words(done.log)}")

    def pause(self, container: Container) -> None:
        """Freeze all of the container's processes. Raises :class:`DumpFailed`."""
        try:
            cgroups.freeze(container.cgroup)
        except OSError as error:
            raise DumpFailed(f"the kernel could not be frozen: {error}") from None

    def resume(self, container: Container) -> None:
        """Let a frozen container go on; nothing happens when it is not frozen."""
        cgroups.thaw(container.cgroup)

    def dump(
        self,
        container: Container,
        images: Path,
        known: Known | None = None,
        room: Path | None = None,
    ) -> Dump:
        """Dump the (frozen) container, and leave it as it is; see
        :func:`sessionkeeper.agent.dumping.dump`.
        """
        bundle = self._bundles / container.name
        container = replace(container, criu_config=bundle / CRIU_CONFIG_FILE)
        try:
            pid = int((bundle / PID_FILE).read_text())
        except (OSError, ValueError):
            raise DumpFailed(f"there is no container {container.name}") from None
        criu = [str(self._criu_for(container.user))]
        return dumping.dump(criu, container, pid, images, self.work(images), known, room)

    def dump_whole(self, container: Container, images: Path) -> None:
        """``runc checkpoint``: all of a (frozen) container into ``images``, which :meth:`restore`
        takes. Raises :class:`DumpFailed`.
        """
        images.mkdir(parents=True, exist_ok=True)
        log = self.work(images)
        done = self._call(
            "--criu", str(self._criu_for(container.user)), "checkpoint", "--leave-running",
            *_CHECKPOINT_FLAGS, "--image-path", str(images), "--work-path", str(log),
            container.name,
            limit=LONG,
        )  # fmt: skip
        if done.returncode:
            raise DumpFailed(
                f"the kernel could not be dumped: {reason(log / 'dump.log', done.log)}"
            )

    def work(self, images: Path) -> Path:
        """Return the directory in which CRIU works when it dumps to or restores from ``images``."""
        return images.parent / f"{images.name}.work"

    def restore(self, container: Container, images: Path, *, lazy: bool = False) -> None:
        """Restore a dump as ``container``; its processes are stopped (SIGSTOP). A ``lazy`` one is
        given its memory by who listens in the work directory.

        Raises :class:`RestoreFailed`.
        """
        if self._exists(container.name):
            raise RestoreFailed(f"there is a container {container.name} already")
        bundle = self._bundle(container)
        (bundle / CRIU_CONFIG_FILE).write_text(f"{CRIU_CONFIG}leave-stopped\n")
        log = self.work(images)
        done = self._call(
            "--criu", str(self._criu_for(container.user)), "restore", "--detach",
            *_CHECKPOINT_FLAGS, "--image-path", str(images), "--work-path", str(log),
            "--pid-file", str(bundle / PID_FILE), "--bundle", str(bundle),
            *(("--lazy-pages",) if lazy else ()), container.name,
            # It tries its bind mounts in the file system that the session's other kernels share,
            # and takes them back: out of the sight of those that are being restored beside it.
            within=("unshare", "--mount"),
            limit=LONG,
        )  # fmt: skip
        (bundle / CRIU_CONFIG_FILE).write_text(CRIU_CONFIG)
        if done.returncode:
            self.delete(container.name)
            raise RestoreFailed(
                f"the kernel could not be restored: {reason(log / 'restore.log', done.log)}"
            )

    def ask(self, container: Container) -> tuple[int, bytes]:
        """Run a container without a network to its end: its exit code, and what it printed. One
        that takes too long, or says too much, is killed.
        """
        bundle = self._bundle(container)
        said = config(container)
        said["linux"]["namespaces"] = [{"type": kind} for kind in ALONE]
        (bundle / "config.json").write_text(json.dumps(said))
        late = threading.Timer(SHORT, self.delete, (container.name,))
        late.start()
        try:
            with subprocess.Popen(
                [self._runc, "--root", str(self.base / "state"), "run", "--bundle", str(bundle),
                 container.name],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            ) as process:  # fmt: skip
                assert process.stdout is not None
                printed = process.stdout.read(MOST_PRINTED)
                self.delete(container.name)
            return process.returncode, printed
        finally:
            late.cancel()
            shutil.rmtree(bundle, ignore_errors=True)

    def delete(self, name: str) -> None:
        """Kill the container, frozen or not, and forget it."""
        self._call("delete", "--force", name)

    def names(self) -> list[str]:
        """Return the names of the containers there are, those too that runc can say nothing of."""
        with suppress(FileNotFoundError):  # there was none yet
            return sorted(entry.name for entry in (self.base / "state").iterdir())
        return []

    def alive(self, name: str) -> bool:
        """Return whether the container has a first process."""
        done = self._call("state", name)
        return done.returncode == 0 and json.loads(done.stdout)["status"] in {
            "running",
            "paused",
            "created",
        }

    def _exists(self, name: str) -> bool:
        return (self.base / "state" / name).exists()

    def _bundle(self, container: Container) -> Path:
        bundle = self._bundles / container.name
        bundle.mkdir(parents=True, exist_ok=True)
        (bundle / CRIU_CONFIG_FILE).write_text(CRIU_CONFIG)
        container = replace(container, criu_config=bundle / CRIU_CONFIG_FILE)
        (bundle / "config.json").write_text(json.dumps(config(container)))
        return bundle

    def _call(self, *arguments: str, within: tuple[str, ...] = (), limit: float = SHORT) -> Outcome:
        with tempfile.NamedTemporaryFile(dir=self.base, prefix="log-") as log:
            runc = [*within, self._runc, "--root", str(self.base / "state"), "--log", log.name]
            with subprocess.Popen(
                [*runc, *arguments],
                stdin=subprocess.DEVNULL,
                # A detached container inherits what it is given here; a pipe would never close.
                stdout=subprocess.PIPE if arguments[0] == "state" else subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            ) as process:
                try:
                    stdout, _ = process.communicate(timeout=limit)
                except subprocess.TimeoutExpired:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    return Outcome(1, "", f"it did not end within {limit:.0f} s")
            return Outcome(process.returncode, stdout or "", log.read().decode(errors="replace"))

    def _criu_for(self, user: int) -> Path:
        if has_capability(CAP_SYS_RESOURCE):
            return self._criu
        wrapper = self.base / f"criu-as-{user}"
        if not wrapper.exists():
            part = wrapper.with_name(f"{wrapper.name}.{threading.get_ident()}")
            real = f"setpriv --ruid {user} --rgid {user} --keep-groups"
            part.write_text(f'#!/bin/sh\nexec {real} {self._criu} "$@"\n')
            part.chmod(0o755)
            part.replace(wrapper)
        return wrapper
