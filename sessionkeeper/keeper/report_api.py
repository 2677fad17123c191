"""``/api/sessionkeeper/report``: what sessions cost. JSON, with the operator's token.

``?from=2026-11-01&to=2026-11-30&session=NAME&owner=WHO``, each of them optional.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

from tornado.web import RequestHandler

from checkpoint.errors import CheckpointError
from sessionkeeper.bill import Wanted
from sessionkeeper.errors import UsageError
from sessionkeeper.keeper.api import OperatorHandler, Shared
from sessionkeeper.keeper.ledger import Ledger
from sessionkeeper.keeper.sessions import Sessions

log = logging.getLogger(__name__)

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


class ReportHandler(OperatorHandler):
    """The rows of the bill, see :class:`sessionkeeper.bill.Row`."""

    async def get(self) -> None:
        ledger = self.shared.ledger
        assert ledger is not None
        wanted = Wanted(
            self._day("from"),
            self._day("to"),
            self.get_query_argument("session", None),
            self.get_query_argument("owner", None),
        )
        await _from_the_store(ledger, self.shared.sessions)
        ledger.settle()
        self.finish({"rows": [row.json() for row in ledger.rows(wanted)]})

    def _day(self, name: str) -> str | None:
        said = self.get_query_argument(name, None)
        if said is not None and not _DAY.fullmatch(said):
            raise UsageError(f"{name} must be a day such as 2026-11-21, and is {said!r}")
        return said


async def _from_the_store(ledger: Ledger, sessions: Sessions) -> None:
    """Sessions that only the store has, as after a gateway was lost, have their bill there."""
    known = {row.session for row in ledger.rows()}
    for one in await sessions.listed():
        if one["state"] != "stored" or one["name"] in known:
            continue
        try:
            meta = await asyncio.to_thread(sessions.stored_meta, one["name"])
        except CheckpointError as error:
            log.warning("what session %s has cost is not known: %s", one["name"], error)
            continue
        ledger.take_over(one["name"], meta)


def report_routes(shared: Shared) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
    """Return what to add to the gateway's application."""
    return [(r"/api/sessionkeeper/report", ReportHandler, {"shared": shared})]
