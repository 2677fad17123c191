"""S3 services over a socket: a fit one, an unfit one, and what is said of wrong settings."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from s3.fixtures import s3_credentials
from s3.service import PAGE, new_bucket, rclone_s3

from checkpoint.blobs import Backoff, open_store, probe
from checkpoint.errors import (
    ConditionNotHonoured,
    CredentialsRefused,
    StoreNotWritable,
    StoreUnavailable,
)
from checkpoint.keys import MasterKey
from checkpoint.repository import Repository
from checkpoint.stores.s3 import S3
from sessionkeeper.errors import StoreUnusable
from sessionkeeper.gateway_app import open_repository


@pytest.mark.needs("rclone")
def test_service_that_ignores_the_condition_is_refused_with_words(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    with s3_credentials(), rclone_s3(tmp_path) as url:
        with pytest.raises(ConditionNotHonoured, match="overwrites") as caught:
            probe(open_store(f"s3://bucket/here?endpoint={url}"))
        assert "If-None-Match" in caught.value.hint
        with pytest.raises(StoreUnusable, match="overwrites"):  # the gateway does not start
            open_repository(f"s3://bucket?endpoint={url}", tmp_path / "key", "default")
    assert [path for path in (tmp_path / "bucket").rglob("*") if path.is_file()] == []


def test_service_that_honours_it_holds_a_session(s3_service: str) -> None:
    url = f"s3://{new_bucket(s3_service)}/some/where?endpoint={s3_service}&style=path"
    store = open_store(url)
    probe(store)
    master = MasterKey(b"m" * 32)
    keys = Repository.open(store, "one", master).keys
    assert Repository.open(open_store(url), "one", master).keys.session_key == keys.session_key
    assert [*store.list("")] == ["sessions/one/key"]


def test_credentials_that_are_missing_or_wrong_are_named(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    with s3_credentials() as environ, rclone_s3(tmp_path) as url:
        environ.setenv("AWS_ACCESS_KEY_ID", "somebody-else")
        with pytest.raises(CredentialsRefused, match="does not take the credentials"):
            probe(open_store(f"s3://bucket?endpoint={url}"))
        environ.delenv("AWS_ACCESS_KEY_ID")
        with pytest.raises(CredentialsRefused, match="There are no credentials") as caught:
            probe(open_store(f"s3://bucket?endpoint={url}"))
        assert "AWS_ACCESS_KEY_ID" in caught.value.hint


def test_bucket_that_is_not_there_is_named(s3_service: str) -> None:
    with pytest.raises(StoreNotWritable, match="no such bucket: s3://nowhere-at-all"):
        probe(open_store(f"s3://nowhere-at-all?endpoint={s3_service}"))


def test_service_that_is_not_there_is_given_up_on(s3_service: str) -> None:
    store = open_store("s3://bucket?endpoint=http://127.0.0.1:9", Backoff(limit=0.2))
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:9"):
        probe(store)


def test_bucket_may_be_named_in_the_host(s3_service: str) -> None:
    """A host name for each bucket needs a name service; what would be asked of it is seen here."""
    for style, begins in (
        ("path", "https://s3.example.org/bucket/"),
        ("virtual", "https://bucket.s3.example.org/"),
    ):
        store = S3("bucket", endpoint="https://s3.example.org", region="eu-1", style=style)
        asked: list[str] = []

        def note(request: object, **_: object) -> None:
            asked.append(request.url)  # noqa: B023
            raise StopAsking

        store._client.meta.events.register("before-send.s3", note)
        with pytest.raises(StopAsking):
            store.get("some/key")
        assert asked == [f"{begins}some/key"]


class StopAsking(Exception):
    pass


def test_listing_goes_on_beyond_one_answer(s3_service: str) -> None:
    store = S3(new_bucket(s3_service), endpoint=s3_service)
    keys = [f"packs/{number:04d}" for number in range(2 * PAGE + 1)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda key: store.put(key, b""), keys))
    assert list(store.list("packs/")) == keys
