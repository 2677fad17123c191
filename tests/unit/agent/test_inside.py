"""Which kernels the image has that an agent was brought into."""

from __future__ import annotations

import json
import os
import sys
import venv
from pathlib import Path

import pytest

from sessionkeeper.agent import probe
from sessionkeeper.agent.errors import KernelStartFailed
from sessionkeeper.agent.inside import look_inside
from sessionkeeper.agent.offer import offer
from sessionkeeper.images.errors import ImageUnusable
from sessionkeeper.settings import AgentSettings

IMAGE = "r.io/ann/course:1"


@pytest.fixture(autouse=True)
def nothing_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This machine's own Pythons and kernels are none of the image's."""
    monkeypatch.setattr(probe, "PYTHONS", ("python3", "python"))
    places = [tmp_path / "elsewhere/kernels", Path(sys.prefix) / "share/jupyter/kernels"]
    monkeypatch.setattr(probe, "directories", lambda: list(map(str, places)))


def conda(tmp_path: Path, packages: bool) -> Path:
    """An environment of an image, with or without what kernels need."""
    home = tmp_path / "conda"
    venv.create(home, with_pip=False, symlinks=True)
    if packages:
        [site] = home.glob("lib/python*/site-packages")
        ours = next(path for path in sys.path if path.endswith("site-packages"))
        (site / "ours.pth").write_text(ours)
    return home


def of_path(home: Path) -> dict[str, str]:
    return {**os.environ, "PATH": str(home / "bin"), "HOME": str(home), "SESSIONKEEPER_TOKEN": "x"}


def spec(above: Path, name: str, *argv: str) -> None:
    file = above / "kernels" / name / "kernel.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"argv": argv, "display_name": name, "language": name}))


def test_a_kernelspec_that_says_python_means_the_images(tmp_path: Path) -> None:
    home = conda(tmp_path, True)
    spec(home / "share/jupyter", "python3", "python", "-m", "ipykernel_launcher")
    found = look_inside(IMAGE, of_path(home))
    assert found.unusable is None
    assert Path(found.python).parent == home / "bin"
    launch, _ = found.kernelspecs.find("python3")
    assert launch["argv"][0] == found.python


def test_kernels_of_another_language_need_no_python_in_the_image(tmp_path: Path) -> None:
    spec(tmp_path / "elsewhere", "ir", "R", "--slave")
    spec(tmp_path / "elsewhere", "broken", "python", "-m", "nothing")
    found = look_inside(IMAGE, {"PATH": str(tmp_path)})
    assert found.python == sys.executable
    assert list(found.kernelspecs.all()) == ["ir"]
    with pytest.raises(KernelStartFailed, match="no kernelspec 'python3'"):
        found.kernelspecs.find("python3")


def test_an_image_without_python_has_ours_by_a_name_that_says_so(tmp_path: Path) -> None:
    found = look_inside(IMAGE, {"PATH": str(tmp_path)})
    said = found.kernelspecs.all()["python3"]["spec"]["display_name"]
    assert "the image has no Python" in said
    assert found.kernelspecs.find("python3")[0]["argv"][0] == sys.executable


def test_an_image_whose_python_has_no_kernel_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = conda(tmp_path, False)
    monkeypatch.setenv("PATH", str(home / "bin"))
    settings = AgentSettings(
        gateway_url="http://127.0.0.1:1", node="n", data=tmp_path / "data", inside=IMAGE
    )
    node = offer(settings)
    assert node.kernelspecs.all() == {}
    with pytest.raises(
        ImageUnusable, match=f"{IMAGE} has no Jupyter kernel: .* no ipykernel"
    ) as no:
        node.place("a", 1, image=IMAGE)
    assert "pip install ipykernel" in str(no.value.hint)
