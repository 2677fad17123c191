"""Asking a cloud's metadata service, which answers on a link-local address over plain HTTP.

Never through a proxy, never along a redirect: what answers there speaks for this machine alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

from tornado.httpclient import HTTPError, HTTPRequest
from tornado.simple_httpclient import SimpleAsyncHTTPClient

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
        request = HTTPRequest(
            self.base + path,
            method=method,
            headers=dict(headers),
            body=body,
            allow_nonstandard_methods=True,
            connect_timeout=min(wait, ANSWER_SECONDS),
            request_timeout=wait,
            follow_redirects=False,
        )
        client = SimpleAsyncHTTPClient(force_instance=True, max_body_size=LARGEST)
        try:
            got = await client.fetch(request, raise_error=False)
            if got.code == 599:  # tornado's own: there was no answer
                raise SourceFailed(f"{self.base} did not answer: {got.error}")
            text = got.body.decode()
        except (HTTPError, OSError, ValueError) as error:
            raise SourceFailed(f"{self.base} did not answer: {error or repr(error)}") from error
        finally:
            client.close()
        if got.code == 429 or got.code >= 500:
            after = got.headers.get("Retry-After", "")
            raise SourceFailed(
                f"{self.base}{path} answered {got.code}",
                retry_after=float(after) if after.isdecimal() else None,
            )
        answer = Answer(got.code, {k.lower(): v for k, v in got.headers.get_all()}, text)
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
