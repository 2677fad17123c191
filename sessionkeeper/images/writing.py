"""Makes small images by the OCI image specification out of files, without builder or network."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from sessionkeeper.images.reference import Reference, parse
from sessionkeeper.images.store import ImageStore


@dataclass(frozen=True)
class File:
    """An entry of a layer. `content`: bytes, the path of a file, None for a directory; `link`: a
    symbolic link, whatever the rest says.
    """

    path: str
    content: bytes | Path | None = None
    mode: int = 0o644
    user: int = 0
    link: str = ""
    kind: bytes = b""


def layer(files: Iterable[File], packed: str = "") -> bytes:
    """Return a layer with these entries, in memory; ``packed`` as in ``manifest.Layer``."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for one in files:
            info = tarfile.TarInfo(one.path)
            info.mode, info.uid, info.gid = one.mode, one.user, one.user
            if one.kind:
                info.type = one.kind
                tar.addfile(info)
            elif one.link:
                info.type, info.linkname = tarfile.SYMTYPE, one.link
                tar.addfile(info)
            elif one.content is None:
                info.type, info.mode = tarfile.DIRTYPE, one.mode | 0o111
                tar.addfile(info)
            elif isinstance(one.content, bytes):
                info.size = len(one.content)
                tar.addfile(info, io.BytesIO(one.content))
            else:
                info.size = one.content.stat().st_size
                with one.content.open("rb") as file:
                    tar.addfile(info, file)
    data = archive.getvalue()
    if packed == "gzip":
        return gzip.compress(data, 1)
    return zstandard.compress(data, 1) if packed == "zstd" else data


def put(
    store: ImageStore,
    name: str,
    layers: Iterable[tuple[bytes, str]],
    config: Mapping[str, Any] | None = None,
) -> Reference:
    """Add an image of layers (archive, how it is packed) to the store; its name with its digest."""
    described = []
    with store.incoming() as place:
        for data, packed in layers:
            kind = "application/vnd.oci.image.layer.v1.tar" + (f"+{packed}" if packed else "")
            described.append(_blob(store, data, kind))
        said = {"architecture": "amd64", "os": "linux", "config": dict(config or {})}
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _blob(
                store, json.dumps(said).encode(), "application/vnd.oci.image.config.v1+json"
            ),
            "layers": described,
        }
        top = _blob(store, json.dumps(manifest).encode(), str(manifest["mediaType"]))
        (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
        image = parse(name)
        return image.pinned(store.name(place, image))


def _blob(store: ImageStore, data: bytes, kind: str) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    store.blob(digest).write_bytes(data)
    return {"mediaType": kind, "digest": digest, "size": len(data)}
