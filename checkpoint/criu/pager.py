"""Serves the memory of processes that CRIU restored without it, while they run.

`criu restore --lazy-pages` connects to the Unix socket `SOCKET` in its work directory and sends,
for each process, its id (an int; negative for one that has ended) and a userfaultfd (SCM_RIGHTS),
and in the end `FINISHED` (`criu/uffd.c`). CRIU's own program for the other end, `criu lazy-pages`,
reads from image directories or from a page server. This one takes the pages where they are, in
the repository, so that nothing lies on the node before and each chunk is read once, for all of
its pages. It also differs in what it does when it cannot go on: the descriptors stay open, so
that the processes wait and never find zeros where their memory was, until somebody has ended them.

One thread reads events and copies (see `checkpoint.criu.userfault` for why); others fetch. What is
waited for comes first, the rest in the order of the store.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from checkpoint.criu.missing import Missing
from checkpoint.criu.pagemap import PAGE
from checkpoint.criu.pages import Content, Pages
from checkpoint.criu.userfault import Fault, Forked, Moved, Removed, copy, events, wake, zero
from checkpoint.errors import CheckpointError, MemoryLost

SOCKET = "lazy-pages.socket"
FINISHED = 0x52535446

PATIENCE = 30.0
"""Seconds for which a store that fails is asked again."""

Result = TypeVar("Result")

_RETRY = 0.5
_AHEAD = 64
"""Pieces of up to 256 KiB that are fetched and not copied yet."""

_URGENT = 4  # threads that fetch what is waited for
_NUMBER = struct.Struct("=i")
_SAY = 10.0  # seconds for CRIU to say the second half of what it says
_TICK = 0.002
_GONE = 5.0
"""Seconds after which a page that is nowhere in a process's memory, though nothing was said about
it, is not looked for any more."""


@dataclass(eq=False)
class _Space:
    """One process's memory: its userfaultfd, its pagemap, and what it has not yet."""

    descriptor: int
    name: str
    missing: Missing
    kept: bool = False


