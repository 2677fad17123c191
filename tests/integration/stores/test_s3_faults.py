"""An S3 service that is slow, returns errors, cuts connections, goes away and comes back."""

from __future__ import annotations

import random

import pytest
from s3.faults import Fault, FaultyService, in_turn

from checkpoint.blobs import Retrying
from checkpoint.errors import AlreadyExists, NotFound, StoreUnavailable, TransferBroken
from checkpoint.stores import s3
from checkpoint.stores.s3 import S3

DATA = random.Random(1).randbytes(3 << 20)
FAULTS = pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name)


@FAULTS
def test_every_operation_gets_over_every_fault(
    store: Retrying, direct: S3, service: FaultyService, fault: Fault
) -> None:
    def faults(number: int) -> None:
        service.decide = in_turn(*[fault] * number)

    faults(2)
    store.create("dir/created", DATA)
    faults(2)
    store.put("dir/put", DATA[:1000])
    faults(2)
    assert store.get("dir/created") == direct.get("dir/created") == DATA
    faults(2)
    assert store.get("dir/created", 1 << 20, 1 << 20) == DATA[1 << 20 : 2 << 20]
    faults(2)
    assert list(store.list("dir/")) == ["dir/created", "dir/put"]
    faults(2)
    store.delete("dir/put")
    assert list(direct.list("")) == ["dir/created"]
    faults(1)
    with pytest.raises(NotFound):
        store.get("dir/put")
    assert service.faults[fault] == 13


@FAULTS
def test_fault_without_retries_is_an_error_that_says_so(
    through: S3, service: FaultyService, fault: Fault
) -> None:
    through.put("key", DATA)
    service.decide = in_turn(fault)
    with pytest.raises(StoreUnavailable, match="does not answer") as caught:
        through.get("key")
    assert caught.value.retryable
    assert through.bucket in str(caught.value)


def test_download_that_breaks_goes_on_where_it_stopped(
    store: Retrying, service: FaultyService
) -> None:
    store.put("key", DATA)
    service.decide = in_turn(*[Fault.CUT_ANSWER] * 3)
    before = service.sent
    assert store.get("key") == DATA
    assert service.faults[Fault.CUT_ANSWER] == 3
    again = service.sent - before - len(DATA)
    assert again <= 3 * 256 * 1024  # what was in flight when it broke, each time
    before = service.sent
    service.decide = in_turn(Fault.CUT_ANSWER, Fault.ERROR_503, Fault.CUT_REQUEST)
    assert store.get("key", 100, 2 << 20) == DATA[100 : 100 + (2 << 20)]
    assert service.sent - before <= (2 << 20) + 300 * 1024


def test_object_that_is_replaced_while_its_download_is_broken_is_not_read_in_halves(
    through: S3, direct: S3, service: FaultyService
) -> None:
    direct.put("key", DATA)
    service.decide = in_turn(Fault.CUT_ANSWER)
    with pytest.raises(TransferBroken) as caught:
        through.get("key")
    assert 0 < caught.value.received < len(DATA)
    direct.put("key", DATA[::-1])
    assert caught.value.resume() == DATA[::-1]


def test_create_whose_answer_was_lost_is_done_once(
    store: Retrying, direct: S3, service: FaultyService
) -> None:
    service.decide = in_turn(Fault.LOST_ANSWER, Fault.ERROR_500)
    store.create("key", DATA)
    assert direct.get("key") == DATA
    service.decide = in_turn(Fault.ERROR_503)
    with pytest.raises(AlreadyExists):  # what is there is another's
        store.create("key", DATA[:-1])
    service.decide = in_turn()
    with pytest.raises(AlreadyExists):  # nothing failed: it was there before
        store.create("key", DATA)


def test_slow_service_is_waited_for_as_long_as_something_arrives(
    service: FaultyService, direct: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_CONNECT_SECONDS", 0.8)
    monkeypatch.setattr(s3, "_SILENT_SECONDS", 1.5)
    impatient = S3(direct.bucket, endpoint=service.url, style="path")
    service.bytes_per_second = 4e6
    data = (DATA * 3)[: 7 << 20]  # takes 1.8 s, of which 0.7 s are in socket buffers
    impatient.create("key", data)
    assert impatient.get("key") == data
    service.bytes_per_second = 30e3  # a silence of 2 s
    with pytest.raises(StoreUnavailable, match="imeout"):
        impatient.get("key")
