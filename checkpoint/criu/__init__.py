"""The `criu` engine's storage: a directory of CRIU images to chunks, and back.

A full dump goes in (`encode`), taken while CRIU makes it (`Capture`) so that what is `known` is not
copied, or from a directory; what comes out (`materialize`) is that directory again, or, beside
one that a node already has, an incremental directory with only the pages that differ
(`materialize_delta`). `materialize_lazily` leaves large stretches of memory out; a `Pager` gives
them to the processes while they run.
"""

from checkpoint.criu.capture import Capture
from checkpoint.criu.digests import Known
from checkpoint.criu.dump import Dump
from checkpoint.criu.encode import encode, known
from checkpoint.criu.identity import note_open_files
from checkpoint.criu.image import Image, load_image
from checkpoint.criu.lazy import Lazy, lazy_bytes, materialize_lazily
from checkpoint.criu.locks import keep_locks
from checkpoint.criu.materialize import Materialized, materialize, materialize_delta
from checkpoint.criu.pager import Pager
from checkpoint.criu.pages import large_stretches
from checkpoint.criu.precopy import Precopied, precopy
from checkpoint.criu.tasks import note_stopped, stopped_processes

__all__ = [
    "Capture",
    "Dump",
    "Image",
    "Known",
    "Lazy",
    "Materialized",
    "Pager",
    "Precopied",
    "encode",
    "keep_locks",
    "known",
    "large_stretches",
    "lazy_bytes",
    "load_image",
    "materialize",
    "materialize_delta",
    "materialize_lazily",
    "note_open_files",
    "note_stopped",
    "precopy",
    "stopped_processes",
]
