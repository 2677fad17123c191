"""Names of images, and what images say of themselves."""

from __future__ import annotations

import json

import pytest

from sessionkeeper.agent.roots import started_by, user_of
from sessionkeeper.images import manifest
from sessionkeeper.images.errors import BadReference, ImageDamaged, ImageUnusable
from sessionkeeper.images.manifest import ImageConfig
from sessionkeeper.images.reference import Reference, parse

DIGEST = f"sha256:{'a' * 64}"
PASSWD = "root:x:0:0::/root:/bin/sh\njo:x:1000:100::/home/jo:/bin/sh\n"
GROUP = "root:x:0:\nusers:x:100:\n"


@pytest.mark.parametrize(
    ("text", "host", "name", "tag", "digest"),
    [
        ("binder-a:1", "", "binder-a", "1", ""),
        ("r2d/a-b", "", "r2d/a-b", "latest", ""),
        ("quay.io/x/y:2", "quay.io", "x/y", "2", ""),
        ("localhost:5000/x", "localhost:5000", "x", "latest", ""),
        (f"localhost/x:1@{DIGEST}", "localhost", "x", "1", DIGEST),
        (f"x@{DIGEST}", "", "x", "latest", DIGEST),
    ],
)
def test_name_of_an_image_is_read(text: str, host: str, name: str, tag: str, digest: str):
    assert parse(text) == Reference(host, name, tag, digest)
    assert parse(str(parse(text))) == parse(text)


@pytest.mark.parametrize(
    "text", ["", "UPPER", "a b", "x:", "x@sha256:1", "../x", "x/../y", "x:a/b", "/x", "x" * 300]
)
def test_what_is_no_name_is_refused_in_words(text: str):
    with pytest.raises(BadReference):
        parse(text)


def test_of_several_architectures_ours_is_taken():
    both = [
        {"digest": f"sha256:{letter * 64}", "platform": {"os": "linux", "architecture": name}}
        for letter, name in (("b", "arm64"), ("a", "amd64"))
    ]
    assert manifest.chosen(json.dumps({"manifests": both}).encode()) == DIGEST
    with pytest.raises(ImageUnusable):
        manifest.chosen(json.dumps({"manifests": both[:1]}).encode())
    assert manifest.chosen(b'{"layers": []}') is None


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"config": {"digest": "x"}, "layers": []}', b'{"layers": [1]}']
)
def test_what_is_no_manifest_is_damaged(data: bytes):
    with pytest.raises(ImageDamaged):
        manifest.manifest(data)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("jo", (1000, 100, "jo", "/home/jo")),
        ("1000", (1000, 100, "jo", "/home/jo")),
        ("1000:7", (1000, 7, "jo", "/home/jo")),
        ("jo:users", (1000, 100, "jo", "/home/jo")),
        ("4711", (4711, 4711, "jovyan", "/home/jovyan")),
        ("", (61000, 61000, "jovyan", "/home/jovyan")),
        ("root", (61000, 61000, "jovyan", "/home/jovyan")),
        ("0:0", (61000, 61000, "jovyan", "/home/jovyan")),
    ],
)
def test_user_is_the_images_but_never_root(said: str, found: tuple[int, int, str, str]):
    assert user_of(said, PASSWD, GROUP) == found


def test_user_that_the_image_does_not_know_is_named():
    with pytest.raises(ImageUnusable, match="nobody-here"):
        user_of("nobody-here", PASSWD, GROUP)
    with pytest.raises(ImageUnusable, match="none"):
        user_of("jo:none", PASSWD, GROUP)


def test_start_script_of_repo2docker_runs_without_its_process_between():
    config = ImageConfig(
        "jo", {"R2D_ENTRYPOINT": "/srv/start"}, "/", ("/usr/local/bin/repo2docker-entrypoint",)
    )
    command = started_by(config)
    assert command[-1] == "/srv/start"
    assert "repo2docker-entrypoint" not in " ".join(command)
    assert started_by(ImageConfig("", {}, "", ("tini", "--"))) == ("tini", "--")
