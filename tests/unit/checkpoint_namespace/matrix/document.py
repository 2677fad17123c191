"""``docs/namespace-matrix.md`` from the table; run as a program it writes the file."""

from __future__ import annotations

import collections
from pathlib import Path

from . import LIBRARIES

PATH = Path(__file__).parents[4] / "docs" / "namespace-matrix.md"

_HEAD = """\
# What the namespace engine carries over

{total} kinds of objects: {exact} exact, {degraded} degraded, {lost} lost. Each is made in a kernel,
which is killed after the dump; a new process loads the dump and compares what came back with the
same object made anew there (`tests/unit/checkpoint_namespace/test_namespace_matrix.py`). The words
are those of [namespace-engine.md](namespace-engine.md): what is not exact is named in the report,
with the reason given here, and a lost variable has no value instead of a wrong one.

This file is made from that test's table, and the test fails when it is not current:
`python -m tests.unit.checkpoint_namespace.matrix.document`.
"""


def text() -> str:
    """The document, whole."""
    counts = collections.Counter(row.state for library in LIBRARIES for row in library.rows)
    parts = [_HEAD.format(total=counts.total(), **counts)]
    for library in LIBRARIES:
        parts.append(f"## {library.name}\n| object | becomes | report says |\n|---|---|---|\n")
        parts[-1] += "".join(
            f"| {row.what} | {row.state} | {f'… {row.why} …' if row.why else ''} |\n"
            for row in library.rows
        )
    return "\n".join(parts)


if __name__ == "__main__":
    PATH.write_text(text())
