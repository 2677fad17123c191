"""A kernel that was restored lazily, until all of its memory is there."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from checkpoint.criu import Lazy, Pager
from checkpoint.criu.pager import SOCKET
from checkpoint.errors import MemoryLost
from sessionkeeper.agent.guard import Guard, end_group

log = logging.getLogger(__name__)


class Arrival:
    """Brings the memory of one kernel while it runs. `name` is for the log.

    Made before CRIU is asked to restore `image` with its work directory `work`. If the memory
    cannot be brought, all processes of the control group, whose directories are `groups`, are
    killed: none of them ever sees anything in the place of what is missing.
    """

    def __init__(self, name: str, image: Lazy, work: Path, groups: Sequence[str]) -> None:
        self.name = name
        self.lost: MemoryLost | None = None
        self._image = image
        self._work = work
        self._groups = tuple(groups)
        self._over = threading.Event()
        self._given_up = False
        self._guard = Guard(self._groups)
        self._pager = Pager(
            _listen(work), image.pages, keep=self._guard.keep, release=self._guard.release
        )
        self._serving = threading.Thread(target=self._serve, name="arrival", daemon=True)
        self._serving.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Return whether it is over, after `seconds` at most: all memory has arrived, or `lost`
        says why not and the kernel is dead.
        """
        return self._over.wait(seconds)

    def give_up(self) -> None:
        """End the kernel if its memory is not there yet. Nothing is left of this then but threads
        that wait for the store's answer.
        """
        self._given_up = True
        self._pager.stop()
        self._over.wait()

    def _serve(self) -> None:
        try:
            self._pager.serve()
            log.info("all memory of kernel %s has arrived", self.name)
        except MemoryLost as error:
            self.lost = error
            if not self._given_up:
                log.warning("kernel %s is ended: %s", self.name, error)
            end_group(self._groups)
        finally:
            self._pager.let_go()
            self._guard.end()
            with suppress(OSError):
                (self._work / SOCKET).unlink()
            self._image.arrived.set()
            self._over.set()
            self._pager.close()


def _listen(directory: Path) -> socket.socket:
    """A socket in `directory`, however long its path (unix(7) allows 107 bytes)."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, mode=0o700)
    listener = socket.socket(socket.AF_UNIX)
    place = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        listener.bind(f"/proc/self/fd/{place}/{SOCKET}")
        listener.listen(1)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(place)
    return listener
