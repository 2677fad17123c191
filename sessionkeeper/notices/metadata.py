"""Asking a cloud's metadata service, which answers on a link-local address over plain HTTP.

Never through a proxy, never along a redirect: what answers there speaks for this machine alone.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

import httpx

from sessionkeeper.agent.ledger import clock
from sessionkeeper.notices.notice import SourceFailed

__all__ = ["LINK_LOCAL", "Answer", "Metadata", "instant"]

LINK_LOCAL = "http://169.254.169.254"
"""Where AWS, Google and Azure have their metadata services."""

ANSWER_SECONDS = 5.0
LARGEST = 1 << 20
_DRIFT = 3.0
"""Seconds by which a service's clock may seem to jump before that is believed."""


@dataclass(frozen=True)
class Answer:
    """``status`` is below 500 and not 429; ``headers`` by lower-case name."""

    status: int
    headers: Mapping[str, str]
    text: str

    def json(self) -> dict[str, Any]:
        """Return the JSON object that it is. Raises :class:`SourceFailed` if it is none."""
        try:
            found = json.loads(self.text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise SourceFailed(f"the metadata service answered nonsense: {self.text[:60]!r}")
        return found


class Metadata:
    """One service at ``base``, an URL without a path."""

    def __init__(self, base: str) -> None:
        self.base = base.rstrip("/")
        # Plain HTTP: a TLS context that trusts nobody is made faster than one that reads all roots.
        self._client = httpx.AsyncClient(
            base_url=self.base,
            trust_env=False,
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        self._ahead: float | None = None

    async def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        body: str | None = None,
        wait: float = ANSWER_SECONDS,
    ) -> Answer:
        """Return the answer within ``wait`` seconds.

        Raises :class:`SourceFailed` if there is none, or one that asks to try again (429, 5xx).
        """
        try:
            async with (
                asyncio.timeout(wait),
                self._client.stream(
                    method,
                    path,
                    headers=dict(headers),
                    content=body,
                    timeout=httpx.Timeout(wait, connect=min(wait, ANSWER_SECONDS)),
                ) as got,
            ):
                text = (await _whole(got)).decode()
        except (httpx.HTTPError, OSError, TimeoutError, ValueError) as error:
            why = str(error) or type(error).__name__
            raise SourceFailed(f"{self.base} did not answer: {why}") from error
        if got.status_code == 429 or got.status_code >= 500:
            after = got.headers.get("Retry-After", "")
            raise SourceFailed(
                f"{self.base}{path} answered {got.status_code}",
                retry_after=float(after) if after.isdecimal() else None,
            )
        answer = Answer(got.status_code, {k.lower(): v for k, v in got.headers.items()}, text)
        self._heard(answer.headers.get("date", ""))
        return answer

    def deadline(self, when: float) -> float:
        """Return when it is ``when`` (Unix seconds) by the service's clock, on our :func:`clock`.

        This machine's own time of day may be wrong; the service's is what the notice is given in.
        Up to a second early, as the service says whole seconds.
        """
        return when + (self._ahead if self._ahead is not None else clock() - time())

    def _heard(self, date: str) -> None:
        try:
            now = parsedate_to_datetime(date).timestamp() + 1
        except (ValueError, TypeError):
            now = time()
        ahead = clock() - now
        if self._ahead is None or abs(ahead - self._ahead) > _DRIFT:
            self._ahead = ahead


async def _whole(got: httpx.Response) -> bytes:
    content = b""
    async for piece in got.aiter_bytes():
        content += piece
        if len(content) > LARGEST:
            raise SourceFailed(f"{got.url} answered more than {LARGEST} bytes")
    return content


def instant(text: object) -> float:
    """Return Unix seconds of an ISO 8601 or an RFC 1123 date, UTC if it says no zone.

    Raises :class:`SourceFailed` if it is neither.
    """
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            found = parse(str(text))
        except (ValueError, TypeError):
            continue
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    raise SourceFailed(f"the metadata service named a time that is none: {str(text)[:60]!r}")