class Pager:
    """Gives one restored process tree its `pages`.

    `keep` is told of every descriptor whose process would find zeros if it were closed, `release`
    before it is closed because that is over. Both are called by the thread that serves.
    """

    def __init__(
        self,
        listener: socket.socket,
        pages: Pages,
        keep: Callable[[int], None] = lambda _: None,
        release: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`listener` is bound to `SOCKET` in CRIU's work directory, and closed with this."""
        self._listener = listener
        self._pages = pages
        self._keep, self._release = keep, release
        self._connection: socket.socket | None = None
        self._spaces: list[_Space] = []
        self._finished = False
        self._asked: set[int] = set()
        self._urgent: deque[Content] = deque()
        self._ahead: deque[Content] = deque()
        self._refused: deque[tuple[float, Content]] = deque()
        self._room = threading.Semaphore(_AHEAD)
        self._all = False
        self._stopped = threading.Event()
        self._trouble: BaseException | None = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake, selectors.EVENT_READ, self._awake)
        self._pool = ThreadPoolExecutor(_URGENT, "page-fault")
        self._background = threading.Thread(target=self._fetch, name="pages", daemon=True)

    def serve(self) -> None:
        """Return when all memory has arrived, or is not wanted any more.

        Raises `MemoryLost` when that cannot be, or `stop` was called: the processes must be
        ended then, before `let_go`; until that they wait where they miss something.
        """
        self._background.start()
        try:
            while not (self._finished and not self._spaces):
                busy = self._urgent or (self._finished and self._ahead)
                wait = 0.0 if busy else _TICK if self._refused else None
                for key, _ in self._selector.select(wait):
                    key.data()
                if self._trouble is not None:
                    raise self._trouble
                self._place_next()
        except MemoryLost:
            raise
        except Exception as error:
            raise MemoryLost(str(error)) from error
        finally:
            self._stopped.set()
            self._room.release(_AHEAD)
            self._pool.shutdown(wait=False, cancel_futures=True)

    def stop(self) -> None:
        """Let `serve` end, from another thread."""
        self._fail(MemoryLost("the restore was given up"))

    def let_go(self) -> None:
        """Close all descriptors, `serve` having ended or never begun. What is missing in a process
        that is still there becomes zero.
        """
        for space in self._spaces:
            os.close(space.descriptor)
        self._spaces.clear()
        self._selector.close()
        self._listener.close()
        if self._connection is not None:
            self._connection.close()

    def close(self) -> None:
        """`let_go`; and wait for the store to answer what it was asked."""
        self.let_go()
        self._pool.shutdown(wait=True)
        if self._background.ident is not None:
            self._background.join()
        self._pages.close()
        os.close(self._wake)

    # -- threads that fetch ----------------------------------------------------------------------

    def _fetch(self) -> None:
        given: set[int] = set()

        def take(content: Content) -> None:
            self._room.acquire()
            if self._stopped.is_set():
                raise MemoryLost("the restore was given up")
            self._ahead.append(content)
            os.eventfd_write(self._wake, 1)

        try:
            self._until_it_works(lambda: self._pages.each(take, given))
            self._all = True
            os.eventfd_write(self._wake, 1)
        except BaseException as error:
            self._fail(error)

    def _fetch_source(self, source: int) -> None:
        try:
            self._urgent.extend(self._until_it_works(lambda: self._pages.read(source)))
            os.eventfd_write(self._wake, 1)
        except BaseException as error:
            self._fail(error)

    def _until_it_works(self, do: Callable[[], Result]) -> Result:
        """The processes only wait longer when the store does not answer for a moment."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return do()
            except CheckpointError as error:
                if not error.retryable or time.monotonic() > until or self._stopped.wait(_RETRY):
                    raise

    def _fail(self, error: BaseException) -> None:
        if self._trouble is None and not self._stopped.is_set():
            self._trouble = error
            os.eventfd_write(self._wake, 1)

    # -- the thread that serves ------------------------------------------------------------------

    def _awake(self) -> None:
        os.eventfd_read(self._wake)

    def _accept(self) -> None:
        self._connection, _ = self._listener.accept()
        self._connection.settimeout(_SAY)
        self._selector.unregister(self._listener)
        self._selector.register(self._connection, selectors.EVENT_READ, self._listen)

    def _listen(self) -> None:
        assert self._connection is not None
        said = self._connection.recv(_NUMBER.size, socket.MSG_WAITALL)
        if len(said) < _NUMBER.size:
            raise MemoryLost("CRIU ended before it had restored the process")
        (pid,) = _NUMBER.unpack(said)
        if pid == FINISHED:
            self._selector.unregister(self._connection)
            self._finished = True
            for space in list(self._spaces):
                self._end_if_complete(space)
        elif pid > 0:
            _, descriptors, _, _ = socket.recv_fds(self._connection, 1, 1)
            if len(descriptors) != 1:
                raise MemoryLost("CRIU did not say how to reach the memory")
            name = f"pagemap-{pid}.img"
            self._begin(_Space(descriptors[0], name, Missing(self._pages.stretches(name))))

    def _begin(self, space: _Space) -> None:
        self._spaces.append(space)
        self._selector.register(space.descriptor, selectors.EVENT_READ, lambda: self._hear(space))
        if space.missing:
            self._keep(space.descriptor)
            space.kept = True

    def _end_if_complete(self, space: _Space) -> None:
        if self._finished and not space.missing and space in self._spaces:
            self._spaces.remove(space)
            self._selector.unregister(space.descriptor)
            if space.kept:
                self._release(space.descriptor)
            os.close(space.descriptor)

    def _hear(self, space: _Space) -> None:
        """Take note of what the process has done to its memory, and of what it waits for."""
        for event in events(space.descriptor):
            match event:
                case Fault(page):
                    self._answer(space, page)
                case Forked(descriptor):
                    self._begin(_Space(descriptor, space.name, space.missing.copy()))
                case Moved(start, end, to):
                    space.missing.move(start, end, to)
                    wake(space.descriptor, start, end)
                case Removed(start, end):
                    space.missing.drop(start, end)
                    wake(space.descriptor, start, end)
        self._end_if_complete(space)

    def _answer(self, space: _Space, page: int) -> None:
        image_page = space.missing.image_page(page)
        if image_page is not None:
            source = self._pages.source(space.name, image_page)
            if source not in self._asked:
                self._asked.add(source)
                self._pool.submit(self._fetch_source, source)
            return
        try:
            zero(space.descriptor, page)
        except OSError as error:
            if error.errno == errno.ESRCH:  # it has ended, or executes another program
                space.missing = Missing()
            elif error.errno in (errno.EAGAIN, errno.EEXIST, errno.ENOENT):
                # It is there, or the memory is just being changed: who waits looks again.
                wake(space.descriptor, page, page + 1)
            else:
                raise

    def _place_next(self) -> None:
        everything = self._all  # before it is seen that nothing is left
        if self._urgent:
            self._place(self._urgent.popleft())
        elif not self._finished:
            return
        elif self._ahead:
            self._place(self._ahead.popleft())
            self._room.release()
        elif self._refused:
            since, content = self._refused.popleft()
            if since and time.monotonic() - since > _GONE:
                self._give_up(content)
            else:
                self._place(content, since)
        elif everything and self._spaces:
            raise MemoryLost("pages that a process misses are not among those of its image")

    def _place(self, content: Content, since: float = 0.0) -> None:
        """Copy to all that miss it. What a mapping just made or taken away refuses comes again."""
        refused = False
        for space in self._spaces:  # which may become more meanwhile
            if space.name == content.name:
                refused |= not self._copy(space, content)
        for space in list(self._spaces):
            self._end_if_complete(space)
        if refused:
            now = time.monotonic() if self._finished else 0.0
            self._refused.append((since or now, content))

    def _copy(self, space: _Space, content: Content) -> bool:
        """False: some of it is nowhere in the process's memory at the moment."""
        most = len(content.data) // PAGE
        refused: set[int] = set()
        while (piece := self._next_piece(space, content, most, refused)) is not None:
            page, image_page, length = piece
            start = (image_page - content.first) * PAGE
            try:
                done = copy(space.descriptor, page, content.data[start : start + length * PAGE])
            except OSError as error:
                match error.errno:
                    case errno.EAGAIN:
                        self._wait_for_event(space)
                    case errno.EEXIST:
                        space.missing.drop(page, page + 1)
                        wake(space.descriptor, page, page + 1)
                    case errno.ENOENT if length > 1:  # a border of mappings is within
                        most = length // 2
                    case errno.ENOENT:
                        refused.add(image_page)
                    case errno.ESRCH | errno.ENOSPC:
                        space.missing = Missing()
                    case _:
                        raise
            else:
                space.missing.drop(page, page + done)
        return not refused

    def _next_piece(
        self, space: _Space, content: Content, most: int, refused: set[int]
    ) -> tuple[int, int, int] | None:
        for page, image_page, length in space.missing.pieces(
            content.first, len(content.data) // PAGE
        ):
            if not refused:
                return page, image_page, min(length, most)
            for number in range(length):
                if image_page + number not in refused:
                    return page + number, image_page + number, 1
        return None

    def _wait_for_event(self, space: _Space) -> None:
        """The process changes its memory: go on when it has said how."""
        with selectors.DefaultSelector() as selector:
            selector.register(space.descriptor, selectors.EVENT_READ)
            selector.select(_TICK)
        self._hear(space)

    def _give_up(self, content: Content) -> None:
        """A child may lack memory of its parent (madvise(2), MADV_DONTFORK)."""
        count = len(content.data) // PAGE
        for space in self._spaces:
            if space.name == content.name:
                for page, _, length in space.missing.pieces(content.first, count):
                    space.missing.drop(page, page + length)
        for space in list(self._spaces):
            self._end_if_complete(space)
