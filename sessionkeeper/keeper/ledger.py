"""The gateway's account of what its sessions cost: on its disk, and with each checkpoint.

Written down every few seconds and at every change of who is where, so what is not on the disk when
this process is killed is some seconds. What its machine takes along is what came after each
session's newest checkpoint: that has the session's rows, and who goes on from it takes them over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sessionkeeper.bill import (
    COLUMNS,
    KEPT_ROWS,
    SUMMED,
    Row,
    Stay,
    Wanted,
    charge,
    missing,
    price_of,
    row_of,
)
from sessionkeeper.keeper.nodes import Nodes

log = logging.getLogger(__name__)

EVERY = 5.0
"""Seconds between two times that it is written down."""

LONGEST_GAP = 600.0
"""Seconds that this process may have been away while sessions that are still where they were are
charged for that time."""

BILL = "bill"
"""In what a checkpoint says of its session."""

_NUMBERS = {*SUMMED, "assumed"}
_SCHEMA = ", ".join(f"{name} {'REAL' if name in _NUMBERS else 'TEXT'}" for name in COLUMNS)
_KEY = ("day", "session", "node")


_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class Ledger:
    """The account in ``file``, of what is on ``nodes``; ``owner_of`` says whose a session is."""

    def __init__(self, file: Path, nodes: Nodes, owner_of: Callable[[str], str]) -> None:
        self._nodes = nodes
        self._owner_of = owner_of
        self._pending: dict[tuple[str, str, str], Row] = {}
        self._at = time.monotonic()
        self._rows = _opened(file)
        self._before = {
            (session, node): at
            for session, node, at in self._rows.execute("SELECT session, node, at FROM stays")
        }
        nodes.pool.before_change = self.settle
        nodes.pool.recovered = self.recovered

    async def run(self) -> None:
        """Keep it until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            try:
                self.settle()
                self._write()
            except sqlite3.Error as error:  # a full disk: it is added up until there is room
                log.error("what sessions cost is not written down: %s", error)

    def settle(self) -> None:
        """Who is where is about to change: up to now it is as it was."""
        now = time.monotonic()
        seconds, self._at = now - self._at, now
        for node in self._nodes:
            self._nodes.pool.rates.watched(node.name, node.tier, seconds / 3600)
        stays = self._stays()
        self._add(charge(stays, seconds, _today()))
        if self._before:
            self._add(self._meanwhile(stays))

    def _meanwhile(self, stays: Iterable[Stay]) -> list[Row]:
        """This process was started again: what is where it was, was there all the time."""
        rows = []
        for stay in stays:
            for session in stay.sessions:
                at = self._before.pop((session, stay.node), None)
                away = time.time() - at if at is not None else 0.0
                if 0 < away < LONGEST_GAP:
                    charged = charge([stay], away, _today())
                    rows += [row for row in charged if row.session == session]
        return rows

    def recovered(self, session: str, node: str, lost: float, repeated: float) -> None:
        """The session is back, on ``node``, after so many seconds in which it stood still; so many
        seconds of work are done again.
        """
        owner = self._owner_of(session)
        row = Row(_today(), session, node, owner, recoveries=1, lost=lost, repeated=repeated)
        self._add([row])

    def of_session(self, session: str) -> dict[str, Any]:
        """Return what a checkpoint of the session says of what it has cost."""
        try:
            self.settle()
            rows = self.rows(Wanted(session=session))[-KEPT_ROWS:]
        except sqlite3.Error as error:
            log.error("what session %s costs is not in its checkpoint: %s", session, error)
            return {}
        return {BILL: {"session": session, "rows": [row.json() for row in rows]}}

    def take_over(self, session: str, meta: Mapping[str, Any]) -> None:
        """A checkpoint of the session says so much in its ``meta``: what is not known here is from
        now on. What a fork has from its origin is not its own.
        """
        said = meta.get(BILL)
        if not isinstance(said, dict) or said.get("session") != session:
            return
        try:
            rows = [row_of(one) for one in said.get("rows", ())]
        except (ValueError, TypeError, AttributeError) as error:
            log.warning("what session %s has cost is not known: %s", session, error)
            return
        for row in missing(self.rows(Wanted(session=session)), rows):
            self._put(row)

    def rows(self, wanted: Wanted = Wanted()) -> list[Row]:  # noqa: B008
        """Return what is known, by day, session and node."""
        self._write()
        ask = f"SELECT {', '.join(COLUMNS)} FROM bill ORDER BY {', '.join(_KEY)}"  # noqa: S608
        arguments: tuple[str, ...] = ()
        if wanted.session is not None:
            ask = ask.replace(" ORDER", " WHERE session = ? ORDER")
            arguments = (wanted.session,)
        found = (_read(values) for values in self._rows.execute(ask, arguments))
        return [row for row in found if wanted.has(row)]

    def close(self) -> None:
        """Write down all there is."""
        with contextlib.suppress(sqlite3.Error):
            self.settle()
            self._write()
            self._rows.execute("DELETE FROM stays")
        self._nodes.pool.keep()
        self._rows.close()

    def _stays(self) -> list[Stay]:
        return [
            Stay(
                node.name,
                node.tier,
                price_of(node.hello),
                {session: self._owner_of(session) for session in node.hosting},
            )
            for node in self._nodes
            if node.hosting
        ]

    def _add(self, rows: Iterable[Row]) -> None:
        for row in rows:
            known = self._pending.get(row.key)
            self._pending[row.key] = known.plus(row) if known is not None else row

    def _write(self) -> None:
        self._rows.execute("BEGIN")
        try:
            for row in self._pending.values():
                known = self._rows.execute(
                    f"SELECT {', '.join(COLUMNS)} FROM bill"  # noqa: S608
                    " WHERE day = ? AND session = ? AND node = ?",
                    row.key,
                ).fetchone()
                self._put(_read(known).plus(row) if known is not None else row)
            now = time.time()
            self._rows.execute("DELETE FROM stays")
            self._rows.executemany(
                "INSERT OR REPLACE INTO stays VALUES (?, ?, ?)",
                [(session, node.name, now) for node in self._nodes for session in node.hosting],
            )
            self._rows.execute("COMMIT")
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):
                self._rows.execute("ROLLBACK")
            raise
        self._pending.clear()

    def _put(self, row: Row) -> None:
        places = ", ".join("?" * len(COLUMNS))
        values = [getattr(row, name) for name in COLUMNS]
        self._rows.execute(f"INSERT OR REPLACE INTO bill VALUES ({places})", values)  # noqa: S608


