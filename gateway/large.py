"""A message whose writing takes long: all but its kernel, or its client, goes on meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gateway.errors import JournalFull
from gateway.frames import LinkError
from gateway.journal import InputLog, OutputLog, Prepared
from gateway.link import GatewayLink, Output

log = logging.getLogger(__name__)


class LargeRequests:
    """Those of one kernel, one at a time. `submit(payload, prepared)` is called when all but a
    little is written.
    """

    def __init__(
        self, inputs: InputLog, submit: Callable[[bytes | memoryview, Prepared], None]
    ) -> None:
        self._inputs = inputs
        self._submit = submit
        self._turn = asyncio.Lock()

    async def take(self, head: bytes, rest: memoryview) -> None:
        """Write a payload, which is in two pieces, and submit it. Raises what `submit` raises."""
        inputs = self._inputs
        async with self._turn:
            prepared = await asyncio.to_thread(inputs.prepare, inputs.last + 1, head, rest)
            try:
                self._submit(prepared.payload, prepared)
            finally:
                prepared.path.unlink(missing_ok=True)  # where it was not taken


class LargeOutputs:
    """Those of one kernel, one at a time. Frames that come meanwhile are `refused`: the link has
    them sent again.

    `take(output, prepared)` is called when all but a little is written, `full(error)` when it
    cannot be, `done()` after either.
    """

    def __init__(
        self,
        outputs: OutputLog,
        link: Callable[[], GatewayLink],
        take: Callable[[Output, Prepared], None],
        full: Callable[[JournalFull], None],
        done: Callable[[], None],
    ) -> None:
        self._outputs = outputs
        self._link = link
        self._take = take
        self._full = full
        self._done = done
        self._writing: asyncio.Task[None] | None = None
        self._again = False

    def refused(self) -> bool:
        """Whether a frame must not be listened to now."""
        self._again = self._again or self._writing is not None
        return self._writing is not None

    def begin(self, output: Output) -> None:
        """Write it."""
        self._writing = asyncio.create_task(self._write(output, self._link().epoch))

    def close(self) -> None:
        """Give up what is being written."""
        if self._writing is not None:
            self._writing.cancel()

    async def _write(self, output: Output, epoch: int | None) -> None:
        try:
            stamp, applied = (output.epoch, output.seq), self._link().acked
            prepared = await asyncio.to_thread(
                self._outputs.prepare, output.payload, stamp, applied
            )
            if self._link().epoch == epoch:
                self._take(output, prepared)
            else:  # of a node that is not to be heard any more
                prepared.path.unlink()
                self._again = True
        except JournalFull as error:
            self._full(error)
        except LinkError as error:
            log.warning("an output of %d bytes was not taken: %s", len(output.payload), error)
        finally:
            self._writing = None
        if self._again:
            self._again = False
            self._link().ask_again()
        self._done()
