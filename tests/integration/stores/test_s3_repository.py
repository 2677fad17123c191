"""A session's checkpoints in a bucket, while the service fails."""

from __future__ import annotations

import random
import threading

import pytest
from s3.faults import FaultyService, at_random

from checkpoint.blobs import Backoff, Prefixed, Retrying
from checkpoint.errors import StoreUnavailable
from checkpoint.keys import SessionKeys
from checkpoint.manifest import Body, Manifest, Part
from checkpoint.objects import load_object, store_object
from checkpoint.repository import Repository
from checkpoint.stores.s3 import S3

KEYS = SessionKeys(b"k" * 32)


def checkpoint(repository: Repository, base: Manifest | None, number: int) -> Manifest:
    """Half of it is the one before."""
    with repository.writer(base) as writer:
        old = store_object(writer, content(number - 1))
        new = store_object(writer, content(number))
        packs = writer.finish()
    body = Body(packs, old.id, {"k": Part("test", new.id)})
    manifest = Manifest(number, 1, base.number if base else None, float(number), body)
    repository.commit(manifest)
    return manifest


def content(number: int) -> bytes:
    return random.Random(number).randbytes(3 << 20)


def assert_intact(repository: Repository, number: int) -> None:
    manifest = repository.load(number)
    with repository.reader(manifest) as reader:
        root = manifest.processes["k"].root
        assert manifest.tree is not None
        assert root is not None
        assert load_object(reader, manifest.tree) == content(number - 1)
        assert load_object(reader, root) == content(number)


@pytest.mark.parametrize("seed", [1, 2])
def test_writer_commit_and_restore_lose_nothing(
    store: Retrying, direct: S3, service: FaultyService, seed: int
) -> None:
    repository = Repository(Prefixed(store, "p/"), "one", KEYS)
    there = Repository(Prefixed(direct, "p/"), "one", KEYS)
    service.decide = at_random(seed, 0.4)
    base = None
    for number in (1, 2, 3):
        base = checkpoint(repository, base, number)
        there.verify(there.load(number))
    for number in (1, 2, 3):
        assert_intact(repository, number)
    assert there.numbers() == [1, 2, 3]
    assert service.faults.total() > 3


def test_commit_waits_for_a_service_that_comes_back(
    store: Retrying, direct: S3, service: FaultyService
) -> None:
    repository = Repository(store, "one", KEYS)
    base = checkpoint(repository, None, 1)
    service.go_down()
    seen = len(service.requests)
    commit = threading.Thread(target=checkpoint, args=(repository, base, 2))
    commit.start()
    service.wait_for_requests(seen + 4)
    service.come_back()
    commit.join(timeout=30)
    assert_intact(Repository(direct, "one", KEYS), 2)


def test_service_that_stays_away_costs_a_checkpoint_and_nothing_more(
    through: S3, service: FaultyService
) -> None:
    store = Retrying(through, Backoff(first=0.01, most=0.05, limit=0.3))
    repository = Repository(store, "one", KEYS)
    base = checkpoint(repository, None, 1)
    service.go_down()
    with pytest.raises(StoreUnavailable, match="does not answer"):
        checkpoint(repository, base, 2)
    service.come_back()
    assert repository.numbers() == [1]
    assert_intact(repository, 1)
    checkpoint(repository, base, 2)
    assert_intact(repository, 2)
