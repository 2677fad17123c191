"""Notices of Compute Engine, by its metadata server.

``instance/preempted`` is ``FALSE``, and ``TRUE`` from the moment that a spot VM is to be stopped,
30 s ahead. ``instance/maintenance-event`` is ``NONE``, ``MIGRATE_ON_HOST_MAINTENANCE`` (the VM
stands still for a moment) or ``TERMINATE_ON_HOST_MAINTENANCE``, 60 s ahead if somebody asks for it.
``wait_for_change=true`` answers when the value is another one than that of ``last_etag``, or after
``timeout_sec``. Both the request and the answer must say ``Metadata-Flavor: Google``.

Sources: Compute Engine documentation, "Spot VMs", "View and query VM metadata", "Query metadata
server for maintenance event notices".
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlencode

from sessionkeeper.agent.ledger import clock
from sessionkeeper.notices.metadata import ANSWER_SECONDS, LINK_LOCAL, Answer, Metadata
from sessionkeeper.notices.notice import Notice, SourceFailed

__all__ = ["Google"]

PREEMPTED_SECONDS = 30.0
MAINTENANCE_SECONDS = 60.0
HANG = 60.0
"""Seconds after which the server answers that nothing has changed."""

LEAST = 0.5
"""Seconds between two requests, should the server not wait."""

_FLAVOR = {"Metadata-Flavor": "Google"}
_PREEMPTED, _MAINTENANCE = "preempted", "maintenance-event"
_WORDS: dict[tuple[str, str], tuple[str, float | None]] = {
    (_PREEMPTED, "TRUE"): ("Google takes the spot VM back", PREEMPTED_SECONDS),
    (_MAINTENANCE, "MIGRATE_ON_HOST_MAINTENANCE"): ("Google moves the VM to another host", None),
    (_MAINTENANCE, "TERMINATE_ON_HOST_MAINTENANCE"): (
        "Google stops the VM for maintenance",
        MAINTENANCE_SECONDS,
    ),
}
_NOTHING = {(_PREEMPTED, "FALSE"), (_MAINTENANCE, "NONE")}


class Google:
    """Has a request open for each of the two, of ``hang`` seconds."""

    name = "google"

    def __init__(self, base: str = LINK_LOCAL, *, hang: float = HANG, least: float = LEAST) -> None:
        self._metadata = Metadata(base)
        self._hang = hang
        self._least = least
        self._held: dict[str, Notice] = {}

    async def watch(self) -> AsyncIterator[frozenset[Notice]]:
        news: asyncio.Queue[tuple[str, str] | SourceFailed] = asyncio.Queue()
        keys = (_PREEMPTED, _MAINTENANCE)
        tasks = [asyncio.create_task(self._follow(key, news)) for key in keys]
        try:
            known: dict[str, str] = {}
            said = None
            while True:
                one = await news.get()
                if isinstance(one, SourceFailed):
                    raise one
                known[one[0]] = one[1]
                now = frozenset(self._notices(known))
                # A notice does not wait for the other key's first answer; that there is none does.
                if now != said and (now or len(known) == len(keys)):
                    said = now
                    yield now
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def drained(self) -> None:
        """Google does not want to know."""

    def _notices(self, known: dict[str, str]) -> list[Notice]:
        for key, value in known.items():
            found = _WORDS.get((key, value))
            held = self._held.get(key)
            if found is None:
                self._held.pop(key, None)
            elif held is None or held.reason != found[0]:
                deadline = None if found[1] is None else clock() + found[1]
                self._held[key] = Notice(self.name, found[0], deadline)
        return list(self._held.values())

    async def _follow(self, key: str, news: asyncio.Queue[tuple[str, str] | SourceFailed]) -> None:
        etag = ""
        try:
            while True:
                asked = clock()
                answer = await self._get(key, etag)
                value, again = answer.text.strip(), answer.headers.get("etag", "")
                if (key, value) not in _NOTHING and (key, value) not in _WORDS:
                    raise SourceFailed(f"Google's {key} is {value[:60]!r}, which is unknown")
                await news.put((key, value))
                if not again or again == etag:
                    await asyncio.sleep(max(0.0, self._least - (clock() - asked)))
                etag = again
        except SourceFailed as error:
            await news.put(error)

    async def _get(self, key: str, etag: str) -> Answer:
        path = f"/computeMetadata/v1/instance/{key}"
        wait = ANSWER_SECONDS
        if etag:
            hang = max(1, round(self._hang))
            query = {"wait_for_change": "true", "last_etag": etag, "timeout_sec": hang}
            path, wait = f"{path}?{urlencode(query)}", hang + ANSWER_SECONDS
        with contextlib.suppress(KeyError):
            answer = await self._metadata.ask("GET", path, _FLAVOR, wait=wait)
            if answer.status == 200 and answer.headers["metadata-flavor"] == "Google":
                return answer
        raise SourceFailed(f"no metadata server of Google's: {key} was answered {answer.status}")
