"""What all tests share: services that may be missing, a place for what a failure leaves behind,
and how long each group took.

A test says what it needs: `@pytest.mark.container`, `@pytest.mark.browser`, or by name,
`@pytest.mark.needs("r")`. Where that is missing the test is skipped on a laptop and fails where
`CI=true`, so that nothing goes untested unseen.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from images.registry import docker_registry
from jupyter_client.kernelspec import KernelSpecManager
from s3.fixtures import s3_process, s3_service
from s3.service import rclone

from sessionkeeper import criu
from sessionkeeper.errors import CriuError

__all__ = ["s3_process", "s3_service"]

GROUPS = ("unit", "contract", "integration", "e2e", "chaos")
TESTS = Path(__file__).parent
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def _root() -> str:
    return "" if os.geteuid() == 0 else "it needs root"


def _program(*names: str) -> str:
    search = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return "" if any(shutil.which(name, path=search) for name in names) else f"no {names[0]}"


def _kernel(name: str) -> str:
    return "" if name in KernelSpecManager().find_kernel_specs() else f"no kernelspec {name}"


def _criu() -> str:
    try:
        criu.require()
    except CriuError as error:
        return str(error)
    return ""


def _lazy() -> str:
    found = criu.find()
    return "" if found and criu.restores_lazily(found.path) else "no userfaultfd for CRIU"


def _system_python() -> str:
    code = "import ensurepip, sys; sys.exit(sys.version_info < (3, 11))"
    command = ["/usr/bin/python3", "-I", "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError:
        return "no /usr/bin/python3"
    return "" if done.returncode == 0 else "/usr/bin/python3 is too old or has no ensurepip"


# Beside pandas 3, for the kernels of one test.
PANDAS_2 = Path(sys.prefix) / "pandas-2"

# Beside JupyterHub 6, for the test of both.
JUPYTERHUB_5 = Path(sys.prefix) / "jupyterhub-5"

# Service -> why it is missing; an empty string when it is there.
SERVICES: dict[str, Callable[[], str]] = {
    "root": _root,
    "runc": lambda: _program("runc"),
    "criu": _criu,
    "lazy": _lazy,
    "ip": lambda: _program("ip"),
    "nft": lambda: _program("nft"),
    "chromium": lambda: _program(*CHROMIUM),
    "r": lambda: _kernel("ir"),
    "bash": lambda: _kernel("bash"),
    "rclone": lambda: "" if rclone() else "no rclone",
    "dbus": lambda: _program("dbus-daemon"),
    "git": lambda: _program("git"),
    "podman": lambda: _program("podman"),
    "registry": lambda: "" if docker_registry() else "no docker-registry: `make test` fetches it",
    "repo2docker": lambda: "" if find_spec("repo2docker") else "no repo2docker",
    "pandas-2": lambda: "" if PANDAS_2.exists() else "`make test` installs pandas 2 for the tests",
    "hub": lambda: "" if find_spec("jupyterhub") else "no jupyterhub: `make test` installs it",
    "hub-5": lambda: "" if JUPYTERHUB_5.exists() else "`make test` installs it for the tests",
    "http-proxy": lambda: _program("configurable-http-proxy"),
    "apt": lambda: _program("apt-get"),
    "system-python": _system_python,
    "pip": lambda: "" if find_spec("pip") else _program("pip"),
}
MARKS = {"container": ("root", "runc", "criu", "ip", "nft"), "browser": ("chromium",)}


@cache
def missing(service: str) -> str:
    return SERVICES[service]()


def wanted(item: pytest.Item) -> Iterator[str]:
    for mark, services in MARKS.items():
        if item.get_closest_marker(mark):
            yield from services
    for marker in item.iter_markers("needs"):
        yield from marker.args


def group_of(path: Path) -> str:
    inside = path.relative_to(TESTS) if path.is_relative_to(TESTS) else path
    return inside.parts[0] if inside.parts[0] in GROUPS else "other"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long groups first, whatever the order on the command line, and what is longest before them:
    files are handed out one by one, and at the end all workers should have some left.
    """
    order = {name: number for number, name in enumerate(("other", *reversed(GROUPS)))}
    items.sort(key=lambda item: (not is_long(item), order[group_of(item.path)]))


def is_long(item: pytest.Item) -> bool:
    """Whether a test may take five minutes and more."""
    mark = item.get_closest_marker("timeout")
    return mark is not None and mark.args[0] > 300


def pytest_runtest_setup(item: pytest.Item) -> None:
    reasons = [reason for service in wanted(item) if (reason := missing(service))]
    if reasons:
        text = "; ".join(dict.fromkeys(reasons))
        if os.environ.get("CI") == "true":
            pytest.fail(f"missing where it must be there: {text}", pytrace=False)
        pytest.skip(text)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where `CI=true` a skip is a failure too: whatever the reason, something went untested."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} may not be skipped here: {reason}"
    return report


@pytest.fixture(scope="session", autouse=True)
def own_jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests and the Jupyter and IPython settings of the user apart."""
    home = tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONFIG", "DATA", "RUNTIME"):
            patch.setenv(f"JUPYTER_{name}_DIR", str(home / name.lower()))
        patch.setenv("IPYTHONDIR", str(home / "ipython"))
        for name in ("JUPYTER_TOKEN", "JUPYTER_GATEWAY_URL", "KERNEL_GATEWAY"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def artifacts(request: pytest.FixtureRequest) -> Path:
    """A directory that outlives the run, for what helps to understand a failure (pages, logs)."""
    base = Path(os.environ.get("SESSIONKEEPER_TEST_ARTIFACTS") or TESTS / "artifacts")
    place = base / re.sub(r"[^\w.-]+", "_", request.node.nodeid.removeprefix("tests/"))
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return place


class Stopwatch:
    """Adds up how long the tests of each group took, their fixtures included."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.tests: dict[str, int] = defaultdict(int)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        group = group_of(TESTS.parent / report.nodeid.partition("::")[0])
        self.seconds[group] += report.duration
        self.tests[group] += report.when == "setup"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.tests:
            terminalreporter.section("time of each group")
        for group in (*GROUPS, "other"):
            if count := self.tests.get(group):
                terminalreporter.write_line(
                    f"{group:<12} {self.seconds[group]:7.1f} s {count:6d} tests"
                )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Stopwatch(), "stopwatch")
