"""Reads what one kernel says, for its notebook: `runs` is what the journal tells.

There is no reading along while tabs are open, which would double the work: the journal is read
from where we were when somebody wants to know (`catch_up`), and live while no tab is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from sessionkeeper.ui import frames
from sessionkeeper.ui.positions import Position, Positions
from sessionkeeper.ui.runs import Runs
from sessionkeeper.ui.upstream import NO_KERNEL, RETRY_SECONDS, open_channels, watch

__all__ = ["Follower"]

log = logging.getLogger(__name__)

_WHO = "notebook outputs"  # in the place of a tab's session id


class Follower:
    """See the module. `changed(self)` is called when a run has ended while it stays connected.

    Where it was when all was in files is kept in `positions`.
    """

    def __init__(
        self, kernel_id: str, positions: Positions, changed: Callable[[Follower], None]
    ) -> None:
        self.kernel_id = kernel_id
        self.gone = False
        self.runs = Runs()
        self._positions = positions
        self._changed = changed
        self._known = positions.get(kernel_id, _WHO)
        if self._known is not None:
            self.runs.cursor = self._known.cursor
        self._journal = self._known.journal if self._known else ""
        self._stays = False
        self._live = False
        self._waiting: set[asyncio.Future[None]] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def position(self) -> Position:
        """What it has read."""
        return Position(self._journal, self.runs.cursor)

    async def catch_up(self, seconds: float) -> bool:
        """Read what the journal has by now; whether that was done in time."""
        if self._live:
            return True
        if self.gone:
            return False
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        self._start()
        try:
            await asyncio.wait_for(future, seconds)
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(future)
        return not self.gone

    def stay(self, stays: bool) -> None:
        """Whether to read on, all the time."""
        self._stays = stays
        if stays and not self.gone:
            self._start()

    def note(self) -> None:
        """Write down how far all is in files."""
        mark = Position(self._journal, self.runs.mark)
        if self._journal and mark != self._known:
            self._known = mark
            self._positions.put(self.kernel_id, _WHO, mark)

    async def close(self) -> None:
        self._stays = False
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name=f"outputs of {self.kernel_id}")

    @property
    def _wanted(self) -> bool:
        return bool(self._stays or self._waiting) and not self.gone

    async def _run(self) -> None:
        failures = 0
        while self._wanted:
            try:
                query = {"session_id": _WHO, "observe": "1"}
                async with open_channels(self.kernel_id, self.position, **query) as upstream:
                    failures = 0
                    await self._read(upstream)
            except InvalidStatus as error:
                self.gone = error.response.status_code == 404
            except ConnectionClosed as error:
                self.gone = error.rcvd is not None and error.rcvd.code == NO_KERNEL
            except (OSError, ValueError, WebSocketException) as error:
                log.debug("kernel %s: %s", self.kernel_id, error)
            finally:
                self._live = False
            if self._wanted:
                await asyncio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
                failures += 1
        if self.gone:
            self._wake()
            self._changed(self)

    async def _read(self, upstream: ClientConnection) -> None:
        tasks = [
            asyncio.create_task(self._receive(upstream)),
            asyncio.create_task(watch(upstream)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(self, upstream: ClientConnection) -> None:
        async for frame in upstream:
            for kind, number, payload in frames.each(frame):
                if kind == frames.MESSAGE:
                    if self.runs.take(number, bytes(payload)) and self._live:
                        self._changed(self)
                elif kind == frames.NOTICE:
                    self._notice(json.loads(bytes(payload)))
            if self._live and not self._stays:
                return

    def _notice(self, notice: dict[str, Any]) -> None:
        if notice.get("event") == "welcome":
            self._welcome(notice["journal"], notice["newest"], bool(notice["reset"]))
        elif notice.get("event") == "current":
            self._current(notice["cursor"])

    def _welcome(self, journal: str, newest: int, reset: bool) -> None:
        if reset or journal != self._journal:
            self.runs = Runs()
            self._journal = journal
        if self._known is None:
            self.runs.tentative_until = newest
            self._known = Position("", 0)

    def _current(self, cursor: int) -> None:
        self.runs.cursor = max(self.runs.cursor, cursor)
        self._live = True
        self._wake()
        self.note()
        self._changed(self)

    def _wake(self) -> None:
        for future in self._waiting:
            with contextlib.suppress(asyncio.InvalidStateError):
                future.set_result(None)
