"""The state directory of one `sessionkeeper up`: what it holds, who holds it.

lock            held (flock) while it runs
up.json         what runs: process id, URLs, nodes
control.sock    for `sessionkeeper node kill|start` and `sessionkeeper down`
tokens/         ui, gateway, agent, session-NAME: stay over restarts, so the URL does
master.key      opens the session keys of the store
store/          the blob store, unless another is given
gateway/ ui/    their state
nodes/<name>/   data of a node, gone with it
logs/<name>.log
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sessionkeeper.errors import AlreadyRunning, DiskFull, NotRunning, UsageError

__all__ = ["StateDirectory"]


class StateDirectory:
    """Paths and small files of a state directory; makes nothing before `prepare`."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        # Names what it makes outside of itself, so that several run side by side.
        self.id = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:6]
        self.control = self.path / "control.sock"
        self.master_key = self.path / "master.key"
        self.gateway = self.path / "gateway"
        self.ui = self.path / "ui"
        self.nodes = self.path / "nodes"
        self._record = self.path / "up.json"

    def prepare(self) -> None:
        """Make the directories and tokens, readable for nobody else. UsageError when that cannot
        be done."""
        try:
            for path in (self.path, self.gateway, self.ui, self.nodes, self.path / "tokens"):
                path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.chmod(0o700)
            for name in ("ui", "gateway", "agent"):
                self._make_token(self.token_file(name))
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise DiskFull(f"no space left for {self.path}") from None
            raise UsageError(
                f"the state directory {self.path} cannot be used: {error.strerror}",
                hint="choose another with --state DIR",
            ) from None

    @contextmanager
    def locked(self, *, wait: bool = False) -> Iterator[None]:
        """Hold the directory. When another process does, wait for its end, or AlreadyRunning."""
        handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise self._held() from None
            yield
        finally:
            os.close(handle)

    def is_locked(self) -> bool:
        """Whether an `up` holds the directory."""
        try:
            handle = os.open(self.path / "lock", os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def token_file(self, name: str) -> Path:
        """Where the token `ui`, `gateway` or `agent` is."""
        return self.path / "tokens" / name

    def session_token_file(self, session: str) -> Path:
        """Where the token of a session is that was begun here; it need not exist."""
        return self.token_file(f"session-{session}")

    def make_session_token(self, session: str) -> Path:
        """Where it is; it is made if there is none."""
        path = self.session_token_file(session)
        self._make_token(path)
        return path

    def keep_session_token(self, session: str, token: str) -> None:
        """Have this one from now on."""
        path = self.session_token_file(session)
        path.unlink(missing_ok=True)
        self._make_token(path, token)

    def token(self, name: str) -> str:
        """That token; NotRunning when nothing was ever started here."""
        try:
            return self.token_file(name).read_text().strip()
        except OSError:
            raise self.not_running() from None

    def log(self, name: str) -> Path:
        """Log of a part."""
        return self.path / "logs" / f"{name}.log"

    def write_record(self, record: dict[str, Any]) -> None:
        """Say what runs, in up.json."""
        temporary = self._record.with_suffix(".new")
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(record, indent=1) + "\n")
        temporary.replace(self._record)

    def read_record(self) -> dict[str, Any] | None:
        """What up.json says; None when there is none."""
        try:
            content = json.loads(self._record.read_text())
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def running(self) -> dict[str, Any]:
        """What up.json says of the `up` that runs now; NotRunning when none does."""
        record = self.read_record()
        if record is None or not self.is_locked():
            raise self.not_running()
        return record

    def forget_record(self) -> None:
        """Nothing runs any more."""
        for path in (self._record, self.control):
            path.unlink(missing_ok=True)

    def not_running(self) -> NotRunning:
        """The error to raise."""
        return NotRunning(f"no sessionkeeper runs on {self.path}")

    @contextmanager
    def control_address(self) -> Iterator[str]:
        """An address for the control socket that is short enough for a unix socket (107 bytes)
        wherever the directory is."""
        handle = os.open(self.path, os.O_PATH | os.O_DIRECTORY)
        try:
            yield f"/proc/self/fd/{handle}/{self.control.name}"
        finally:
            os.close(handle)

    def listen(self) -> socket.socket:
        """A listening control socket, for this user alone."""
        self.control.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            with self.control_address() as address:
                listener.bind(address)
        finally:
            os.umask(before)
        listener.listen()
        return listener

    def _held(self) -> AlreadyRunning:
        record = self.read_record() or {}
        url, pid = record.get("url"), record.get("pid")
        where = f": {url} (process {pid})" if url else f" on {self.path}, and is still starting"
        stop = f"sessionkeeper down --state {self.path}"
        return AlreadyRunning(
            f"sessionkeeper is already running{where}",
            hint=f"stop it with `{stop}`, or start another one beside it with"
            " `sessionkeeper up --state DIR --port PORT`",
        )

    def _make_token(self, path: Path, token: str | None = None) -> None:
        with suppress(FileExistsError):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write((token or secrets.token_hex(24)) + "\n")
