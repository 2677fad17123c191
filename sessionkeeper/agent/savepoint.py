"""Taking a session's checkpoint on its node, and bringing one back: the ``criu`` engine's way.

The kernels stand still only while memory is looked at and while what changed in the file
tree since a pass just before is read. Hashing, sealing and sending happen after they run again.
Every call here blocks.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

from checkpoint import criu, files
from checkpoint.blobs import BlobStore, Remembering
from checkpoint.keys import SessionKeys
from checkpoint.manifest import Body, Manifest, Part, decode_manifest
from checkpoint.packs import PackRef
from checkpoint.reader import Reader
from checkpoint.writer import Writer
from sessionkeeper.agent import carried
from sessionkeeper.agent.ahead import Ahead
from sessionkeeper.agent.arrivals import Arrivals
from sessionkeeper.agent.hosted import HostedKernel
from sessionkeeper.agent.place import Place, Slot
from sessionkeeper.agent.staging import Staged, images_of, stage
from sessionkeeper.agent.stopwatch import Stopwatch
from sessionkeeper.agent.taken import Cut, Saved


class Savepoints:
    """The checkpoints of one session on this node. ``images`` is a directory on tmpfs of its
    own.
    """

    def __init__(self, store: BlobStore, keys: SessionKeys, images: Path) -> None:
        self._place: Place
        self._store = store
        self._opening = Remembering(store)  # for all that reads while the session is brought here
        self._keys = keys
        self._images = images
        self._ahead = Ahead(images)
        self._pool = ThreadPoolExecutor(4, "savepoint")
        self._writer: Future[Writer] | None = None
        self._begins_with: tuple[PackRef, ...] = ()
        self._known: dict[str, Future[criu.Image]] = {}
        self._beside: dict[str, files.Tree | None] = {}
        self._tree: files.Tree | None = None
        self._in_use: frozenset[bytes] = frozenset()
        self._round = 0
        self._packs: tuple[PackRef, ...] = ()
        self.arrivals = Arrivals()
        self._hurried = threading.Event()
        images.mkdir(parents=True, exist_ok=True)

    def settle(self, place: Place, store: BlobStore) -> None:
        """From now on the session is in ``place`` and its objects are reached through ``store``."""
        self._place = place
        self._store = self._opening.store = store

    def load(self, session: str, number: int) -> Manifest:
        """Read a manifest. Raises ``CheckpointError``."""
        data = self._store.get(f"manifests/{number:08d}")
        return decode_manifest(data, self._keys, session, number)

    # -- taking one ------------------------------------------------------------------------------

    def prepare(self, kernels: Iterable[HostedKernel], hurried: bool = False) -> None:
        """Do what can be done before a cut of ``kernels``, while everything runs: read and store
        what changed in the file tree and, unless it is ``hurried``, what is new of large kernels,
        and have memory at hand.

        Raises ``DumpFailed`` when there is too little of that, and ``CheckpointError``.
        """
        reserving = self._pool.submit(
            lambda: self._ahead.prepare(
                self._place, self._open_writer(), kernels, self._before, hurried
            )
        )
        try:
            self._tree = self._scan(copy=False)
        finally:
            reserving.result()

    def unprepare(self) -> None:
        """There is no cut, or no more: memory at hand for it is given back."""
        self._ahead.release()

    def cut(
        self,
        kernels: Iterable[HostedKernel],
        meta: Callable[[], Mapping[str, Any]],
        final: bool,
        namespaces: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Cut:
        """Stop the kernels where they stand, copy them, and let them go on unless it is ``final``.

        With ``namespaces`` (what to note of each kernel) only the tree is copied: what there is of
        the kernels is in it.

        Raises ``DumpFailed``; the kernels go on then.
        """
        try:
            return self._cut(tuple(kernels), meta, final, namespaces)
        finally:
            self.unprepare()

    def _cut(
        self,
        kernels: tuple[HostedKernel, ...],
        meta: Callable[[], Mapping[str, Any]],
        final: bool,
        namespaces: Mapping[str, Mapping[str, Any]] | None,
    ) -> Cut:
        slots = [k.slot for k in kernels]
        self._round += 1
        dumped = kernels if namespaces is None else ()
        clock = Stopwatch()
        began = time.monotonic()
        done = False
        dumps: list[Future[criu.Dump]] = []
        try:
            self._place.freeze(slots)
            clock.lap("freeze")
            dumps = [self._pool.submit(self._dump, k.slot) for k in dumped]
            # Remembered, so that the next pass before a cut does not take them for left out.
            self._in_use = self._place.in_use(slots)
            tree = self._scan(copy=True, reread=self._place.written_through(slots))
            clock.lap("files")
            taken = [dump.result() for dump in dumps]
            images = {k.kernel_id: dump for k, dump in zip(dumped, taken, strict=True)}
            self._ahead.brought(images)
            for dump in taken:
                criu.note_open_files(dump.directory, self._place.root)
                criu.keep_locks(dump.directory)
            clock.lap("dump")
            facts = meta()
            done = True
        finally:
            wait(dumps)  # one has failed perhaps, and the others still read and write
            if not (final and done):
                self._place.thaw(slots)
            if not done:
                self._discard_round()
        pause = time.monotonic() - began
        return Cut(kernels, images, tree, facts, pause, clock.laps, namespaces or {})

    def _dump(self, slot: Slot) -> criu.Dump:
        where = self._images / f"{self._round}" / slot.name
        return self._place.dump(slot, where, *self._ahead.for_dump(self._place, slot))

    def save(self, cut: Cut, compared: Callable[[], None] = lambda: None) -> Saved:
        """Store what was cut; ``compared`` is called when only sending is left. Raises
        ``CheckpointError``; what is committed stays as it is.
        """
        clock = Stopwatch(cut.seconds)
        writer = self._open_writer()
        before = writer.written_bytes
        try:
            images = {
                k.kernel_id: criu.encode(writer, cut.images[k.kernel_id], self._before(k.kernel_id))
                for k in cut.kernels
                if k.kernel_id in cut.images
            }
            clock.lap("encode")
            root = cut.tree.store(writer)
            beside = {
                kernel_id: dumped.store(writer, self._beside.get(kernel_id))
                for kernel_id, dumped in cut.beside.items()
            }
            compared()
            packs = writer.finish()
            clock.lap("upload")
        except BaseException:
            writer.abort()
            raise
        finally:
            self._discard_round()
        self._known = {kernel_id: _done(image) for kernel_id, image in images.items()}
        self._tree = cut.tree
        self._beside = {kernel_id: tree for kernel_id, (tree, _) in beside.items()}
        others = {kernel_id: part for kernel_id, (_, part) in beside.items()}
        processes = {
            k.kernel_id: Part("criu", images[k.kernel_id].root, k.record(), others.get(k.kernel_id))
            for k in cut.kernels
            if k.kernel_id in images
        }
        processes |= {k: Part("namespace", None, detail) for k, detail in cut.namespaces.items()}
        body = Body(packs, root, processes, dict(cut.meta))
        return Saved(body, cut.pause, writer.written_bytes - before, clock.laps)

    @property
    def goes_on(self) -> bool:
        """Whether the store has some of the kernels' memory."""
        return bool(self._known)

    # -- bringing one back -----------------------------------------------------------------------

    def stage(self, session: str, number: int, lazy_above: int | None = None) -> Staged:
        """Bring the images of a checkpoint here, whole. Those above ``lazy_above`` bytes, which can
        be restored lazily as well, are left out from when :meth:`hurry` is called. Raises
        ``CheckpointError``.
        """
        manifest = self.load(session, number)
        where = self._images / f"staged-{number}"
        return stage(self._opening, self._keys, manifest, where, lazy_above, self._hurried)

    def hurry(self) -> None:
        """The images that are being staged are wanted now."""
        self._hurried.set()

    def restore_tree(self, manifest: Manifest) -> list[files.Skipped]:
        """Put the file tree of ``manifest`` in its place; what of it could not be set, and why.
        Raises ``CheckpointError``.
        """
        if manifest.tree is None:
            return []
        with Reader(self._opening, self._keys, manifest.packs) as reader:
            if manifest.meta.get("engine", self._place.engine) == self._place.engine:
                restored = files.materialize(reader, manifest.tree, self._place.tree)
                self._tree = restored.tree
                return restored.problems
            return carried.workspace(reader, manifest, self._place)

    def restore_variables(self, manifest: Manifest, kernel_id: str, directory: Path) -> None:
        """Put the variables of a kernel into ``directory``, which is emptied. Raises
        ``CheckpointError``.
        """
        with Reader(self._opening, self._keys, manifest.packs) as reader:
            carried.variables(reader, manifest, kernel_id, directory, self._place.user)

    def restore_images(self, manifest: Manifest, staged: Staged | None) -> Staged:
        """Bring the images of ``manifest`` here, beside those that are; without the memory of
        kernels that are better restored lazily. Raises ``CheckpointError``.
        """
        lazy_above = self._place.lazy_above
        if staged is not None and staged.has_all_of(manifest, lazy_above):
            return staged
        self._packs = manifest.packs
        with Reader(self._opening, self._keys, manifest.packs) as reader:
            name = f"opened-{manifest.number}"
            return self._materialize(reader, manifest, name, staged, lazy_above)

    def restore(self, slot: Slot, image: criu.Materialized, epoch: int) -> None:
        """Bring a kernel's processes back, its file tree being in its place; they stand still
        until the place lets them go on. Of a lazy image the memory comes later: see
        :meth:`arrived`. Raises ``RestoreFailed``, ``CheckpointError``.
        """
        image.refer_to(self._place.root)
        if isinstance(image, criu.Lazy):
            if self.arrivals.restore(self._place, slot, image, epoch):
                return
            root, directory = image.loaded.root, image.directory
            with Reader(self._opening, self._keys, self._packs) as reader:
                image = criu.materialize(reader, root, directory.with_name(f"{slot.name}.whole"))
            image.refer_to(self._place.root)
        self._place.restore(slot, image.directory, epoch)

    def arrived(self, within: float) -> bool:
        """Return whether all memory of the kernels is there, after ``within`` seconds at most.

        Before that they must not be dumped. Raises ``MemoryLost`` for one that is dead because its
        memory did not come.
        """
        return self.arrivals.over(within)

    def go_on_from(self, manifest: Manifest | None, restored: Staged | None) -> None:
        """What is stored already need not be stored again. Reads the images in the background."""
        self.arrivals.no_more()
        self._begins_with = manifest.packs if manifest is not None else ()
        self._begin_writer()
        if restored is not None:
            self._known = {
                kernel_id: self._pool.submit(materialized.image)
                for kernel_id, materialized in restored.kernels.items()
            }
            self._pool.submit(self._forget_images, list(self._known.values()))

    def go_on_from_newest(self, session: str) -> None:
        """Find what is stored already, when another process of this node stored it."""
        keys = list(self._store.list("manifests/"))
        newest = max((int(key.rpartition("/")[2]) for key in keys), default=None)
        self.go_on_from(None if newest is None else self.load(session, newest), None)

    def close(self) -> None:
        """Give up what is under way and free the memory."""
        self.arrivals.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._writer is not None and not self._writer.cancelled():
            with suppress(Exception):
                self._writer.result().close()
        shutil.rmtree(self._images, ignore_errors=True)

    # -- small things ----------------------------------------------------------------------------

    def _scan(self, *, copy: bool, reread: frozenset[bytes] = frozenset()) -> files.Tree:
        return files.scan(
            self._place.tree,
            self._tree,
            self._open_writer(),
            copy=copy,
            exclude=self._place.excluded,
            reread=reread,
            in_use=self._in_use,
            spill=self._images,
        )

    def _materialize(
        self,
        reader: Reader,
        manifest: Manifest,
        name: str,
        parent: Staged | None,
        lazy_above: int | None,
    ) -> Staged:
        kernels: dict[str, criu.Materialized] = {}
        for kernel_id, root in images_of(manifest).items():
            directory = self._images / name / kernel_id
            before = parent.kernels.get(kernel_id) if parent is not None else None
            if lazy_above is not None:
                own = Reader(self._opening, self._keys, manifest.packs, index=reader.index)
                image = self.arrivals.bring(own, root, directory, before, lazy_above)
            elif before is not None:
                image = criu.materialize_delta(reader, root, directory, before)
            else:
                image = criu.materialize(reader, root, directory)
            kernels[kernel_id] = image
        return Staged(manifest.number, kernels)

    def _begin_writer(self) -> Future[Writer]:
        begun = self._pool.submit(Writer, self._opening, self._keys, self._begins_with)
        begun.add_done_callback(lambda _: self._opening.forget())
        self._writer = begun
        return begun

    def _open_writer(self) -> Writer:
        begun = self._writer or self._begin_writer()
        if begun.exception() is not None:  # the store did not answer then; it may by now
            begun = self._begin_writer()
        return begun.result()

    def _before(self, kernel_id: str) -> criu.Image | None:
        known = self._known.get(kernel_id)
        if known is None or known.exception() is not None:
            return None  # all of it is compared with what the store has, which is only slower
        return known.result()

    def _discard_round(self) -> None:
        shutil.rmtree(self._images / f"{self._round}", ignore_errors=True)

    def _forget_images(self, read: list[Future[criu.Image]]) -> None:
        for one in read:
            one.exception()
        for directory in self._images.iterdir():
            if directory.name.startswith(("staged-", "opened-")):
                shutil.rmtree(directory, ignore_errors=True)


def _done(image: criu.Image) -> Future[criu.Image]:
    future: Future[criu.Image] = Future()
    future.set_result(image)
    return future
