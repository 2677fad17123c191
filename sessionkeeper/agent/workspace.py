"""File operations of the UI on a live workspace, done as the session's user and inside the
session's root.

The kernels of a session are not trusted: a symbolic link in the workspace may point anywhere.
So paths are resolved by the operating system with the session's root as ``/`` (openat2(2),
``RESOLVE_IN_ROOT``), and by threads whose file-system identity is the session's user
(setfsuid(2)), which also takes root's rights over files from them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat as st
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sessionkeeper.agent.errors import FileRefused

_libc = ctypes.CDLL(None, use_errno=True)
SYS_OPENAT2 = 437
SYS_SETGROUPS = {"x86_64": 116, "aarch64": 159}
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10

_CODES = {
    errno.ENOENT: "not_found",
    errno.ENOTDIR: "not_a_directory",
    errno.EISDIR: "is_a_directory",
    errno.EEXIST: "exists",
    errno.ENOTEMPTY: "not_empty",
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
    errno.ELOOP: "refused",
}


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


@dataclass(frozen=True)
class LiveWorkspace:
    """The directory ``home`` (as the kernels see it) below ``root`` (as the node sees it), used
    as ``user``.

    Calls block; run them through :meth:`executor`. All raise :class:`FileRefused` with the
    system's words.
    """

    root: Path
    home: str
    user: int | None

    def executor(self, threads: int = 4) -> ThreadPoolExecutor:
        """Return threads that act as the session's user."""
        return ThreadPoolExecutor(
            threads, thread_name_prefix="workspace", initializer=_become, initargs=(self.user,)
        )

    def stat(self, path: str) -> dict[str, Any]:
        with _words(path), self._parent(path) as (directory, name):
            return self._describe(directory, name, path)

    def list(self, path: str) -> list[dict[str, Any]]:
        with _words(path):
            fd = self._open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                found = []
                for name in sorted(os.listdir(fd)):
                    with suppress(FileNotFoundError):  # gone since
                        found.append(self._describe(fd, name, f"{path}/{name}"))
                return found
            finally:
                os.close(fd)

    def read(self, path: str, start: int, length: int) -> bytes:
        with _words(path):
            fd = self._open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                if st.S_ISDIR(os.fstat(fd).st_mode):
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                return os.pread(fd, length, start)
            finally:
                os.close(fd)

    def write(
        self,
        path: str,
        fill: Callable[[BinaryIO], None],
        *,
        append: bool = False,
        at: float | None = None,
    ) -> dict[str, Any]:
        """Create or replace a file with what ``fill`` writes, in one step for whoever looks; or
        append to it. ``at`` is the time of the change, in Unix seconds; None: now.
        """
        with _words(path), self._parent(path, change=True) as (directory, name):
            if append:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
                with os.fdopen(os.open(name, flags, 0o644, dir_fd=directory), "ab") as file:
                    fill(file)
                    _date(file, at)
                return self._describe(directory, name, path)
            temporary = f".{os.urandom(8).hex()}.part"
            mode = 0o644
            try:
                before = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if st.S_ISDIR(before.st_mode):
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                if st.S_ISREG(before.st_mode):
                    mode = st.S_IMODE(before.st_mode)
            except FileNotFoundError:
                pass
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            fd = os.open(temporary, flags, mode, dir_fd=directory)
            try:
                with os.fdopen(fd, "wb") as file:
                    fill(file)
                    _date(file, at)
                os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                os.unlink(temporary, dir_fd=directory)
                raise
            return self._describe(directory, name, path)

    def mkdir(self, path: str) -> dict[str, Any]:
        with _words(path), self._parent(path, change=True) as (directory, name):
            os.mkdir(name, 0o755, dir_fd=directory)
            return self._describe(directory, name, path)

    def rename(self, path: str, to: str) -> dict[str, Any]:
        with _words(path), self._parent(path, change=True) as (directory, name):
            os.stat(name, dir_fd=directory, follow_symlinks=False)
            with _words(to), self._vacant(to) as (target, new):
                os.rename(name, new, src_dir_fd=directory, dst_dir_fd=target)
                return self._describe(target, new, to)

    def copy(self, path: str, to: str) -> dict[str, Any]:
        with _words(path):
            source = self._open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                if st.S_ISDIR(os.fstat(source).st_mode):
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                with os.fdopen(source, "rb", closefd=False) as file, _words(to), self._vacant(to):
                    return self.write(to, lambda out: shutil.copyfileobj(file, out, 1 << 20))
            finally:
                os.close(source)

    def delete(self, path: str, *, recursive: bool = False) -> None:
        with _words(path), self._parent(path, change=True) as (directory, name):
            if not st.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=directory)
            elif recursive:
                shutil.rmtree(name, dir_fd=directory)
            else:
                os.rmdir(name, dir_fd=directory)

    def _open(self, path: str, flags: int) -> int:
        root = self._open_root()
        try:
            inside = "/".join([*self.home.split("/"), *parts(path)]).lstrip("/") or "."
            how = _OpenHow(flags | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
            fd = _libc.syscall(
                SYS_OPENAT2, root, os.fsencode(inside), ctypes.byref(how), ctypes.sizeof(how)
            )
            if fd < 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            return int(fd)
        finally:
            os.close(root)

    def _open_root(self) -> int:
        # The node's own directories, on the way there, are closed to the session's user.
        before = _libc.setfsuid(os.geteuid())
        try:
            return os.open(self.root, os.O_PATH | os.O_DIRECTORY)
        finally:
            _libc.setfsuid(before)

    def _describe(self, directory: int, name: str, path: str) -> dict[str, Any]:
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        kind = "other"
        if st.S_ISLNK(info.st_mode):
            try:
                # Not os.stat: the link leads where the session's root says, not where the
                # node's does.
                fd = self._open(path, os.O_PATH)
            except OSError:
                kind = "symlink-broken"
            else:
                info = os.fstat(fd)
                os.close(fd)
        if st.S_ISDIR(info.st_mode):
            kind = "directory"
        elif st.S_ISREG(info.st_mode):
            kind = "file"
        return {
            "name": "" if name == "." else name,
            "type": kind,
            "size": info.st_size,
            "inode": info.st_ino,
            "mtime": info.st_mtime,
            "created": info.st_ctime,
            "writable": self._may_write(info),
        }

    def _may_write(self, info: os.stat_result) -> bool:
        user = os.geteuid() if self.user is None else self.user
        bit = st.S_IWUSR if info.st_uid == user else st.S_IWOTH
        return user == 0 or bool(info.st_mode & bit)

    @contextmanager
    def _parent(self, path: str, *, change: bool = False) -> Iterator[tuple[int, str]]:
        """Open the directory that holds ``path``; with the name there, ``.`` for the workspace."""
        *above, name = parts(path) or ["."]
        if change and name == ".":
            raise FileRefused("the workspace itself cannot be changed", "refused")
        fd = self._open("/".join(above), os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield fd, name
        finally:
            os.close(fd)

    @contextmanager
    def _vacant(self, path: str) -> Iterator[tuple[int, str]]:
        with self._parent(path, change=True) as (directory, name):
            try:
                os.stat(name, dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:
                yield directory, name
            else:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def parts(path: str) -> list[str]:
    """Return the components of a workspace path. Raises :class:`FileRefused` for one that leads
    outside.
    """
    found = [p for p in path.split("/") if p and p != "."]
    if ".." in found or "\0" in path:
        raise FileRefused(f"{path}: leads out of the workspace", "refused")
    return found


def _date(file: BinaryIO, at: float | None) -> None:
    if at is not None:
        file.flush()
        os.utime(file.fileno(), (at, at))


@contextmanager
def _words(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        code = _CODES.get(error.errno or 0, "refused")
        raise FileRefused(f"{path or '/'}: {error.strerror or error}", code) from error


def _become(user: int | None) -> None:
    if user is not None:
        # The raw calls, which are for this thread alone (setfsuid(2), setgroups(2)).
        _libc.syscall(SYS_SETGROUPS[os.uname().machine], 0, None)
        _libc.setfsgid(user)
        _libc.setfsuid(user)
