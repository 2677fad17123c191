"""The images that a gateway keeps, in a directory.

blobs/sha256/<hex>      manifests, configurations and layers, each once
names/<name>/:<tag>     the digest of the manifest that has that name and tag; its time is when it
                        was used last

What is there under a digest never changes; a name is put in place last, in one step. So any number
of processes can add images and read them. A lock keeps blobs from being deleted meanwhile.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sessionkeeper.images.errors import ImageDamaged, ImageUnknown
from sessionkeeper.images.manifest import MANIFESTS, chosen, manifest
from sessionkeeper.images.reference import Reference, is_digest


@dataclass(frozen=True)
class KeptImage:
    """An image that has a name. ``parts``: bytes of each of its blobs, by digest; ``used_at`` is in
    Unix seconds.
    """

    name: Reference
    digest: str
    parts: dict[str, int]
    used_at: float


class ImageStore:
    """Images below ``directory``, which is made when the first one is added."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def resolve(self, image: Reference) -> str:
        """Return the digest of the image's manifest. Raises ``ImageUnknown``."""
        digest = image.digest or self._named(image)
        if digest is None or not self.blob(digest).exists():
            raise ImageUnknown(f"no image {image} is kept here")
        return digest

    def has(self, image: Reference) -> bool:
        """Whether the image is here with all its layers."""
        try:
            return self._complete(self.resolve(image))
        except (ImageUnknown, ImageDamaged):
            return False

    def blob(self, digest: str) -> Path:
        """Return where the blob of that digest is, if it is here."""
        if not is_digest(digest):
            raise ImageUnknown(f"{digest!r} is no digest")
        return self.directory / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def parts(self, digest: str) -> frozenset[str]:
        """Return the digests of all that the image with this digest consists of. Raises
        ``ImageUnknown``, ``ImageDamaged``.
        """
        try:
            said = manifest(self.blob(digest).read_bytes())
        except FileNotFoundError:
            raise ImageUnknown(f"no image {digest} is kept here") from None
        return frozenset((digest, said.config, *(layer.digest for layer in said.layers)))

    @staticmethod
    def media_type(data: bytes) -> str:
        """Return what kind of manifest it is."""
        return str(json.loads(data).get("mediaType") or MANIFESTS[0])

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        """A directory for a tool to write one image to, in the OCI layout; what it finds there of
        other images' blobs it need not write. Then :meth:`name` it.
        """
        blobs = self.directory / "blobs"
        (blobs / "sha256").mkdir(parents=True, exist_ok=True)
        with (
            self._lock(fcntl.LOCK_SH),
            tempfile.TemporaryDirectory(prefix=".incoming-", dir=self.directory) as place,
        ):
            (Path(place) / "blobs").symlink_to(blobs)
            yield Path(place)

    def name(self, layout: Path, image: Reference) -> str:
        """Give the one image of an OCI layout whose blobs are here its name; its digest. Raises
        ``ImageDamaged``.
        """
        try:
            index = (layout / "index.json").read_bytes()
        except OSError:
            raise ImageDamaged(f"nothing was written for {image}") from None
        digest = chosen(index)
        while digest is not None and (inner := chosen(self.blob(digest).read_bytes())):
            digest = inner
        if digest is None or not self._complete(digest):
            raise ImageDamaged(f"what was written for {image} is not complete")
        file = self._name_file(image)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{os.getpid()}.part")
        part.write_text(digest)
        part.replace(file)
        return digest

    def forget(self, image: Reference) -> None:
        """Take the name away. What of the image nothing else has stays until :meth:`sweep`."""
        self._name_file(image).unlink(missing_ok=True)

    def touch(self, image: Reference) -> None:
        """Note that it is used now, under this name."""
        with suppress(FileNotFoundError):
            os.utime(self._name_file(image))

    def images(self) -> list[KeptImage]:
        """Return all that have a name."""
        found = []
        for file in self._names():
            name = str(file.parent.relative_to(self.directory / "names"))
            with suppress(FileNotFoundError):  # forgotten meanwhile
                digest, used_at = file.read_text(), file.stat().st_mtime
                image = Reference("", name, file.name.removeprefix(":"))
                found.append(KeptImage(image, digest, self._sizes(digest), used_at))
        return found

    def sweep(self, used: frozenset[str] = frozenset()) -> int | None:
        """Delete blobs of no image that has a name or whose manifest's digest is in ``used``; the
        bytes they had. None: somebody is adding an image, so nothing is deleted.
        """
        try:
            with self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB):
                return self._sweep(used)
        except BlockingIOError:
            return None

    @contextmanager
    def _lock(self, how: int) -> Iterator[None]:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / ".lock").open("a") as file:
            fcntl.flock(file, how)
            yield

    def _sizes(self, digest: str) -> dict[str, int]:
        try:
            return {part: self.blob(part).stat().st_size for part in self.parts(digest)}
        except (ImageUnknown, ImageDamaged, FileNotFoundError):
            return {}

    def _sweep(self, used: frozenset[str]) -> int:
        kept: set[str] = set()
        for digest in {*used, *(file.read_text() for file in self._names())}:
            if self.blob(digest).exists():
                kept |= self.parts(digest)
        freed = 0
        for blob in (self.directory / "blobs" / "sha256").glob("*"):
            if f"sha256:{blob.name}" not in kept:
                freed += blob.stat().st_size
                blob.unlink()
        for left in self.directory.glob(".incoming-*"):
            shutil.rmtree(left, ignore_errors=True)
        return freed

    def _named(self, image: Reference) -> str | None:
        try:
            return self._name_file(image).read_text()
        except OSError:
            return None

    def _name_file(self, image: Reference) -> Path:
        # No part of a name begins with a colon, so no tag is taken for a part.
        return self.directory / "names" / image.name / f":{image.tag}"

    def _names(self) -> list[Path]:
        return list((self.directory / "names").rglob(":*"))

    def _complete(self, digest: str) -> bool:
        if not self.blob(digest).exists():
            return False
        return all(self.blob(part).exists() for part in self.parts(digest))
