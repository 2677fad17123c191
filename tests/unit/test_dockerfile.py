"""The images of gateway and agent, by what their Dockerfile says: `make images` builds them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2]
FILE = HERE / "images" / "Dockerfile"


@dataclass
class Stage:
    base: str
    lines: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        return [rest for name, rest in self.lines if name == word]


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", FILE.read_text()))
    found: dict[str, Stage] = {}
    name = ""
    for line in filter(str.strip, text.splitlines()):
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()  # type: ignore[union-attr]
            found[name] = Stage(base)
        elif name:
            found[name].lines.append((word, rest))
    return found


def test_everything_is_built_on_the_base_that_is_given(stages: dict[str, Stage]):
    assert re.search(r"(?m)^ARG BASE=\S*debian:12", FILE.read_text())
    assert {stage.base for stage in stages.values()} <= {"${BASE}", *stages}
    assert stages.keys() >= {"gateway", "agent"}


def test_what_is_copied_is_there_and_reaches_the_build(stages: dict[str, Stage]):
    allowed = re.findall(r"(?m)^!(\S+)", (HERE / ".dockerignore").read_text())
    for stage in stages.values():
        for rest in stage.all("COPY"):
            if rest.startswith("--from="):
                assert rest.removeprefix("--from=").split()[0] in stages
                continue
            for source in rest.split()[:-1]:
                assert (HERE / source).exists(), source
                assert any(one == source or one.startswith(source) for one in allowed), source


def test_gateway_is_not_root_and_has_nothing_that_makes_containers(stages: dict[str, Stage]):
    gateway = stages["gateway"]
    assert gateway.all("USER") == ["10001:10001"]
    assert "runc" not in " ".join(gateway.all("RUN"))
    assert stages["agent"].all("USER") == []
    assert "runc" in " ".join(stages["agent"].all("RUN"))


def test_images_keep_no_package_lists(stages: dict[str, Stage]):
    for name in ("base", "gateway", "agent"):
        for run in stages[name].all("RUN"):
            assert "apt-get" not in run or "rm -rf /var/lib/apt/lists" in run


def test_images_have_the_versions_that_are_tested():
    def locked(name: str) -> set[str]:
        return set(re.findall(r"(?m)^\S+==\S+", (HERE / name).read_text()))

    assert locked("images/requirements.lock") <= locked("requirements.lock")
    assert locked("requirements.lock") <= locked("requirements-dev.lock")
