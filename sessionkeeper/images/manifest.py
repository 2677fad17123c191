"""What an image says of itself: its manifest and its configuration. Pure.

Source: OCI image specification 1.1 (manifest.md, image-index.md, config.md); Docker's "schema 2" is
the same under other media types.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sessionkeeper.images.errors import ImageDamaged, ImageUnusable
from sessionkeeper.images.reference import is_digest

MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
ARCHITECTURE = "amd64"
LARGEST_DOCUMENT = 4 << 20
"""Bytes of a manifest or a configuration, at most: registries take no more."""


@dataclass(frozen=True)
class Layer:
    """One layer, a tar archive. ``packed`` is ``""``, ``gzip`` or ``zstd``."""

    digest: str
    size: int
    packed: str


@dataclass(frozen=True)
class ImageManifest:
    """``layers`` from the lowest up."""

    config: str
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class ImageConfig:
    """What a container of the image is to be. ``user`` is ``NAME|ID[:GROUP]``, or empty."""

    user: str
    env: dict[str, str]
    workdir: str
    entrypoint: tuple[str, ...]


def chosen(index: bytes) -> str | None:
    """Return the digest of the image for this architecture, when ``index`` lists several; None: it
    is an image's own manifest. Raises ``ImageDamaged``, ``ImageUnusable``.
    """
    said = _object(index)
    if "manifests" not in said:
        return None
    for one in _list(said, "manifests"):
        platform = one.get("platform") or {}
        if platform.get("os", "linux") == "linux" and platform.get("architecture") in (
            ARCHITECTURE,
            None,
        ):
            return _digest(one)
    raise ImageUnusable(f"the image has nothing for linux/{ARCHITECTURE}")


def manifest(data: bytes) -> ImageManifest:
    """Read a manifest. Raises ``ImageDamaged``."""
    said = _object(data)
    layers = [
        Layer(_digest(one), int(one.get("size", 0)), _packed(str(one.get("mediaType", ""))))
        for one in _list(said, "layers")
    ]
    config = said.get("config")
    if not isinstance(config, dict):
        raise ImageDamaged("the manifest has no configuration")
    return ImageManifest(_digest(config), tuple(layers))


def config(data: bytes) -> ImageConfig:
    """Read a configuration. Raises ``ImageDamaged``."""
    inner = _object(data).get("config") or {}
    if not isinstance(inner, dict):
        raise ImageDamaged("the image's configuration is no object")
    pairs = (str(one).partition("=") for one in inner.get("Env") or ())
    return ImageConfig(
        user=str(inner.get("User") or ""),
        env={name: value for name, _, value in pairs if name},
        workdir=str(inner.get("WorkingDir") or ""),
        entrypoint=tuple(str(word) for word in inner.get("Entrypoint") or ()),
    )


def _packed(media_type: str) -> str:
    for ending, packed in {"gzip": "gzip", "zstd": "zstd"}.items():
        if media_type.endswith(ending):
            return packed
    return ""


def _object(data: bytes) -> dict[str, Any]:
    try:
        said = json.loads(data)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise ImageDamaged("a document of the image is no JSON object")
    return said


def _list(said: dict[str, Any], what: str) -> list[dict[str, Any]]:
    found = said.get(what)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ImageDamaged(f"the manifest has no {what}")
    return found


def _digest(descriptor: dict[str, Any]) -> str:
    digest = str(descriptor.get("digest"))
    if not is_digest(digest):
        raise ImageDamaged(f"{digest!r} is no digest that is known here")
    return digest
