"""Which sessions there are, found on this disk or in the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoint.blobs import Memory
from checkpoint.deletion import delete
from checkpoint.errors import SessionDeleted, SessionExists, UnknownSession
from checkpoint.keys import MasterKey
from checkpoint.repository import Repository
from sessionkeeper.keeper.register import Register
from sessionkeeper.registration import Registration

MASTER = MasterKey(bytes(32))
ANN = Registration("course", owner="ann", guarantee=5).with_token("secret")


def test_a_gateway_without_its_disk_finds_every_session_with_its_tokens(tmp_path: Path) -> None:
    store = Memory()
    Register(tmp_path / "first", store, MASTER).begin(ANN)
    other = Register(tmp_path / "second", store, MASTER)
    assert other.here() == []
    assert other.stored() == [ANN]
    assert other.open("course")[0] == ANN


def test_the_store_s_objects_say_nothing_about_it_to_who_has_no_key(tmp_path: Path) -> None:
    store = Memory()
    Register(tmp_path, store, MASTER).begin(ANN)
    assert not any(
        b"ann" in data or ANN.tokens[0].encode() in data for data in store.objects.values()
    )


def test_a_name_is_given_once(tmp_path: Path) -> None:
    register = Register(tmp_path, Memory(), MASTER)
    register.begin(ANN)
    with pytest.raises(SessionExists):
        register.begin(ANN)


def test_a_file_that_is_damaged_is_replaced_by_what_the_store_knows(tmp_path: Path) -> None:
    register = Register(tmp_path, Memory(), MASTER)
    register.begin(ANN)
    (register.home("course") / "session.json").write_text("{")
    assert register.here() == [ANN]


def test_a_label_that_is_damaged_leaves_one_session_out_and_not_the_others(tmp_path: Path) -> None:
    store = Memory()
    register = Register(tmp_path, store, MASTER)
    register.begin(ANN)
    register.begin(Registration("other"))
    store.put("labels/course", b"nonsense")
    assert [one.name for one in register.stored()] == ["other"]


def test_one_that_a_fork_began_is_nobody_s_and_can_be_had(tmp_path: Path) -> None:
    store = Memory()
    Repository.open(store, "fork", MASTER)
    assert Register(tmp_path, store, MASTER).open("fork")[0] == Registration("fork")


def test_a_deleted_one_is_neither_listed_nor_had(tmp_path: Path) -> None:
    store = Memory()
    register = Register(tmp_path, store, MASTER)
    repository = register.begin(ANN)
    delete(repository)
    assert register.stored() == []
    with pytest.raises((UnknownSession, SessionDeleted)):
        register.open("course")
