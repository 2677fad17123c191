"""Exit codes and hints: what the documentation of the tree says is what a user gets."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

import checkpoint.errors
import gateway.errors
from sessionkeeper import errors
from sessionkeeper.errors import SessionkeeperError


def tree(root: type[SessionkeeperError] = SessionkeeperError) -> Iterator[type[SessionkeeperError]]:
    for leaf in root.__subclasses__():
        if leaf.__module__ == errors.__name__:
            yield leaf
            yield from tree(leaf)


def test_documented_exit_codes_are_the_real_ones() -> None:
    drawn = re.findall(r"[├└]── (\w+)(?: +(\d+))?", errors.__doc__ or "")
    assert {name for name, _ in drawn} == {leaf.__name__ for leaf in tree()}
    for name, number in drawn:
        assert not number or getattr(errors, name).exit_code == int(number), name


@pytest.mark.parametrize("leaf", list(tree()))
def test_every_error_says_what_to_do_and_has_a_code_of_its_own(
    leaf: type[SessionkeeperError],
) -> None:
    assert leaf.hint
    assert [other for other in tree() if other.code == leaf.code] == [leaf]


def test_error_and_hint_are_what_is_printed() -> None:
    told = errors.explain(errors.PortTaken("port 8888 is in use"))
    assert told == "error: port 8888 is in use\nhint: choose another with --port"
    assert errors.explain(SessionkeeperError("no hint")) == "error: no hint"
    assert errors.explain(errors.PortTaken("x", hint="y")).endswith("hint: y")


def test_errors_of_the_other_packages_are_mapped_by_their_code() -> None:
    theirs = {
        leaf.code
        for module in (checkpoint.errors, gateway.errors)
        for leaf in vars(module).values()
        if isinstance(leaf, type) and isinstance(getattr(leaf, "code", None), str)
    }
    assert set(errors.EXIT_CODES) <= theirs, "a code that nothing raises any more"

    class Elsewhere(Exception):
        code = "kernel_not_found"

    class Unmapped(Exception):
        code = "something_else"

    assert errors.exit_code(Elsewhere()) == errors.UnknownKernel.exit_code
    assert errors.exit_code(Unmapped()) == 1


def test_what_is_in_no_tree_is_a_bug_of_ours() -> None:
    assert errors.exit_code(KeyError()) == errors.EXIT_BUG
    assert errors.exit_code(KeyboardInterrupt()) == errors.EXIT_INTERRUPTED
