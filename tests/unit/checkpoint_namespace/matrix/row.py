"""One row of the matrix, and one library's rows."""

from __future__ import annotations

import re
from dataclasses import dataclass

from checkpoint.namespace.engine import State


@dataclass(frozen=True)
class Row:
    """One kind of object.

    ``code`` makes it: an expression, or statements that end with ``it`` bound. ``same`` is an
    expression over ``it``, what came back, and ``new``, made again by the same code in the new
    process. ``why`` is part of the reason that the report must give.
    """

    what: str
    code: str
    same: str = "it == new"
    state: State = "exact"
    why: str = ""

    @property
    def statements(self) -> str:
        return self.code if "\n" in self.code else f"it = {self.code}"


@dataclass(frozen=True)
class Library:
    """Rows of one library; ``setup`` is what its cell begins with."""

    name: str
    setup: str
    rows: list[Row]

    def variable(self, row: Row) -> str:
        """The name of ``row``'s variable in the notebook."""
        words = f"{self.name} {row.what}".replace("+", " plus")
        return re.sub(r"\W+", "_", words).strip("_")

    def cell(self) -> str:
        """Code that makes all rows, each in its variable."""
        made = [f"{row.statements}\n{self.variable(row)} = it\ndel it" for row in self.rows]
        return "\n".join([self.setup, *made])


def lost(what: str, code: str, why: str) -> Row:
    return Row(what, code, "True", "lost", why)


def degraded(what: str, code: str, same: str, why: str) -> Row:
    return Row(what, code, same, "degraded", why)
