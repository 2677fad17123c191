"""Notices of EC2, by the instance metadata service, version 2 (IMDSv2).

A session token comes from ``PUT /latest/api/token`` and is shown with each request; 401 says that
it is over. ``spot/instance-action`` does not exist (404) until the instance is to be interrupted,
two minutes ahead, best effort; with ``hibernate`` that begins at once.
``events/recommendations/rebalance`` says only that an interruption has become likely. AWS asks to
look every 5 s.

Sources: EC2 User Guide, "Use the Instance Metadata Service to access instance metadata", "Spot
Instance interruption notices", "EC2 instance rebalance recommendations".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from sessionkeeper.agent.ledger import clock
from sessionkeeper.notices.metadata import LINK_LOCAL, Answer, Metadata, instant
from sessionkeeper.notices.notice import Notice, SourceFailed

__all__ = ["Aws"]

TOKEN_SECONDS = 21600
"""The longest life of a token that AWS gives."""

EVERY = 5.0
_DATA = "/latest/meta-data/"
_WORDS = {
    "terminate": "AWS takes the spot instance back",
    "stop": "AWS stops the spot instance",
    "hibernate": "AWS hibernates the spot instance",
}


class Aws:
    """Looks every ``every`` seconds."""

    name = "aws"

    def __init__(self, base: str = LINK_LOCAL, *, every: float = EVERY) -> None:
        self._metadata = Metadata(base)
        self._every = every
        self._token = ""
        self._token_ends = 0.0

    async def watch(self) -> AsyncIterator[frozenset[Notice]]:
        said = None
        while True:
            now = await self._look()
            if now != said:
                said = now
                yield now
            await asyncio.sleep(self._every)

    async def drained(self) -> None:
        """AWS does not want to know."""

    async def _look(self) -> frozenset[Notice]:
        found = []
        action = await self._get("spot/instance-action")
        if action is not None:
            facts = action.json()
            kind = str(facts.get("action"))
            reason = _WORDS.get(kind, f"AWS interrupts the spot instance: {kind}")
            deadline = self._metadata.deadline(instant(facts.get("time")))
            found.append(Notice(self.name, reason, deadline))
        advice = await self._get("events/recommendations/rebalance")
        if advice is not None:
            instant(advice.json().get("noticeTime"))  # or it is no recommendation
            found.append(Notice(self.name, "AWS expects to take the spot instance back"))
        return frozenset(found)

    async def _get(self, path: str) -> Answer | None:
        for _ in range(2):
            await self._renew()
            headers = {"X-aws-ec2-metadata-token": self._token}
            answer = await self._metadata.ask("GET", _DATA + path, headers)
            if answer.status == 404:
                return None
            if answer.status == 200:
                return answer
            if answer.status != 401:
                break
            self._token = ""  # it ended before its time
        raise SourceFailed(
            f"the metadata service of AWS answered {answer.status} for {path}",
            hint="see that the instance's metadata options have HttpEndpoint enabled",
        )

    async def _renew(self) -> None:
        if self._token and clock() < self._token_ends:
            return
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
        asked = clock()
        answer = await self._metadata.ask("PUT", "/latest/api/token", headers, body="")
        token = answer.text.strip()
        if answer.status != 200 or not token.isascii() or not token.isprintable() or not token:
            raise SourceFailed(
                f"the metadata service of AWS gave no token (status {answer.status})",
                hint="in a container, HttpPutResponseHopLimit of the instance must be 2",
            )
        life = answer.headers.get("x-aws-ec2-metadata-token-ttl-seconds", "")
        seconds = int(life) if life.isdecimal() else TOKEN_SECONDS
        self._token, self._token_ends = token, asked + 0.9 * seconds
