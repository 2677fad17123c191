"""Notices of Azure, by Scheduled Events of its Instance Metadata Service.

``GET /metadata/scheduledevents?api-version=2020-07-01`` with ``Metadata: true`` answers a document
with its number (``DocumentIncarnation``) and ``Events``. Each has ``EventId``, ``EventType``
(``Freeze``, ``Reboot``, ``Redeploy``, ``Preempt``, ``Terminate``), ``Resources`` (names of VMs:
those of others of an availability set are listed too), ``EventStatus`` (``Scheduled``, ``Started``)
and ``NotBefore``, an RFC 1123 date, empty once it has started. An event that is over, or cancelled,
is not listed any more. ``POST`` of ``{"StartRequests": [{"EventId": ...}]}`` says that it need not
wait. The first answer may take two minutes. Azure asks to look every second.

Source: Azure documentation, "Azure Metadata Service: Scheduled Events for Linux VMs".
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from sessionkeeper.agent.ledger import clock
from sessionkeeper.notices.metadata import ANSWER_SECONDS, LINK_LOCAL, Metadata, instant
from sessionkeeper.notices.notice import Notice, SourceFailed

__all__ = ["Azure"]

EVERY = 1.0
FIRST_SECONDS = 130.0
_PATH = "/metadata/scheduledevents?api-version=2020-07-01"
_NAME = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
_HEADERS = {"Metadata": "true"}
_WORDS = {
    "Preempt": "Azure takes the spot VM back",
    "Terminate": "Azure deletes the VM",
    "Reboot": "Azure reboots the VM",
    "Redeploy": "Azure moves the VM to another host",
    "Freeze": "Azure stops the VM for some seconds",
}


class Azure:
    """Looks every ``every`` seconds.

    A ``Freeze`` counts like the others: it may well be longer than a node's lease.
    """

    name = "azure"

    def __init__(self, base: str = LINK_LOCAL, *, every: float = EVERY) -> None:
        self._metadata = Metadata(base)
        self._every = every
        self._vm: str | None = None
        self._incarnation: object = None
        self._held: dict[str, Notice] = {}
        self._scheduled: set[str] = set()
        self._first = True

    async def watch(self) -> AsyncIterator[frozenset[Notice]]:
        said = None
        while True:
            now = await self._look()
            if now != said:
                said = now
                yield now
            await asyncio.sleep(self._every)

    async def drained(self) -> None:
        """Say that Azure may begin."""
        if not self._scheduled:
            return
        requests = [{"EventId": one} for one in sorted(self._scheduled)]
        headers = {**_HEADERS, "Content-Type": "application/json"}
        body = json.dumps({"StartRequests": requests})
        answer = await self._metadata.ask("POST", _PATH, headers, body=body)
        if answer.status != 200:
            raise SourceFailed(f"Azure did not take that this node is empty ({answer.status})")

    async def _look(self) -> frozenset[Notice]:
        wait = FIRST_SECONDS if self._first else ANSWER_SECONDS
        answer = await self._metadata.ask("GET", _PATH, _HEADERS, wait=wait)
        if answer.status != 200:
            raise SourceFailed(f"no scheduled events of Azure's: it answered {answer.status}")
        self._first = False
        document = answer.json()
        events, incarnation = document.get("Events"), document.get("DocumentIncarnation")
        if not isinstance(events, list) or not all(isinstance(one, Mapping) for one in events):
            raise SourceFailed("Azure answered a document without events")
        if incarnation is None or incarnation != self._incarnation:
            mine = [one for one in events if await self._concerns_us(one)]
            held = {str(one.get("EventId")): self._notice(one) for one in mine}
            # What follows must not be lost if one of them could not be read.
            self._held, self._incarnation = held, incarnation
            self._scheduled = {str(one.get("EventId")) for one in mine if _may_begin(one)}
        return frozenset(self._held.values())

    def _notice(self, event: Mapping[str, Any]) -> Notice:
        kind, when = str(event.get("EventType")), event.get("NotBefore")
        reason = _WORDS.get(kind, f"Azure has scheduled for the VM: {kind}")
        held = self._held.get(str(event.get("EventId")))
        if when:
            return Notice(self.name, reason, self._metadata.deadline(instant(when)))
        return held or Notice(self.name, reason, clock())

    async def _concerns_us(self, event: Mapping[str, Any]) -> bool:
        resources = event.get("Resources")
        if not isinstance(resources, list) or not resources:
            return True  # better once too often
        if self._vm is None:
            answer = await self._metadata.ask("GET", _NAME, _HEADERS)
            if answer.status != 200 or not answer.text.strip():
                raise SourceFailed(f"Azure did not say which VM this is ({answer.status})")
            self._vm = answer.text.strip()
        return any(str(one).lower() == self._vm.lower() for one in resources)


def _may_begin(event: Mapping[str, Any]) -> bool:
    # An event of several VMs begins for all of them: the others may not be empty yet.
    alone = len(event.get("Resources") or []) == 1
    return alone and event.get("EventStatus") == "Scheduled"
