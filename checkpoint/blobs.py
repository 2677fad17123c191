"""Blob stores: named byte objects, written once and whole.

`BlobStore` is the seam; every implementation passes `tests/contract/test_blob_store.py`.
Keys are `/`-separated segments of `A-Z a-z 0-9 . _ -`, none of them starting with a dot.

    LocalDirectory, Memory              keep objects; so does `checkpoint.stores.s3.S3` (boto3)
    Prefixed                            a part of another store
    Retrying                            tries again what may pass; goes on where a transfer broke
    Remembering                         asks once for packs' small parts, for a while
    BandwidthLimited, ConcurrencyLimited, Metered, Pausable

The last six are put around any store. `Retrying` belongs next to the store, limits around that.
"""

from __future__ import annotations

from checkpoint.stores.directory import LocalDirectory
from checkpoint.stores.limits import BandwidthLimited, ConcurrencyLimited
from checkpoint.stores.memory import Memory
from checkpoint.stores.metered import Figures, Metered
from checkpoint.stores.opening import check_answers, open_store, probe
from checkpoint.stores.pausable import Pausable
from checkpoint.stores.prefixed import Prefixed
from checkpoint.stores.protocol import BlobStore, Buffer, check_key
from checkpoint.stores.remembering import Remembering
from checkpoint.stores.retrying import Backoff, Retrying

__all__ = [
    "Backoff",
    "BandwidthLimited",
    "BlobStore",
    "Buffer",
    "ConcurrencyLimited",
    "Figures",
    "LocalDirectory",
    "Memory",
    "Metered",
    "Pausable",
    "Prefixed",
    "Remembering",
    "Retrying",
    "check_answers",
    "check_key",
    "open_store",
    "probe",
]
