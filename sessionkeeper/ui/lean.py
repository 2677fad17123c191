"""What a server that everybody has one of does not keep in memory."""

from __future__ import annotations

import sys
from types import ModuleType

__all__ = ["leave_out"]

_UNUSED = ("rfc3987_syntax", "isoduration")
"""Optional parts of jsonschema, which then checks no `iri` and no `duration` in what it validates
(JupyterLab's settings, events): a parser generator with its grammar, a library of dates. 20 MB."""

_EMPTY: dict[str, tuple[str, ...]] = {
    "requests": (),
    "jupyterlab.extensions.pypi": ("PyPIExtensionManager",),
}
"""What JupyterLab imports in any case, with the names that it wants of it, and uses for nothing
that is on here: lists of extensions to block, and installing extensions. 7 MB."""


def leave_out() -> None:
    """Have them count as not installed, or as empty. Before anything imports them."""
    for name in _UNUSED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    for name, wanted in _EMPTY.items():
        module = ModuleType(name, "Left out: see sessionkeeper.ui.lean.")
        module.__dict__.update(dict.fromkeys(wanted))
        sys.modules.setdefault(name, module)
