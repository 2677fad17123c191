"""A podman of the tests' own: its images are nobody else's, and go with the directory."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from sessionkeeper.bench import own_image as python

BASE = "localhost/base:1"
_CONTAINERS = """\
[containers]
netns = "host"
default_ulimits = ["nofile=20000:20000", "nproc=32000:32000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
_STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{0}/storage"
runroot = "{0}/run"
"""


def environ(place: Path) -> dict[str, str]:
    """What to set so that podman keeps everything below `place`."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "containers.conf").write_text(_CONTAINERS)
    (place / "storage.conf").write_text(_STORAGE.format(place))
    return {
        "CONTAINERS_CONF": str(place / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(place / "storage.conf"),
    }


def unmount(place: Path) -> None:
    """So that the directory can be deleted."""
    command = ["umount", "--recursive", str(place / "storage" / "overlay")]
    subprocess.run(command, capture_output=True, check=False)


def import_base(known: dict[str, str]) -> None:
    """Have an image to build on, with a shell and this Python."""
    subprocess.run(
        ["podman", "import", "--quiet", "-", BASE],
        input=python.base_layer(),
        env={**os.environ, **known},
        check=True,
        capture_output=True,
    )
