"""Kernels' journals in the store: with each checkpoint, what they hold then.

So a gateway on an empty disk has, beside the kernels, what they were asked and what they said. A
journal's files only grow, and are cut into pieces at fixed places: a checkpoint adds the pieces
that are new, and the last one of each file once more.

In the manifest's `meta`, `journals` is `{"kernels": {kernel id: [chunk id]}, "packs": [pack id]}`,
in hex. The chunks of a kernel are JSON when they are joined: `{"origin", "files": {name: [size,
[chunk id]]}}`, where `origin` is for `gateway.journal.begin`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

from checkpoint.chunks import MAX_CHUNK
from checkpoint.errors import Damaged
from checkpoint.manifest import Body, Manifest
from checkpoint.reader import Reader
from checkpoint.repository import Repository
from checkpoint.writer import Writer
from gateway import journal
from gateway.journal import Snapshot

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

log = logging.getLogger(__name__)

META = "journals"

PIECE = 256 << 10
"""Bytes of a journal's file in a chunk: of the last one so much goes up again, at most."""

_FILE = re.compile(r"(inputs|outputs)-\d{20}\.log")


class Journals:
    """Of one session. ``place`` is a directory of its own, on the disk of the gateway's journals.

    Everything is done in one thread, one after the other.
    """

    def __init__(self, repository: Repository, place: Path) -> None:
        self._repository = repository
        self._place = place
        self._thread = ThreadPoolExecutor(1, "journals")
        self._writer: Writer | None = None
        self._stored: dict[tuple[str, str], list[bytes]] = {}

    async def ahead(self, snapshots: Mapping[str, Snapshot], base: Manifest | None) -> None:
        """Have most of them in the store before :meth:`save` is called. Failing is no matter."""
        with contextlib.suppress(Exception):
            await self._run(self._ahead, snapshots, base)

    async def save(
        self, snapshots: Mapping[str, Snapshot], base: Manifest | None, body: Body
    ) -> Body:
        """``body`` with the journals of its kernels; ``base`` is the checkpoint that it goes on
        from. It must be committed before the next one is saved, or :meth:`forget` be called.

        Raises what the store raises.
        """
        of = {kernel: found for kernel, found in snapshots.items() if kernel in body.processes}
        return await self._run(self._save, of, base, body)

    def forget(self) -> None:
        """What was saved last was not committed: it counts for nothing."""
        self._thread.submit(self._close)

    async def bring(
        self, manifest: Manifest, kernels: Iterable[str]
    ) -> tuple[dict[str, Path], list[str]]:
        """Directories with the journals of these kernels, for `Kernels.adopt` to take; and the
        kernels whose journals are damaged. Raises what the store raises.
        """
        return await self._run(self._bring, manifest, list(kernels))

    async def _run(self, do: Callable[[*Ts], T], *arguments: *Ts) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, do, *arguments)

    # -- in the thread -------------------------------------------------------------------------

    def _ahead(self, snapshots: Mapping[str, Snapshot], base: Manifest | None) -> None:
        try:
            writer = self._open(base)
            for kernel, snapshot in snapshots.items():
                self._add(writer, kernel, snapshot)
        except BaseException:
            self._close()
            raise

    def _save(self, snapshots: Mapping[str, Snapshot], base: Manifest | None, body: Body) -> Body:
        try:
            writer = self._open(base)
            roots: dict[str, list[str]] = {}
            for kernel, snapshot in snapshots.items():
                files = self._add(writer, kernel, snapshot)
                data = json.dumps({"origin": snapshot.origin, "files": files}).encode()
                parts = (data[at : at + MAX_CHUNK] for at in range(0, len(data), MAX_CHUNK))
                roots[kernel] = [writer.add(part).hex() for part in parts]
            packs = writer.finish()
        except BaseException:
            self._close()
            raise
        known = {(kernel, path.name) for kernel, one in snapshots.items() for path, _ in one.files}
        self._stored = {key: chunks for key, chunks in self._stored.items() if key in known}
        said = {"kernels": roots, "packs": [pack.id.hex() for pack in packs]}
        return replace(
            body,
            packs=tuple(dict.fromkeys([*body.packs, *packs])),
            meta={**body.meta, META: said},
        )

    def _open(self, base: Manifest | None) -> Writer:
        if self._writer is None:
            named = set(base.meta.get(META, {}).get("packs", ())) if base is not None else set()
            packs = [pack for pack in base.packs if pack.id.hex() in named] if base else []
            repository = self._repository
            self._writer = Writer(repository.blobs, repository.keys, packs, threads=1)
        return self._writer

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        self._stored.clear()
        if writer is not None:
            writer.close()

    def _add(self, writer: Writer, kernel: str, snapshot: Snapshot) -> dict[str, Any]:
        files = {}
        for path, size in snapshot.files:
            with contextlib.suppress(FileNotFoundError):  # the oldest one went meanwhile
                chunks = self._file(writer, (kernel, path.name), path, size)
                files[path.name] = [size, [chunk.hex() for chunk in chunks]]
        return files

    def _file(self, writer: Writer, key: tuple[str, str], path: Path, size: int) -> list[bytes]:
        whole = self._stored.get(key, [])[: size // PIECE]
        if not writer.holds(whole):
            whole = []
        writer.keep(whole)
        chunks = list(whole)
        with path.open("rb") as file:
            file.seek(len(chunks) * PIECE)
            while (at := len(chunks) * PIECE) < size:
                chunks.append(writer.add(file.read(min(PIECE, size - at))))
        self._stored[key] = chunks[: size // PIECE]
        return chunks

    def _bring(self, manifest: Manifest, kernels: list[str]) -> tuple[dict[str, Path], list[str]]:
        shutil.rmtree(self._place, ignore_errors=True)
        roots: dict[str, list[str]] = manifest.meta.get(META, {}).get("kernels", {})
        found: dict[str, Path] = {}
        damaged: list[str] = []
        wanted = [kernel for kernel in kernels if kernel in roots]
        if not wanted:
            return found, damaged
        with self._repository.reader(manifest) as reader:
            for number, kernel in enumerate(wanted):
                place = self._place / str(number)
                place.mkdir(parents=True)
                try:
                    self._write(reader, roots[kernel], place)
                except (Damaged, ValueError, KeyError, TypeError) as error:
                    log.error("the journal of kernel %s: %s", kernel, error)
                    damaged.append(kernel)
                else:
                    found[kernel] = place
        return found, damaged

    def _write(self, reader: Reader, root: list[str], place: Path) -> None:
        said = json.loads(b"".join(reader.read(map(bytes.fromhex, root))))
        for name, (size, chunks) in said["files"].items():
            if not _FILE.fullmatch(name):
                raise ValueError(f"there is no file {name!r} in a journal")
            with (place / name).open("wb") as file:
                for data in reader.read(map(bytes.fromhex, chunks)):
                    file.write(data)
                if file.tell() != size:
                    raise ValueError(f"{name} has {file.tell()} bytes instead of {size}")
        journal.begin(place, said["origin"])
