"""What a server that everybody has one of does not keep in memory."""

from __future__ import annotations

import sys

__all__ = ["leave_out"]

_UNUSED = ("rfc3987_syntax", "isoduration", "httpx._main")
"""Optional parts: of jsonschema, which then checks no `iri` and no `duration` in what it validates
(JupyterLab's settings, events), a parser generator with its grammar and a library of dates; of
httpx, its command line. 23 MB."""


def leave_out() -> None:
    """Have them count as not installed. Before anything imports them."""
    for name in _UNUSED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
