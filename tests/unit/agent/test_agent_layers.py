"""Layers of images, unpacked: as the archive says, and as an overlay needs it."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from pathlib import Path

import pytest

from sessionkeeper.agent.layers import Layers, unpacked
from sessionkeeper.images.errors import ImageDamaged
from sessionkeeper.images.manifest import Layer
from sessionkeeper.images.writing import File, layer

pytestmark = pytest.mark.needs("root")


def described(data: bytes, packed: str = "") -> Layer:
    return Layer(f"sha256:{hashlib.sha256(data).hexdigest()}", len(data), packed)


def unpack(place: Path, files: list[File], packed: str = "") -> Path:
    data = layer(files, packed)
    layers, one = Layers(place), described(data, packed)
    layers.add(one, (data[at : at + 1000] for at in range(0, len(data), 1000)))
    return place / layers.name(one)


@pytest.mark.parametrize("packed", ["", "gzip", "zstd"])
def test_layer_has_what_its_archive_has(tmp_path: Path, packed: str):
    files = [
        File("srv", mode=0o750, user=7),
        File("srv/a", b"one" * 10_000, 0o4755, user=1000),
        File("srv/link", link="/etc/passwd"),
    ]
    place = unpack(tmp_path, files, packed)
    assert (place / "srv/a").read_bytes() == b"one" * 10_000
    facts = (place / "srv/a").lstat()
    assert (facts.st_uid, stat.S_IMODE(facts.st_mode)) == (1000, 0o4755)
    assert ((place / "srv").stat().st_uid, stat.S_IMODE((place / "srv").stat().st_mode)) == (
        7,
        0o751,
    )
    assert os.readlink(place / "srv/link") == "/etc/passwd"
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_whiteouts_are_written_as_an_overlay_has_them(tmp_path: Path):
    place = unpack(
        tmp_path,
        [
            File("d"),
            File("d/.wh.gone", b""),
            File("new"),
            File("new/.wh..wh..opq", b""),
            File("new/x", b"1"),
            File("e"),
            File("e/.wh.again", b""),
            File("e/again"),
        ],
    )
    gone = (place / "d/gone").lstat()
    assert stat.S_ISCHR(gone.st_mode)
    assert gone.st_rdev == 0
    assert os.getxattr(place / "new", "trusted.overlay.opaque") == b"y"
    assert os.getxattr(place / "e/again", "trusted.overlay.opaque") == b"y"
    assert not [name for _, _, names in os.walk(place) for name in names if ".wh." in name]


def test_archive_cannot_write_outside_and_brings_no_device(tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    place = unpack(
        tmp_path / "layers",
        [
            File("way", link=str(outside)),
            File("/absolute", b"x"),
            File("disk", kind=tarfile.BLKTYPE),
            File("null", kind=tarfile.CHRTYPE),
        ],
    )
    assert (place / "absolute").exists()
    assert not (place / "disk").exists()
    assert not (place / "null").exists()
    with pytest.raises(ImageDamaged):
        unpack(tmp_path / "layers", [File("way", link=str(outside)), File("way/in", b"x")])
    with pytest.raises(ImageDamaged):
        unpack(tmp_path / "layers", [File("../up", b"x")])
    assert list(outside.iterdir()) == []


def test_nothing_is_left_of_a_layer_that_breaks_off(tmp_path: Path):
    data = layer([File("a", b"x" * 100_000)])
    layers, one = Layers(tmp_path), described(data)
    with pytest.raises(ImageDamaged):
        layers.add(one, [data[:50_000]])
    assert not layers.has(one)
    assert list(tmp_path.iterdir()) == []
    layers.add(one, [data])
    assert layers.has(one)


@pytest.mark.parametrize("packed", ["gzip", "zstd"])
def test_what_is_not_compressed_as_said_is_damaged(packed: str):
    with pytest.raises(ImageDamaged):
        list(unpacked([b"no archive at all" * 10], packed))
