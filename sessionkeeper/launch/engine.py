"""What repo2docker builds with here: the podman or docker command, nothing beyond `build`.

repo2docker's own engine wants Docker's `buildx` of both, which podman has not before version 5.
A plugin of repo2docker (entry point `repo2docker.engines`), so it runs in repo2docker's process.

Source: repo2docker/engine.py, the engines' interface.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from typing import Any

from repo2docker.engine import BuildError, ContainerEngine, ContainerEngineException

PROGRAMS = ("podman", "docker")


def program() -> str | None:
    """Return the first of podman and docker that works here; None: neither."""
    for name in PROGRAMS:
        if shutil.which(name) is None:
            continue
        command = [name, "image", "ls", "--quiet"]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return name
    return None


class CommandEngine(ContainerEngine):  # type: ignore[misc]
    """See the module."""

    string_output = True

    def __init__(self, *, parent: Any) -> None:
        super().__init__(parent=parent)
        found = program()
        if found is None:
            raise ContainerEngineException("neither podman nor docker works here")
        self._program = found

    def build(
        self,
        *,
        buildargs: dict[str, str] | None = None,
        cache_from: list[str] | None = None,
        tag: str = "",
        dockerfile: str = "",
        fileobj: Any = None,
        path: str = "",
        labels: dict[str, str] | None = None,
        platform: str | None = None,
        **_: Any,
    ) -> Iterator[str]:
        """Build, and yield what is said. Raises ``BuildError``."""
        command = [self._program, "build", "--tag", tag]
        if self._program == "podman":
            command += ["--format", "docker"]  # OCI's has no SHELL and no HEALTHCHECK
        for name, value in (buildargs or {}).items():
            command += ["--build-arg", f"{name}={value}"]
        for name, value in (labels or {}).items():
            command += ["--label", f"{name}={value}"]
        for image in cache_from or []:
            command += ["--cache-from", image]
        if platform:
            command += ["--platform", platform]
        if dockerfile:
            command += ["--file", dockerfile]
        if not fileobj:
            yield from _said_by([*command, path])
            return
        with tempfile.TemporaryDirectory() as context:
            with tarfile.open(fileobj=fileobj) as archive:
                archive.extraction_filter = getattr(tarfile, "tar_filter", None)  # Python 3.11.4
                archive.extractall(context)  # noqa: S202
            yield from _said_by([*command, context])

    def inspect_image(self, image: str) -> None:
        """None: whether an image is built is decided before repo2docker is asked at all."""


def _said_by(command: list[str]) -> Iterator[str]:
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        yield from process.stdout
    if process.returncode:
        raise BuildError(f"{command[0]} build ended with {process.returncode}")
