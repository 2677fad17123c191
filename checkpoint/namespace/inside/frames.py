"""polars frames by column, numbers out of band: a new column costs a column, not the frame.

polars' own pickling writes a frame as one stream, which is another one after any change. Text,
nested and categorical columns are left to it, one column at a time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from . import rebuild

WORTH_IT = 8192  # values; smaller columns are as well off in the stream


def reducer_for(kind: type) -> Callable[[Any, Any], Any] | None:
    """The rule for objects of type ``kind``, or None."""
    polars = sys.modules.get("polars")
    if polars is None:
        return None
    if kind is getattr(polars, "DataFrame", None):
        return _frame
    return _series if kind is getattr(polars, "Series", None) else None


def _frame(_pickler: Any, frame: Any) -> Any:
    if frame.width == 0 or frame.height < WORTH_IT:
        return NotImplemented
    return rebuild.polars_frame, (frame.get_columns(),)


def _series(_pickler: Any, series: Any) -> Any:
    dtype = series.dtype
    plain = dtype.is_integer() or dtype.is_float() or dtype.is_temporal()
    if not plain or len(series) < WORTH_IT or series.null_count() or series.n_chunks() != 1:
        return NotImplemented
    try:
        # The memory itself, not a copy: its address tells in the next dump what did not change.
        numbers = series.to_physical().to_numpy(allow_copy=False)
    except Exception:
        return NotImplemented
    return rebuild.polars_series, (series.name, dtype, numbers)
