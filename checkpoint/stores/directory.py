"""Objects as files of a local directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from checkpoint.errors import (
    AlreadyExists,
    NotFound,
    StoreError,
    StoreFull,
    StoreNotWritable,
    StoreUnavailable,
)
from checkpoint.stores.protocol import Buffer, check_key


class LocalDirectory:
    """A store in a directory of a POSIX file system that has hard links.

    An object is written to `.tmp/`, synced, and then linked (`create`) or renamed (`put`) into
    place, so that no key ever names half an object. What a crash leaves in `.tmp/` is garbage: its
    lock is gone with its writer, and `sweep` removes it.
    """

    def __init__(self, path: str | os.PathLike[str], *, begun: bool = False) -> None:
        """Creates the directory if it is not there, unless it was `begun` before: then it is on a
        disk that is not mounted, and an empty one in its place would hide it. Raises
        `StoreNotWritable`, `StoreUnavailable`.
        """
        self.path = Path(path).absolute()
        self._temporary = self.path / ".tmp"
        self._directories: set[Path] = set()
        if begun:
            self._be_there()
        try:
            self._temporary.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._translated(error) from error

    def __repr__(self) -> str:
        return f"LocalDirectory({str(self.path)!r})"

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        try:
            fd = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            self._be_there()
            raise NotFound(key) from None
        except OSError as error:
            raise self._translated(error) from error
        try:
            if length is None:
                length = max(0, os.fstat(fd).st_size - start)
            data = os.pread(fd, length, start)
            while len(data) < length and (
                more := os.pread(fd, length - len(data), start + len(data))
            ):
                data += more
            return data
        except IsADirectoryError:
            raise NotFound(key) from None
        except OSError as error:
            raise self._translated(error) from error
        finally:
            os.close(fd)

    def put(self, key: str, data: Buffer) -> None:
        self._write(key, data, os.replace)

    def create(self, key: str, data: Buffer) -> None:
        try:
            self._write(key, data, os.link)
        except FileExistsError:
            raise AlreadyExists(key) from None

    def list(self, prefix: str) -> Iterator[str]:
        top = self.path / prefix.rpartition("/")[0]
        keys = []
        for directory, subdirectories, files in os.walk(top, onerror=self._walk_failed):
            if ".tmp" in subdirectories:
                subdirectories.remove(".tmp")
            base = Path(directory).relative_to(self.path).as_posix()
            keys += files if base == "." else [f"{base}/{name}" for name in files]
        found = sorted(key for key in keys if key.startswith(prefix))
        if not found:
            self._be_there()
        return iter(found)

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink()
            _sync_directory(path.parent)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise self._translated(error) from error

    def sweep(self) -> int:
        """Remove what writers left in the middle of a write; how many files. One that is being
        written is locked, by whichever process or machine, and stays."""
        gone = 0
        for path in self._temporary.iterdir():
            with contextlib.suppress(OSError):
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                    gone += 1
                finally:
                    os.close(fd)
        return gone

    def _be_there(self) -> None:
        """A disk that is not mounted has no objects, which says nothing about those there are."""
        if not self._temporary.is_dir():
            raise StoreUnavailable(f"The store is not there: {self._temporary} is missing.")

    def _path(self, key: str) -> Path:
        return self.path / check_key(key)

    def _write(self, key: str, data: Buffer, place: _Place) -> None:
        path = self._path(key)
        try:
            temporary, fd = self._begin()
            try:
                _write_synced(fd, data)
                self._make_directories(path.parent)
                place(temporary, path)
                _sync_directory(path.parent)
            finally:
                temporary.unlink(missing_ok=True)
                os.close(fd)
        except FileExistsError:
            raise
        except OSError as error:
            raise self._translated(error) from error

    def _begin(self) -> tuple[Path, int]:
        """A new file, locked: `sweep` may have it between the two, then there is another one."""
        while True:
            path = self._temporary / secrets.token_hex(12)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if os.fstat(fd).st_nlink:
                    return path, fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _make_directories(self, directory: Path) -> None:
        if directory in self._directories:
            return
        missing = [directory, *directory.parents]
        for parent in reversed(missing[: missing.index(self.path)]):
            try:
                parent.mkdir()
            except FileExistsError:
                continue
            _sync_directory(parent.parent)
        self._directories.add(directory)

    def _walk_failed(self, error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise self._translated(error) from error

    def _translated(self, error: OSError) -> StoreError:
        why = f"{self.path}: {error.strerror or error}"
        match error.errno:
            case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
                return StoreFull(f"The store {why}.")
            case errno.EACCES | errno.EPERM | errno.EROFS | errno.ENOTDIR | errno.EEXIST:
                return StoreNotWritable(f"The store cannot be used: {why}.")
            case _:
                return StoreUnavailable(f"The store does not answer: {why}.")


class _Place(Protocol):
    def __call__(self, src: Path, dst: Path, /) -> None: ...


def _write_synced(fd: int, data: Buffer) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.fsync(fd)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
