"""Fixtures for tests of the whole system; a conftest.py imports them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from system.folder import Folder
from system.running import System

__all__ = ["folder", "fresh", "pytest_runtest_makereport", "shared_systems", "system"]

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@contextlib.contextmanager
def evidence(request: pytest.FixtureRequest, artifacts: Path, system: System) -> Iterator[None]:
    """When the test fails, keep what the system said."""
    try:
        yield
    finally:
        if request.node.stash.get(FAILED, False):
            system.keep(artifacts)
        with contextlib.suppress(OSError):
            artifacts.rmdir()  # there is nothing to tell


def end(system: System) -> None:
    system.stop()
    assert system.leftovers() == {}


@pytest.fixture(scope="session")
def shared_systems(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[System]]:
    """The system that tests share, if any runs: it takes seconds to start one."""
    systems: list[System] = []
    yield systems
    while systems:
        end(systems.pop())


@pytest_asyncio.fixture
async def system(
    request: pytest.FixtureRequest,
    artifacts: Path,
    shared_systems: list[System],
    tmp_path_factory: pytest.TempPathFactory,
):
    """A system with node-1 and node-2 ready. Shared with other tests: what a test leaves behind
    must not matter to the next; after a failure the next gets a new one."""
    if not shared_systems:
        place = tmp_path_factory.mktemp("system")
        shared_systems.append(System(place / "state").start())
    one = shared_systems[0]
    await one.heal()
    await one.clear()
    with evidence(request, artifacts, one):
        yield one
    if request.node.stash.get(FAILED, False) or not one.alive:
        shared_systems.clear()
        end(one)


@pytest.fixture
def fresh(
    request: pytest.FixtureRequest, artifacts: Path, tmp_path: Path
) -> Iterator[Callable[..., System]]:
    """Starts systems of the test's own: `fresh(*flags, environ={...})`; with `starts=False` the
    system is not started yet."""
    with contextlib.ExitStack() as stack:

        def start(
            *flags: str, environ: dict[str, str] | None = None, starts: bool = True
        ) -> System:
            one = System(tmp_path / "state", *flags, environ=environ)
            stack.callback(end, one)
            stack.enter_context(evidence(request, artifacts, one))
            return one.start() if starts else one

        yield start


@pytest_asyncio.fixture
async def folder(system: System, request: pytest.FixtureRequest) -> Folder:
    """A folder of the shared system's workspace for this test alone."""
    return await Folder(system, re.sub(r"\W+", "-", request.node.name)).create()
