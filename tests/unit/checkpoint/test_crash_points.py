"""Whoever writes a checkpoint may die at any write; nothing that was committed is lost by it."""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_stores import DyingStore

from checkpoint.blobs import BlobStore, Buffer, LocalDirectory, Memory
from checkpoint.errors import StoreUnavailable
from checkpoint.files import Tree, materialize, scan
from checkpoint.keys import SessionKeys
from checkpoint.manifest import Body, Manifest
from checkpoint.repository import Repository

KEYS = SessionKeys(b"k" * 32)
STEPS = 4
Files = dict[str, bytes]

writer_module = sys.modules["checkpoint.writer"]


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many packs, and rewritten ones, from little content."""
    monkeypatch.setattr(writer_module, "PACK_TARGET", 15_000)
    monkeypatch.setattr(writer_module, "_SLACK", 0)
    monkeypatch.setattr(writer_module, "_MANY_SMALL", 4)


def _noise(seed: str, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def _files(step: int) -> Files:
    """What the workspace holds at that step: much stays, some changes, some goes."""
    files = {f"stays-{at}": _noise(f"stays {at}", 20_000) for at in range(3)}
    files["sub/changes"] = _noise(f"changes {step}", 30_000)
    files |= {f"new-{at}": _noise(f"new {at}", 9_000) for at in range(max(1, step - 1), step + 1)}
    return files


def _put(root: Path, files: Files) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if not (root / name).exists() or (root / name).read_bytes() != content:
            (root / name).write_bytes(content)
    for path in root.rglob("*"):
        if path.is_file() and str(path.relative_to(root)) not in files:
            path.unlink()


def _found(root: Path) -> Files:
    paths = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


class Node:
    """One incarnation of a session: it goes on from `base`, whose tree lies in `root`."""

    def __init__(
        self, store: BlobStore, epoch: int, root: Path, base: Manifest | None, tree: Tree | None
    ) -> None:
        self.repository = Repository(store, "one", KEYS)
        self.epoch = epoch
        self.root = root
        self.base = base
        self.tree = tree
        self.writer = self.repository.writer(base)

    def checkpoint(self, step: int) -> Manifest:
        _put(self.root, _files(step))
        try:
            tree = scan(self.root, self.tree, self.writer)
            tree = scan(self.root, tree, self.writer, copy=True)
            root_id = tree.store(self.writer)
            body = Body(self.writer.finish(), root_id, meta={"step": step})
        except BaseException:
            self.writer.abort()
            raise
        self.tree = tree
        number = self.base.number + 1 if self.base else 1
        parent = self.base.number if self.base else None
        manifest = Manifest(number, self.epoch, parent, float(step), body)
        self.repository.commit(manifest)
        self.base = manifest
        return manifest


def _restored(store: BlobStore, number: int, root: Path) -> tuple[Manifest, Tree]:
    repository = Repository(store, "one", KEYS)
    manifest = repository.load(number)
    assert manifest.tree is not None
    with repository.reader(manifest) as reader:
        tree = materialize(reader, manifest.tree, root).tree
    assert _found(root) == _files(manifest.meta["step"])
    return manifest, tree


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """A new directory with every call; in memory if there is such a place: disks sync slowly."""
    memory = Path("/dev/shm")
    base = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else tmp_path))
    numbers = iter(range(10**6))
    yield lambda: base / f"place-{next(numbers)}"
    shutil.rmtree(base)


def _goes_on(store: BlobStore, committed: int, place: Callable[[], Path]) -> None:
    """All of what was committed is there, and the next incarnation adds to it."""
    repository = Repository(store, "one", KEYS)
    newest, skipped = repository.newest_intact(verify=True)
    assert skipped == []
    known = newest.number if newest else 0
    assert known in (committed, committed + 1)  # its answer may have been lost
    tree = None
    root = place()
    root.mkdir()
    for number in range(1, known + 1):
        root = place()
        newest, tree = _restored(store, number, root)
    node = Node(store, 2, root, newest, tree)
    with node.writer:
        node.checkpoint(STEPS + 1)
    for number in range(1, known + 2):
        _restored(store, number, place())


@pytest.mark.parametrize("failed_is_done", [False, True])
def test_writer_that_dies_at_any_write_loses_nothing_committed(
    place: Callable[[], Path], failed_is_done: bool
) -> None:
    operations, died = 0, True
    while died:
        store = Memory()
        dying = DyingStore(store, operations, failed_is_done=failed_is_done)
        committed, died = 0, False
        root = place()
        root.mkdir()
        node = Node(dying, 1, root, None, None)
        with node.writer:
            try:
                for step in range(1, STEPS + 1):
                    committed = node.checkpoint(step).number
            except StoreUnavailable:
                died = True
        _goes_on(store, committed, place)
        operations += 1
    assert operations > 4 * STEPS


class FailsOnce(DyingStore):
    """Fails at one write, and works again."""

    def create(self, key: str, data: Buffer) -> None:
        try:
            super().create(key, data)
        except StoreUnavailable:
            self.left = 10**9
            raise


@pytest.mark.parametrize("failed_is_done", [False, True])
def test_writer_that_fails_at_any_write_tries_again_and_goes_on(
    place: Callable[[], Path], failed_is_done: bool
) -> None:
    operations, failed = 0, True
    while failed:
        store = FailsOnce(Memory(), operations, failed_is_done=failed_is_done)
        failed = False
        root = place()
        root.mkdir()
        node = Node(store, 1, root, None, None)
        with node.writer:
            step = 1
            while step <= STEPS:
                try:
                    node.checkpoint(step)
                except StoreUnavailable:
                    failed = True
                    # As the committer does: if it is there after all, it is the newest.
                    node.base = node.repository.newest()
                    if node.base is None or node.base.meta["step"] < step:
                        continue
                step += 1
        for number in node.repository.numbers():
            _restored(store, number, place())
        assert Repository(store, "one", KEYS).newest_intact(verify=True) == (node.base, [])
        operations += 1
    assert operations > 4 * STEPS


STEPS_ON_DISK = ("open", "write", "fsync", "link", "unlink", "mkdir")


def _die_at(call: int) -> None:
    """Let this process end at that system call, of those that change the disk."""
    calls = iter(range(10**9))

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            if next(calls) == call:
                os._exit(9)
            return real(*arguments, **options)

        return called

    for name in STEPS_ON_DISK:
        setattr(os, name, deadly(getattr(os, name)))


def _write_until_killed(store: Path, root: Path, told: int, call: int) -> None:
    """In a process of its own: say the number of each checkpoint that was committed."""
    local = LocalDirectory(store)
    really_write = os.write
    _put(root, _files(1))
    node = Node(local, 1, root, None, None)
    _die_at(call)
    for step in (1, 2):
        really_write(told, bytes([node.checkpoint(step).number]))
    os._exit(0)


def _committed_by_killed(base: Path, call: int) -> tuple[int, bool]:
    """How many checkpoints a process committed, and whether it was killed."""
    (base / "root").mkdir(parents=True)
    reader, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _write_until_killed(base / "store", base / "root", told, call)
        finally:
            os._exit(1)
    os.close(told)
    with os.fdopen(reader, "rb") as words:
        committed = len(words.read())
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return committed, code == 9


def test_process_killed_at_any_step_on_disk_loses_nothing_committed(
    place: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "PACK_TARGET", 100_000)  # each object takes many calls
    call, killed = 0, True
    seen = set()
    while killed:
        base = place()
        committed, killed = _committed_by_killed(base, call)
        seen.add(committed)
        _goes_on(LocalDirectory(base / "store"), committed, place)
        call += 1
    assert seen == {0, 1, 2}
    assert call > 50
