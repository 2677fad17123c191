"""Find a CRIU that works on this machine, or say in one sentence why there is none.

`find` looks, in this order, at what `SESSIONKEEPER_CRIU` names, the bundle that
`sessionkeeper setup criu` builds, and PATH. `require` also runs `criu check` and raises the reason
why it cannot be used.

Versions: 3.17 fails on the vDSO of current kernels, 4.1 on their TCP sockets (`SO_PASSCRED`); 4.2
works. So an older one is refused rather than tried.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sessionkeeper.errors import CriuMissing, CriuTooOld, CriuUnusable

__all__ = [
    "MINIMUM",
    "Criu",
    "bundle_directory",
    "check",
    "find",
    "has_feature",
    "require",
    "restores_lazily",
]

MINIMUM = (4, 2)

_SECONDS = 30.0


@dataclass(frozen=True)
class Criu:
    """A `criu` program. `version` is empty when it did not even say that; `trouble` is why."""

    path: Path
    version: tuple[int, ...]
    trouble: str = ""

    @property
    def recent(self) -> bool:
        """Whether it is at least `MINIMUM`."""
        return self.version >= MINIMUM

    def __str__(self) -> str:
        return f"CRIU {version_text(self.version)} ({self.path})"


def version_text(version: tuple[int, ...]) -> str:
    """`(4, 2, 1)` as `4.2.1`; an empty version as `of unknown version`."""
    return ".".join(map(str, version)) or "of unknown version"


def parse_version(output: str) -> tuple[int, ...]:
    """The version in the output of `criu --version`; empty when there is none."""
    found = re.search(r"^Version:\s*v?(\d+(?:\.\d+)*)", output, re.MULTILINE)
    return tuple(map(int, found[1].split("."))) if found else ()


def bundle_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Where `sessionkeeper setup criu` puts its bundle: `SESSIONKEEPER_CRIU_DIR`, or a default."""
    return Path(environ.get("SESSIONKEEPER_CRIU_DIR") or "/var/lib/sessionkeeper/criu").absolute()


def candidates(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Where a `criu` may be, best first. One that the user named is the only one."""
    if named := environ.get("SESSIONKEEPER_CRIU"):
        return [Path(named).absolute()]
    search = environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin"
    on_path = shutil.which("criu", path=search)
    return [bundle_directory(environ) / "criu", *([Path(on_path)] if on_path else [])]


def examine(path: Path) -> Criu | None:
    """The program at `path` with its version; None when there is no such file, or none that this
    user may see: root's bundle is in a directory of root's own.
    """
    if not os.path.isfile(path):  # Path.is_file raises where one may not look
        return None
    try:
        said = _run(path, "--version")
    except OSError as error:
        return Criu(path, (), f"it does not start: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Criu(path, (), f"no answer within {_SECONDS:.0f} seconds")
    version = parse_version(said.stdout)
    return Criu(path, version, "" if version else _last_line(said))


def choose(found: Iterable[Criu]) -> Criu | None:
    """The first that is recent; else the newest, so that there is something to complain about."""
    ordered = list(found)
    for criu in ordered:
        if criu.recent:
            return criu
    return max(ordered, key=lambda criu: criu.version, default=None)


def find(environ: Mapping[str, str] = os.environ) -> Criu | None:
    """The CRIU to use, which may be too old; None when there is none. Runs `criu --version`."""
    return choose(criu for path in candidates(environ) if (criu := examine(path)) is not None)


def check(criu: Criu) -> None:
    """Raise `CriuTooOld` or `CriuUnusable` unless this one works here; runs `criu check`."""
    if not criu.version:
        raise CriuUnusable(f"{criu.path} cannot be run: {criu.trouble}")
    if not criu.recent:
        raise CriuTooOld(
            f"{criu} is too old: it fails on current kernels, {version_text(MINIMUM)} is needed"
        )
    if os.geteuid() != 0:
        raise CriuUnusable(
            f"{criu} is there, but only root can use it",
            hint="run as root, or use `--runtime process`",
        )
    try:
        said = _run(criu.path, "check")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CriuUnusable(f"`{criu.path} check` failed: {error}") from error
    if said.returncode != 0:
        raise CriuUnusable(f"{criu} does not work here: {_last_line(said)}")


def require(environ: Mapping[str, str] = os.environ) -> Criu:
    """A CRIU that works here. Raises `CriuMissing`, `CriuTooOld` or `CriuUnusable`."""
    criu = find(environ)
    if criu is None:
        if named := environ.get("SESSIONKEEPER_CRIU"):
            raise CriuMissing(
                f"SESSIONKEEPER_CRIU names {named}, which is not there",
                hint="unset it, or run `sessionkeeper setup criu` as root",
            )
        raise CriuMissing("CRIU was not found")
    check(criu)
    return criu


def has_feature(path: Path, feature: str) -> bool:
    """Whether this kernel gives the CRIU at `path` a feature, such as `mem_dirty_track`."""
    try:
        return _run(path, "check", "--feature", feature).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def restores_lazily(path: Path) -> bool:
    """Whether this kernel, with the CRIU at `path`, lets processes run before their memory is
    there (userfaultfd, with word of what they do to their mappings).
    """
    return all(has_feature(path, feature) for feature in ("uffd", "uffd-noncoop"))


def _run(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(path), *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def _last_line(said: subprocess.CompletedProcess[str]) -> str:
    """The line that says why: the last one CRIU marks as an error, else the last one."""
    lines = [line.strip() for line in (said.stdout + said.stderr).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error")]
    return (errors or lines or [f"exit status {said.returncode}, without a word"])[-1]
