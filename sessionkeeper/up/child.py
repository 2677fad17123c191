"""One child process of the supervisor: its log, its word that it is ready, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from sessionkeeper.errors import SessionkeeperError

__all__ = ["Child", "ChildFailed", "tail"]

_LARGEST_LOG = 16 * 2**20
_TELLING = (*range(3, 13), 69)  # see sessionkeeper.errors


class ChildFailed(SessionkeeperError):
    """A part did not become ready. The text ends with the last lines of its log; `status` is its
    exit status, which is ours too where it says more than "failed"."""

    code = "child_failed"

    def __init__(self, name: str, what: str, log: Path, status: int | None = None) -> None:
        last = tail(log)
        said = "\n".join(f"  {line}" for line in last) or "  (it said nothing)"
        super().__init__(f"{name} {what}; the end of its log:\n{said}", hint=f"its log: {log}")
        if status is not None and status in _TELLING:
            self.exit_code = status


def tail(log: Path, lines: int = 15) -> list[str]:
    """The last lines of a log; none when there is no such file."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16384))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []


class Child:
    """A process in a session of its own, so that Ctrl-C in the terminal does not reach it."""

    def __init__(
        self,
        name: str,
        process: asyncio.subprocess.Process,
        ready: asyncio.StreamReader,
        transport: asyncio.ReadTransport,
        log: Path,
    ) -> None:
        self.name = name
        self.log = log
        self._process = process
        self._ready = ready
        self._transport = transport
        self._failed = False

    @classmethod
    async def start(
        cls,
        name: str,
        argv: Sequence[str],
        *,
        log: Path,
        environ: Mapping[str, str],
        waits_for_go: bool = False,
    ) -> Child:
        """Start `argv` with `{ready_fd}` replaced by the descriptor to say "ready" on. Output goes
        to `log`. With `waits_for_go`, standard input stays open until `go`."""
        _rotate(log)
        readable, writable = os.pipe()
        try:
            with log.open("ab") as output:
                process = await asyncio.create_subprocess_exec(
                    *(one.replace("{ready_fd}", str(writable)) for one in argv),
                    stdin=subprocess.PIPE if waits_for_go else subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environ,
                    pass_fds=(writable,),
                    start_new_session=True,
                )
        except OSError as error:
            os.close(readable)
            raise ChildFailed(name, f"could not be started: {error}", log) from None
        finally:
            os.close(writable)
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(readable, "rb")
        )
        return cls(name, process, reader, transport, log)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    def go(self) -> None:
        """Let a child that waits go on."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(b"go\n")

    async def said(self, word: str, seconds: float) -> None:
        """Return when it said `word` (once more). ChildFailed when it ends or says "failed" before,
        or when it does not in `seconds`."""
        hearing = asyncio.create_task(self._hear(word))
        ending = asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait(
                (hearing, ending), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if hearing.done() and hearing.result():
                return
            if self.returncode is None and not hearing.done():
                raise ChildFailed(self.name, f"was not {word} in {seconds:.0f} s", self.log)
            if self.returncode is None and self._failed:
                raise ChildFailed(self.name, "failed to start", self.log)
            # Descriptors close before the process is dead, or a grandchild may hold them open.
            await ending
            raise ChildFailed(self.name, f"ended ({self.reason()})", self.log, self.returncode)
        finally:
            hearing.cancel()
            ending.cancel()

    async def _hear(self, word: str) -> bool:
        while line := await self._ready.readline():
            if line.strip() == word.encode():
                return True
            if line.strip() == b"failed":
                self._failed = True
                return False
        return False

    async def ended(self) -> None:
        """Return when it is dead and collected."""
        await self._process.wait()
        self._transport.close()

    def signal(self, number: int) -> None:
        """Send it a signal, if it still lives."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def stop(self, grace: float, hurry: asyncio.Event) -> None:
        """SIGTERM, and SIGKILL when it lives on after `grace` seconds or once `hurry` is set."""
        self.signal(signal.SIGTERM)
        ended = asyncio.create_task(self.ended())
        hurried = asyncio.create_task(hurry.wait())
        await asyncio.wait((ended, hurried), timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if self.returncode is None:
            self.signal(signal.SIGKILL)
        await ended

    def reason(self) -> str:
        """Why it ended, in words."""
        code = self.returncode or 0
        return f"exit status {code}" if code >= 0 else signal.Signals(-code).name


def _rotate(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if log.exists() and log.stat().st_size > _LARGEST_LOG:
        log.replace(log.with_suffix(".log.1"))
