"""Images in a registry that wants a password: built ones go there, known ones come from there."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from images.registry import LocalRegistry, serve

from images import podman
from sessionkeeper.agent.offer import offer
from sessionkeeper.bench import own_image
from sessionkeeper.images.errors import ImageUnavailable, ImageUnknown
from sessionkeeper.images.reference import parse
from sessionkeeper.images.registry import Registry
from sessionkeeper.images.store import ImageStore
from sessionkeeper.launch.build import Builder
from sessionkeeper.launch.events import Event
from sessionkeeper.launch.launches import Launches, Wish
from sessionkeeper.launch.sources import Source, of_argument
from sessionkeeper.settings import AgentSettings

pytestmark = [
    pytest.mark.container,
    pytest.mark.needs("podman", "repo2docker", "git", "registry"),
]
DOCKERFILE = f"FROM {podman.BASE}\nENV PATH={own_image.ENV}/bin:/usr/bin:/bin\nUSER ann\n"


@dataclass
class Pipeline:
    """What builds and launches here, into the registry, and a repository that it does it with."""

    place: Path
    registry: LocalRegistry
    builder: Builder

    @property
    def source(self) -> Source:
        return of_argument(str(self.place / "course"), None, self.place)

    async def launch(self, **wish: bool) -> list[Event]:
        launches = Launches(cast(Any, None), self.builder, cast(Any, None))
        asked = launches.launch(self.source, Wish(build_only=True, **wish))
        return [event async for event in asked]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    place = tmp_path_factory.mktemp("registry")
    place.chmod(0o755)
    (place / "course").mkdir()
    (place / "course" / "Dockerfile").write_text(DOCKERFILE)
    known = podman.environ(place / "podman")
    podman.import_base(known)
    with serve(place / "registry") as registry, pytest.MonkeyPatch.context() as patch:
        for name, value in known.items():
            patch.setenv(name, value)
        patch.delenv("REGISTRY_AUTH_FILE", raising=False)
        patch.setenv("DOCKER_CONFIG", str(place / "login"))
        registry.login(place / "login")
        builder = Builder(ImageStore(place / "images"), f"{registry.host}/binder/")
        yield Pipeline(place, registry, builder)
    podman.unmount(place / "podman")


def phases(events: list[Event]) -> list[str]:
    return list(dict.fromkeys(event.phase for event in events))


async def test_what_is_built_is_pushed_and_what_the_registry_has_is_not_built(
    pipeline: Pipeline,
) -> None:
    heard = await pipeline.launch()
    assert phases(heard) == ["waiting", "fetching", "building", "pushing", "ready"], heard
    image = parse(heard[-1].more["imageName"])
    assert image.host == pipeline.registry.host
    assert image.name.startswith("binder/r2d-course-")
    assert Registry.at(image.host).resolve(image) == image.digest
    assert not (pipeline.place / "images").exists(), "the registry keeps it"

    again = await pipeline.launch()
    assert phases(again) == ["ready"]
    assert again[-1].more == heard[-1].more

    # A node has it from there, with what somebody has logged in with on it.
    settings = AgentSettings(
        gateway_url="http://127.0.0.1:1", node="n", data=pipeline.place / "n", runtime="container"
    )
    node = offer(settings)
    try:
        assert node.images_here is not None
        assert node.images_here.have(str(image)).keys() == {"fetch", "look"}
        assert node.images_here.here() == [image.digest]
    finally:
        subprocess.run(["umount", str(pipeline.place / "n" / "images")], check=False)


async def test_who_is_not_let_in_is_told_to_log_in(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    heard = await pipeline.launch(rebuild=True)
    assert heard[-1].phase == "failed"
    assert "was not pushed" in heard[-1].message
    assert f"podman login {pipeline.registry.host}" in heard[-1].message
    with pytest.raises(ImageUnknown, match="shows it to nobody here"):
        Registry.at(pipeline.registry.host).resolve(parse(f"{pipeline.registry.host}/a/b:1"))
    pipeline.registry.login(tmp_path, password="wrong")
    heard = await pipeline.launch(rebuild=True)
    assert heard[-1].phase == "failed"
    assert "unauthorized" in "".join(event.message for event in heard)


async def test_a_registry_that_does_not_answer_is_no_reason_to_build(pipeline: Pipeline) -> None:
    away = Builder(ImageStore(pipeline.place / "images"), "127.0.0.1:1/binder/")
    launches = Launches(cast(Any, None), away, cast(Any, None))
    heard = [event async for event in launches.launch(pipeline.source, Wish(build_only=True))]
    assert phases(heard) == ["failed"]
    assert heard[-1].more == {"code": ImageUnavailable.code}
