"""The table of object kinds that the namespace engine is held to, and what must become of each.

``docs/namespace-matrix.md`` is this table; write it anew with
``python -m tests.unit.checkpoint_namespace.matrix.document``.
"""

from __future__ import annotations

from .notebook import NOTEBOOK, RERUN
from .row import Library, Row
from .science import (
    MATPLOTLIB,
    NETWORKX,
    NUMPY,
    PANDAS,
    PILLOW,
    POLARS,
    PYARROW,
    SCIPY,
    SKLEARN,
    STATSMODELS,
)
from .standard import STANDARD

LIBRARIES: list[Library] = [
    NUMPY,
    PANDAS,
    SCIPY,
    SKLEARN,
    MATPLOTLIB,
    STATSMODELS,
    NETWORKX,
    POLARS,
    PYARROW,
    PILLOW,
    STANDARD,
    NOTEBOOK,
    RERUN,
]

__all__ = ["LIBRARIES", "Library", "Row"]
