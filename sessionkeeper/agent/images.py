"""The images on a node: fetched once, looked at once, shared by all sessions that run in them."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sessionkeeper.agent import probe, rootfs
from sessionkeeper.agent.layers import Layers
from sessionkeeper.agent.oci import CONTROL_DIR, HOME, Bind, Container
from sessionkeeper.agent.roots import (
    ImageKernelspecs,
    ImageRoot,
    file_in,
    started_by,
    user_of,
)
from sessionkeeper.agent.runc import Runc
from sessionkeeper.images import manifest as manifests
from sessionkeeper.images.errors import ImageUnknown, ImageUnusable
from sessionkeeper.images.manifest import ImageConfig, ImageManifest, Layer
from sessionkeeper.images.reference import Reference, parse
from sessionkeeper.images.registry import Registry

FETCHES = 3
"""Layers that are fetched at a time: fetching waits for a network, unpacking for a processor."""

SYSTEM = {
    "", "bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "proc", "run", "sbin", "sys", "usr",
    "var",
}  # fmt: skip
"""Directories that are no workspace, whatever an image says."""

_NO_PYTHON = 3
_HINT = (
    "Binder images have both: `pip install ipykernel` in it, and an entrypoint, if any, that ends"
    ' with `exec "$@"`'
)
_LOOK = f"""
for python in {" ".join(probe.PYTHONS)}; do
  path=$(command -v "$python") && "$path" -E "$0" && exit 0
