"""Files that the UI server changed, and how they looked to tabs before."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sessionkeeper.ui.files import WorkspaceFiles

__all__ = ["OwnFiles"]


@dataclass(frozen=True)
class _Own:
    """A file as we left it at `mtime`, and how it looked before."""

    mtime: float
    before: float
    hash: str
    writing: str = ""
    """SHA-256 of what is about to be written: whether it was is seen by the file."""


class OwnFiles:
    """Outlives the server, which may end between a write and its answer. `memory`: its file."""

    def __init__(self, memory: Path, files: WorkspaceFiles) -> None:
        self._memory = memory
        self._files = files
        self._own = _read(memory)

    async def looked(self, path: str, mtime: float) -> tuple[float, str] | None:
        """Time and SHA-256 that the file had, if it is as we left it."""
        own = self._own.get(path)
        if own is not None and own.writing and own.mtime != mtime:
            if _hash(await self._files.read(path)) != own.writing:
                return None
            own = replace(own, mtime=mtime, writing="")
            self._remember(path, own)
        return (own.before, own.hash) if own is not None and own.mtime == mtime else None

    async def write(self, path: str, mtime: float, raw: bytes, content: bytes) -> None:
        """Replace `raw`, which the file has had since `mtime`."""
        before, hash_ = await self.looked(path, mtime) or (mtime, _hash(raw))
        own = _Own(mtime, before, hash_)
        self._remember(path, replace(own, writing=_hash(content)))
        written = await self._files.write(path, content)
        self._remember(path, replace(own, mtime=written["mtime"]))

    def _remember(self, path: str, own: _Own) -> None:
        self._own[path] = own
        part = self._memory.with_suffix(".part")
        part.write_text(json.dumps({p: asdict(o) for p, o in self._own.items()}))
        part.replace(self._memory)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(file: Path) -> dict[str, _Own]:
    try:
        return {path: _Own(**own) for path, own in json.loads(file.read_text()).items()}
    except (OSError, ValueError, TypeError):
        return {}
