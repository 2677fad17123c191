"""docs/single-node-k3s.md, read against the chart: what it says to type is there, and is taken."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from sessionkeeper.bench.chart import CHART, rendered, validate

ROOT = CHART.parents[1]
PAGE = (ROOT / "docs" / "single-node-k3s.md").read_text()
MINE = "mine.yaml"
AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def fenced(kind: str) -> list[str]:
    found = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", PAGE)
    return [text for of_kind, text in found if of_kind == kind]


@cache
def commands() -> tuple[tuple[str, ...], ...]:
    """All that is to be typed, as a shell would split it; the last ones are in the text."""
    typed = "\n".join((*fenced(""), *re.findall(r"`(kubectl [^`]+)`", PAGE)))
    lines = typed.replace("\\\n", " ").splitlines()
    return tuple(filter(None, (tuple(shlex.split(line, comments=True)) for line in lines)))


def of(*beginning: str) -> list[tuple[str, ...]]:
    return [one for one in commands() if one[: len(beginning)] == beginning]


def given(command: tuple[str, ...], flag: str) -> list[str]:
    """What follows a flag, each time that it is there."""
    return [after for one, after in pairwise(command) if one == flag]


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """As Helm does it: the later one wins, value by value."""
    both = {**one, **other}
    for key in one.keys() & other.keys():
        if isinstance(one[key], dict) and isinstance(other[key], dict):
            both[key] = merged(one[key], other[key])
    return both


def values(command: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for file in given(command, "--values"):
        [own] = fenced("yaml")
        found = merged(found, yaml.safe_load(own if file == MINE else (ROOT / file).read_text()))
    for assignment in given(command, "--set"):
        path, _, value = assignment.partition("=")
        inner: Any = value
        for name in reversed(path.split(".")):
            inner = {name: inner}
        found = merged(found, inner)
    return found


@cache
def objects(command: tuple[str, ...]) -> tuple[dict[str, Any], ...]:
    return tuple(rendered(values(command)))


def installing() -> tuple[str, ...]:
    [command] = of("helm", "install")
    return command


def recovering() -> tuple[str, ...]:
    [flag] = re.findall(r"`(--set secrets\.[^`]+)`", PAGE)
    return (*installing(), *shlex.split(flag))


def unprivileged() -> tuple[str, ...]:
    [flag] = re.findall(r"with (--set profile=\S+)", PAGE)
    return (*installing(), *shlex.split(flag))


@pytest.mark.parametrize("which", ["install", "upgrade", "recovery", "unprivileged"])
def test_what_the_page_has_helm_do_is_taken_by_the_schema_and_renders(which: str) -> None:
    [upgrading] = of("helm", "upgrade")
    known = {"install": installing, "recovery": recovering, "unprivileged": unprivileged}
    command = known[which]() if which in known else upgrading
    with helm_python.Chart.load(str(CHART)) as chart:
        chart.validate_schema(chart.merge_values(values(command)))
    assert len(objects(command)) > 10
    for one in objects(command):
        validate(one)
    assert not any("CHANGE-ME" in str(one) for one in objects(command)), "the page says all of it"
    assert command[2:4] == ("binder", "charts/sessionkeeper")


def asked_for() -> Iterator[tuple[str, str]]:
    """Kind and name of what `kubectl` is asked for and nothing on the page has made."""
    kinds = {"statefulset": "StatefulSet", "svc": "Service", "secret": "Secret"}
    for command in commands():
        words = [word for word in command if not word.startswith("-")]
        if words[0] != "kubectl" or "create" in words:
            continue
        for word in words:
            kind, slash, name = word.partition("/")
            if slash and kind in kinds:
                yield kinds[kind], name
        for name in given(command, "secret"):
            yield "Secret", name
        for name in given(command, "logs"):
            yield "StatefulSet", name.removesuffix("-0")


def test_what_is_looked_for_in_the_cluster_is_what_the_chart_has_made() -> None:
    there = {(one["kind"], one["metadata"]["name"]) for one in objects(installing())}
    wanted = set(asked_for())
    assert len(wanted) >= 2
    assert wanted <= there


def test_keys_that_are_read_from_a_secret_are_in_it() -> None:
    [secret] = [one for one in objects(installing()) if one["kind"] == "Secret"]
    read = re.findall(r"get secret (\S+) -o jsonpath='\{\.data\.([^}]+)\}'", PAGE)
    assert read
    for name, key in read:
        assert name == secret["metadata"]["name"]
        assert key in secret["data"]


def test_secrets_that_are_to_be_made_are_those_that_pods_read() -> None:
    for command in of("kubectl", "-n", "binder", "create", "secret"):
        name = command[6]
        made = {
            word.removeprefix("--from-literal=").partition("=")[0]
            for word in command
            if word.startswith("--from-literal=")
        }
        reads = {
            item["key"]
            for one in objects(recovering())
            for item in references(one)
            if item.get("name") == name
        }
        assert reads, f"nothing reads {name}"
        assert reads <= made, name
    assert values(recovering())["secrets"]["existingSecret"] in PAGE


def references(value: Any) -> Iterator[dict[str, Any]]:
    """Keys of Secrets in an object, with the Secret's name."""
    if isinstance(value, list):
        for one in value:
            yield from references(one)
    if not isinstance(value, dict):
        return
    if "secretKeyRef" in value:
        yield value["secretKeyRef"]
    if "secretRef" in value:
        name = value["secretRef"]["name"]
        yield from ({"name": name, "key": one} for one in AWS)
    if "secretName" in value:
        yield from (
            {"name": value["secretName"], "key": one["key"]} for one in value.get("items", [])
        )
    for one in value.values():
        yield from references(one)


def test_the_machines_own_namespace_is_used_throughout() -> None:
    assert of("kubectl", "create", "namespace", "binder")
    for command in commands():
        if command[0] == "helm" and command[1] in ("install", "upgrade"):
            assert given(command, "--namespace") == ["binder"]
        if command[0] == "kubectl" and "-n" in command:
            assert given(command, "-n") == ["binder"]


def test_where_it_sends_the_reader_there_is_something() -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
    [own] = re.findall(r"`(tests/\S+\.py)`", PAGE)
    assert ROOT / own == Path(__file__).resolve()
