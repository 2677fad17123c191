"""Where process images can be restored, by the features of the CPU."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionkeeper import criu
from sessionkeeper.cpu import Cpu, Features, parse, this_cpu

OLD = Cpu("old", Features((0b0011, 0b1), 0x7, 832))
NEW = Cpu("new", Features((0b1011, 0b1), 0x207, 2440))
FEATURES = st.builds(
    Features, st.tuples(st.integers(0, 255), st.integers(0, 255)), st.integers(0, 7), st.just(832)
)


def test_an_image_goes_to_a_cpu_with_more_features_and_not_back() -> None:
    assert not NEW.lacks(OLD)
    assert OLD.lacks(NEW)


def test_an_image_goes_to_a_cpu_of_the_same_name_or_of_none() -> None:
    assert not Cpu("old").lacks(OLD)
    assert not Cpu("").lacks(OLD)
    assert not OLD.lacks(Cpu(""))


def test_by_the_name_alone_another_cpu_is_refused() -> None:
    assert Cpu("new").lacks(OLD)
    assert NEW.lacks(Cpu("old"))


def test_features_travel_as_json() -> None:
    for cpu in (OLD, NEW, Cpu("named"), Cpu("")):
        assert Cpu.from_json(json.loads(json.dumps(cpu.json()))) == cpu


@pytest.mark.parametrize("said", [None, [], ["a", "b", "c"], "words", [1], {"words": 1}])
def test_features_in_another_form_are_unknown_ones(said: object) -> None:
    assert Cpu.from_json({"cpu": "name", "cpu_features": said}) == Cpu("name")


@given(FEATURES, FEATURES, FEATURES)
def test_what_can_go_there_and_on_from_there_can_go_all_the_way(
    one: Features, two: Features, three: Features
) -> None:
    assert not one.lacks(one)
    if not two.lacks(one) and not three.lacks(two):
        assert not three.lacks(one)


@given(st.binary(max_size=200))
def test_any_bytes_are_features_or_none(image: bytes) -> None:
    assert isinstance(parse(image), Features | None)


@pytest.mark.container
def test_criu_itself_accepts_here_what_was_read_here(tmp_path: Path) -> None:
    found = criu.require().path
    subprocess.run([found, "cpuinfo", "dump", "-D", tmp_path], check=True, capture_output=True)
    assert parse((tmp_path / "cpuinfo.img").read_bytes()) == this_cpu().features is not None
    subprocess.run([found, "cpuinfo", "check", "-D", tmp_path], check=True, capture_output=True)
