"""A store by its URL, and whether it will do."""

from __future__ import annotations

import queue
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from checkpoint.errors import (
    AlreadyExists,
    ConditionNotHonoured,
    StoreUnavailable,
    UnsupportedStore,
)
from checkpoint.stores.directory import LocalDirectory
from checkpoint.stores.prefixed import Prefixed
from checkpoint.stores.protocol import BlobStore, check_key
from checkpoint.stores.retrying import DEFAULT_BACKOFF, Backoff, Retrying

STYLES = ("path", "virtual")

ANSWER_SECONDS = 60.0
"""More than all tries of one call take where nothing answers at all."""


@dataclass(frozen=True)
class S3Place:
    """What `s3://bucket/prefix?endpoint=…&region=…&style=path|virtual` says. `prefix` is empty or
    ends with `/`; what the URL leaves open is None."""

    bucket: str
    prefix: str
    endpoint: str | None = None
    region: str | None = None
    style: str | None = None


def open_store(url: str, backoff: Backoff = DEFAULT_BACKOFF, *, begun: bool = False) -> BlobStore:
    """The store that a path or URL names: a directory (`/path`, `file:///path`), or a bucket
    (`s3://bucket/prefix?…`, see `S3Place`), where what may pass is tried again. A directory that
    was `begun` before must be there, any other is made.

    Raises `UnsupportedStore`, `StoreNotWritable`, `StoreUnavailable`.
    """
    directory = local_path(url)
    if directory is not None:
        return LocalDirectory(directory, begun=begun)
    parts = urlsplit(url)
    if parts.scheme == "s3":
        return _open_s3(parse_s3(parts), backoff)
    raise UnsupportedStore(f"No kind of store is known for {url!r}.")


def local_path(url: str) -> Path | None:
    """The directory that a path or `file:` URL names; None for anything else."""
    parts = urlsplit(url)
    match parts.scheme:
        case "":
            return Path(url).expanduser()
        case "file" if parts.netloc in ("", "localhost") and parts.path.startswith("/"):
            return Path(unquote(parts.path))
        case _:
            return None


def parse_s3(parts: SplitResult) -> S3Place:
    """The place that an `s3:` URL names. Raises `UnsupportedStore`, and says what is wrong."""
    if "@" in parts.netloc:
        raise UnsupportedStore("Credentials do not belong into a URL: others can read it.")
    if not parts.netloc or ":" in parts.netloc:
        raise UnsupportedStore("An s3 URL begins with the bucket: s3://bucket/prefix?endpoint=….")
    settings = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := settings.keys() - {"endpoint", "region", "style"}:
        raise UnsupportedStore(
            f"An s3 URL has endpoint, region and style after the `?`, not {sorted(unknown)[0]!r}."
        )
    endpoint = settings.get("endpoint")
    if endpoint is not None:
        service = urlsplit(endpoint)
        if service.scheme not in ("http", "https") or not service.netloc:
            raise UnsupportedStore(f"The endpoint is a URL, https://host, and not {endpoint!r}.")
    style = settings.get("style")
    if style not in (None, *STYLES):
        raise UnsupportedStore(f"style is path or virtual, not {style!r}.")
    prefix = unquote(parts.path).strip("/")
    try:
        prefix = check_key(prefix) + "/" if prefix else ""
    except ValueError:
        raise UnsupportedStore(
            f"A prefix is made of A-Z a-z 0-9 . _ - and /, not {prefix!r}."
        ) from None
    return S3Place(parts.netloc, prefix, endpoint, settings.get("region"), style)


def _open_s3(place: S3Place, backoff: Backoff) -> BlobStore:
    try:
        from checkpoint.stores.s3 import S3  # boto3 is large, and an extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("boto3", "botocore"):
            raise
        raise UnsupportedStore("s3:// needs boto3: pip install 'sessionkeeper[s3]'.") from error
    store = S3(place.bucket, endpoint=place.endpoint, region=place.region, style=place.style)
    return Prefixed(Retrying(store, backoff), place.prefix)


def check_answers(store: BlobStore, seconds: float = ANSWER_SECONDS) -> None:
    """Ask `store` for a list, and nothing else: it answers, as a store does, within `seconds` in
    all. Raises `StoreUnavailable` when it does not, and what the store raises."""
    outcome: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            next(iter(store.list("sessions/")), None)
        except BaseException as error:
            outcome.put(error)
        else:
            outcome.put(None)

    # One byte now and then ends no read: so nobody waits for that thread, not even at the end.
    threading.Thread(target=ask, name="probe", daemon=True).start()
    try:
        error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise StoreUnavailable(f"The store did not answer within {seconds:.0f} s.") from None
    if error is not None:
        raise error


def probe(store: BlobStore) -> None:
    """Try whether `store` can hold sessions: writable, `create` is conditional, and what is read
    is what was asked for.

    Raises `ConditionNotHonoured`, `UnsupportedStore`, `StoreNotWritable`, or whatever the store
    does. Leaves nothing behind.
    """
    key = f"probe/{secrets.token_hex(16)}"
    first, second = b"1" + secrets.token_bytes(15), b"2" + secrets.token_bytes(15)
    store.create(key, first)
    try:
        try:
            store.create(key, second)
        except AlreadyExists:
            pass
        else:
            raise ConditionNotHonoured("The store overwrites objects that must be created once.")
        if store.get(key) != first:
            raise ConditionNotHonoured("The store does not give back what was first created.")
        if store.get(key, 1, 3) != first[1:4]:
            raise UnsupportedStore("The store does not give the part of an object asked for.")
        if key not in store.list("probe/"):
            raise UnsupportedStore("The store does not list an object that was just written.")
    finally:
        store.delete(key)
