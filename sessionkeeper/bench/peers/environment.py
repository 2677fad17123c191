"""The peers' Python environment: made once with pip, in the user's cache directory."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PEERS", "Environment", "environment"]

PEERS = {"kishu": "0.3.4", "dill": "0.4.1"}
_BESIDE = ("numpy", "pandas", "ipykernel")
_SECONDS = 600.0


@dataclass(frozen=True)
class Environment:
    """`python` has the peers; where it is None, `why` says what kept pip from installing them."""

    python: Path | None
    why: str = ""


def environment(cache: Path | None = None) -> Environment:
    """The environment, made if it is not there. Blocks for a minute the first time."""
    wanted = [f"{name}=={version}" for name, version in PEERS.items()]
    wanted += _BESIDE
    mark = hashlib.sha256(" ".join([sys.version, *wanted]).encode()).hexdigest()[:12]
    directory = (cache or _cache()) / f"bench-peers-{mark}"
    python, done = directory / "bin/python", directory / "complete"
    if done.exists():
        return Environment(python)
    shutil.rmtree(directory, ignore_errors=True)
    install = [str(python), "-m", "pip", "install", "--quiet", *wanted]
    try:
        for command in ([sys.executable, "-m", "venv", str(directory)], install):
            ran = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
            if ran.returncode:
                lines = (ran.stderr or ran.stdout).strip().splitlines()
                return Environment(None, lines[-1] if lines else "pip failed")
        done.touch()
    except (OSError, subprocess.TimeoutExpired) as error:
        return Environment(None, str(error))
    return Environment(python)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "sessionkeeper")