done
exit {_NO_PYTHON}
"""


@dataclass(frozen=True)
class Found:
    """What is known of an image that is here: written beside its layers."""

    image: str
    layers: tuple[str, ...]
    config: dict[str, Any]
    said: dict[str, Any]


class NodeImages:
    """The images on this node, below ``directory``. The gateway at ``gateway`` (its URL) has those
    that are in no registry; of those that are ``mounted`` somewhere only what is said of them is
    fetched.

    Thread-safe; calls block.
    """

    def __init__(
        self,
        directory: Path,
        gateway: str,
        runc: Runc,
        mounted: Mapping[str, Path] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._gateway = gateway
        self._runc = runc
        self._mounted = mounted or {}
        self._layers = Layers(directory / "of")
        self._turns: dict[str, threading.Lock] = defaultdict(threading.Lock)

    def here(self) -> list[str]:
        """Return the digests of the images that are here."""
        return [f"sha256:{file.stem}" for file in self._directory.glob("*.json")]

    def have(self, image: str, ticket: str = "") -> dict[str, float]:
        """Fetch the image, if it is not here; the seconds that each part of that took. The gateway
        is shown ``ticket``. Raises :class:`~sessionkeeper.images.errors.ImageError`.
        """
        wanted = parse(image)
        with self._turns[wanted.digest or image]:
            if wanted.digest and self._file(wanted.digest).exists():
                return {}
            return self._fetch(image, wanted, ticket)

    def root(self, image: str) -> ImageRoot:
        """Return what sessions run in: an image that is here, by its digest. Raises
        ``ImageUnknown``.
        """
        wanted = parse(image)
        try:
            facts = json.loads(self._file(wanted.digest).read_text())
        except FileNotFoundError:
            raise ImageUnknown(f"this node has no image {image}") from None
        config = ImageConfig(
            **{**facts["config"], "entrypoint": tuple(facts["config"]["entrypoint"])}
        )
        return self._root(Found(facts["image"], tuple(facts["layers"]), {}, facts["said"]), config)

    def _fetch(self, image: str, wanted: Reference, ticket: str) -> dict[str, float]:
        began = time.monotonic()
        kept = Registry(f"{self._gateway}/images", f"token {ticket}")
        registry = Registry.at(wanted.host) if wanted.host else kept
        digest, data = registry.manifest(wanted)
        wanted = wanted.pinned(digest)
        said = manifests.manifest(data)
        config = manifests.config(registry.document(wanted, said.config))
        layers = self._layers_of(image, registry, wanted, said)
        fetched = time.monotonic()
        found = Found(str(wanted), layers, asdict(config), {})
        found = replace(found, said=self._look(self._root(found, config)))
        part = self._file(digest).with_suffix(".part")
        part.write_text(json.dumps(asdict(found)))
        part.replace(self._file(digest))
        return {"fetch": fetched - began, "look": time.monotonic() - fetched}

    def _layers_of(
        self, image: str, registry: Registry, wanted: Reference, said: ImageManifest
    ) -> tuple[str, ...]:
        """Have the image's layers here; their names, the uppermost first."""
        if image in self._mounted:
            whole = Layer(wanted.digest, 0, "")
            if not self._layers.has(whole):
                self._layers.copy(whole, self._mounted[image])
            return (self._layers.name(whole),)
        missing = dict.fromkeys(one for one in said.layers if not self._layers.has(one))
        with ThreadPoolExecutor(FETCHES, "layers") as pool:
            list(pool.map(lambda one: self._add(registry, wanted, one), missing))
        return tuple(dict.fromkeys(self._layers.name(one) for one in reversed(said.layers)))

    def _add(self, registry: Registry, image: Reference, layer: Layer) -> None:
        with self._turns[layer.digest]:  # another image may have the same one
            if not self._layers.has(layer):
                self._layers.add(layer, registry.blob(image, layer.digest))

    def _root(self, found: Found, config: ImageConfig) -> ImageRoot:
        def read(path: str) -> str:
            return file_in(self._layers.directory, found.layers, path)

        try:
            who = user_of(config.user, read("etc/passwd"), read("etc/group"))
        except ImageUnusable as error:
            raise ImageUnusable(f"{found.image} cannot be used: {error}") from None
        user, group, name, home = who
        home = config.env.get("HOME") or home or HOME
        top = config.workdir.strip("/").partition("/")[0]
        python = str(found.said.get("python", ""))
        specs = ImageKernelspecs(found.image, python, found.said.get("kernelspecs", {}))
        return ImageRoot(
            image=found.image,
            directory=self._layers.directory,
            layers=found.layers,
            config=config,
            python=python,
            kernelspecs=specs,
            user=user,
            group=group,
            user_name=name,
            home=home,
            workspace=home if top in SYSTEM else config.workdir.rstrip("/"),
        )

    def _look(self, root: ImageRoot) -> dict[str, Any]:
        """Ask the image itself what it has."""
        with self._scratch(root) as layers, tempfile.TemporaryDirectory() as given:
            Path(given).chmod(0o755)
            shutil.copyfile(probe.__file__, Path(given) / "probe.py")
            container = Container(
                name=f"look+{layers.base.name}",
                rootfs=layers.root,
                network=Path("/"),
                cgroup=f"/sessionkeeper-look/{layers.base.name}",
                argv=(*started_by(root.config), "/bin/sh", "-c", _LOOK, f"{CONTROL_DIR}/probe.py"),
                env=root.env(),
                binds=(Bind(Path(given), CONTROL_DIR),),
                user=root.user,
                group=root.group,
                user_name=root.user_name,
                home=root.home,
                cwd="/",
            )
            code, printed = self._runc.ask(container)
        for line in printed.splitlines():
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict) and said.keys() >= {"python", "kernelspecs"}:
                    if said["kernelspecs"]:
                        return said
                    why = f"has no Jupyter kernel: its Python {said['python']} has no ipykernel"
                    raise ImageUnusable(f"{root.image} {why}", hint=_HINT)
        why = "has no Python >= 3.8 with pyzmq" if code == _NO_PYTHON else "runs no command"
        raise ImageUnusable(f"{root.image} {why}", hint=_HINT)

    @contextlib.contextmanager
    def _scratch(self, root: ImageRoot) -> Iterator[rootfs.Layers]:
        with tempfile.TemporaryDirectory(prefix=".look-", dir=self._directory) as base:
            Path(base).chmod(0o711)
            layers = rootfs.Layers(Path(base))
            root.create(layers.upper)
            root.mount(layers)
            try:
                yield layers
            finally:
                subprocess.run(["umount", "-l", str(layers.root)], capture_output=True)

    def _file(self, digest: str) -> Path:
        return self._directory / f"{digest.removeprefix('sha256:')}.json"