def _opened(file: Path) -> sqlite3.Connection:
    """Open the account. One that is damaged is put aside: checkpoints have the rows of theirs."""
    try:
        return _connected(file)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode not in _DAMAGED:
            raise  # a full disk, say
        aside = file.with_suffix(".damaged")
        log.error("%s is damaged (%s); it is %s now, and begun anew", file, error, aside.name)
        for end in ("-wal", "-shm"):
            file.with_name(file.name + end).unlink(missing_ok=True)
        file.replace(aside)
        return _connected(file)


def _connected(file: Path) -> sqlite3.Connection:
    rows = sqlite3.connect(file, isolation_level=None)
    try:
        # What was written down survives this process; a machine that breaks, a second later.
        rows.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
            f"CREATE TABLE IF NOT EXISTS bill ({_SCHEMA}, PRIMARY KEY ({', '.join(_KEY)}));"
            "CREATE TABLE IF NOT EXISTS stays (session TEXT PRIMARY KEY, node TEXT, at REAL);"
        )
        rows.execute(f"SELECT {', '.join(COLUMNS)} FROM bill").fetchone()  # noqa: S608
    except BaseException:
        rows.close()
        raise
    return rows


def _read(values: tuple[Any, ...]) -> Row:
    said = dict(zip(COLUMNS, values, strict=True))
    said["recoveries"], said["assumed"] = int(said["recoveries"]), bool(said["assumed"])
    return Row(**said)


def _today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())
