"""Stays connected to one shim, wherever its namespace is, and passes frames between it and the
gateway.

The relay keeps nothing: what is lost with a connection is sent again by the two ends
(``docs/link-protocol.md``).
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from socket import socket
from typing import Any

from gateway.errors import ShimGone
from gateway.shim_client import ShimClient
from sessionkeeper.agent.errors import KernelStartFailed

log = logging.getLogger(__name__)

_RETRY = 0.005

_LONGEST_RETRY = 1.0

_LOOK_EVERY = 0.1
"""Seconds between two questions whether the shim is there at all: each may start a program."""


class ShimRelay:
    """The agent's side of one shim.

    ``dial`` returns a connected socket or raises OSError, ``alive`` says whether the shim is there;
    both may block. ``on_frame`` gets the link frames for the gateway; ``on_gone`` is called when
    the shim has ended by itself, ``on_killed`` when its kernel was killed, before a frame says so.
    While ``quiet`` says so the shim stands still, and may be silent.
    """

    def __init__(
        self,
        dial: Callable[[], socket],
        alive: Callable[[], bool],
        token: str,
        on_frame: Callable[[bytes], None],
        on_gone: Callable[[], None] = lambda: None,
        quiet: Callable[[], bool] = lambda: False,
        on_killed: Callable[[], None] = lambda: None,
    ) -> None:
        self._dial = dial
        self._alive = alive
        self._token = token
        self._on_frame = on_frame
        self._on_gone = on_gone
        self._quiet = quiet
        self._on_killed = on_killed
        self._client: ShimClient | None = None
        self._held = False
        self._closed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self, within: float) -> None:
        """Connect, in at most ``within`` seconds, and keep connected until :meth:`close`.

        Raises :class:`KernelStartFailed`.
        """
        try:
            async with asyncio.timeout(within):
                await self._connect()
        except TimeoutError:
            raise KernelStartFailed(f"the shim did not listen within {within:.0f} s") from None
        self._task = asyncio.create_task(self._stay_connected())

    def send(self, frame: bytes) -> None:
        """Pass a frame of the gateway on. Without a connection it is dropped: it comes again."""
        if self._client is not None:
            self._client.send_frame(frame)

    async def call(self, name: str, *, wait: float = 30.0, **arguments: Any) -> Any:
        """Ask the shim for something. Raises ``GatewayError``."""
        if self._client is None:
            raise ShimGone("the shim is not connected")
        return await self._client.call(name, wait=wait, **arguments)

    @property
    def kernel_pid(self) -> int | None:
        """The kernel's process id, as its shim sees it; None where it has not told."""
        return self._client.kernel_pid if self._client is not None else None

    def hold_back(self, held: bool) -> None:
        """Read from the shim no more, or again: the gateway takes no more for now."""
        self._held = held
        if self._client is not None:
            (self._client.pause if held else self._client.resume)()

    async def close(self) -> None:
        """Disconnect, for good."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._client is not None:
            self._client.close()
            self._client = None

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        self._closed.clear()
        looked = 0.0
        while True:
            try:
                connection = await asyncio.to_thread(self._dial)
            except OSError:
                if loop.time() - looked > _LOOK_EVERY:
                    if not await asyncio.to_thread(self._alive):
                        raise KernelStartFailed("the shim ended before it listened") from None
                    looked = loop.time()
                await asyncio.sleep(_RETRY)  # nobody tells when it listens
                continue
            connection.setblocking(False)
            _, self._client = await loop.create_connection(
                lambda: ShimClient(
                    self._token, self._on_frame, self._said, self._closed.set, self._quiet
                ),
                sock=connection,
            )
            if self._held:
                self._client.pause()
            return

    def _said(self, event: dict[str, Any]) -> None:
        """The shim's own words; what else it says goes to the gateway."""
        if event.get("event") == "refused":
            log.error("a shim refuses the gateway: %s", event.get("message"))
        elif event.get("event") == "exited" and event.get("signal") == signal.SIGKILL:
            self._on_killed()

    async def _stay_connected(self) -> None:
        loop = asyncio.get_running_loop()
        pause, since = _RETRY, loop.time()
        while True:
            await self._closed.wait()
            self._client = None
            # A shim that takes nobody in is not asked without a pause.
            lasted = loop.time() - since > _LONGEST_RETRY
            pause = _RETRY if lasted else min(pause * 2, _LONGEST_RETRY)
            await asyncio.sleep(pause)
            try:
                await self._connect()
            except KernelStartFailed:
                self._on_gone()
                return
            since = loop.time()
