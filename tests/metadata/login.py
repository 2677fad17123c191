"""A bus of our own (a real dbus-daemon), and on it something that speaks as systemd-logind does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from dbus_fast import PropertyAccess
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusError
from dbus_fast.service import ServiceInterface, dbus_property, method, signal

PATIENCE = 20.0
NAME, PATH = "org.freedesktop.login1", "/org/freedesktop/login1"
CONFIG = """<busconfig>
<type>custom</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>
<policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
</policy></busconfig>"""


class Manager(ServiceInterface):
    """org.freedesktop.login1.Manager, the part that matters: see org.freedesktop.login1(5)."""

    def __init__(self) -> None:
        super().__init__(f"{NAME}.Manager")
        self.inhibitors: dict[int, tuple[str, str]] = {}
        self.changed = asyncio.Condition()
        self.idle = True
        self.preparing = {"shutdown": False, "sleep": False}
        self.delay = 5_000_000
        self.refuses = False
        self._tasks: set[asyncio.Task[None]] = set()

    @method()
    def Inhibit(self, what: "s", who: "s", why: "s", mode: "s") -> "h":  # noqa: F821, UP037
        if self.refuses:
            raise DBusError("org.freedesktop.DBus.Error.AccessDenied", "Permission denied")
        ours, theirs = os.pipe()
        self.inhibitors[ours] = (what, mode)
        loop = asyncio.get_running_loop()
        loop.add_reader(ours, self._released, ours)
        loop.call_later(0.1, _close, theirs)  # the library has sent a duplicate of it by then
        self._tell()
        return theirs

    def _released(self, ours: int) -> None:
        asyncio.get_running_loop().remove_reader(ours)
        os.close(ours)
        self.inhibitors.pop(ours, None)
        self._tell()

    @signal()
    def PrepareForShutdown(self, start: bool) -> "b":  # noqa: F821, UP037
        return start

    @signal()
    def PrepareForSleep(self, start: bool) -> "b":  # noqa: F821, UP037
        return start

    @dbus_property(access=PropertyAccess.READ)
    def InhibitDelayMaxUSec(self) -> "t":  # noqa: F821, UP037
        return self.delay

    @dbus_property(access=PropertyAccess.READ)
    def IdleHint(self) -> "b":  # noqa: F821, UP037
        return self.idle

    @dbus_property(access=PropertyAccess.READ)
    def PreparingForShutdown(self) -> "b":  # noqa: F821, UP037
        return self.preparing["shutdown"]

    @dbus_property(access=PropertyAccess.READ)
    def PreparingForSleep(self) -> "b":  # noqa: F821, UP037
        return self.preparing["sleep"]

    def prepare(self, what: str, start: bool) -> None:
        """The machine is about to go, or is back."""
        self.preparing[what] = start
        (self.PrepareForShutdown if what == "shutdown" else self.PrepareForSleep)(start)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until it is so; looked at whenever an inhibitor is taken or released."""
        async with asyncio.timeout(PATIENCE), self.changed:
            await self.changed.wait_for(lambda: bool(condition()))

    def _tell(self) -> None:
        async def tell() -> None:
            async with self.changed:
                self.changed.notify_all()

        task = asyncio.ensure_future(tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Login:
    """The bus with logind on it. ``address`` is the bus's."""

    def __init__(self, directory: Path) -> None:
        self.address = f"unix:path={directory / 'bus'}"
        self._directory = directory
        self._daemon: asyncio.subprocess.Process | None = None
        self._bus: MessageBus | None = None
        self.manager = Manager()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Login]:
        await self.start()
        try:
            yield self
        finally:
            await self.stop()

    async def start(self) -> None:
        config = self._directory / "bus.conf"
        config.write_text(CONFIG.format(socket=self._directory / "bus"))
        self._daemon = await asyncio.create_subprocess_exec(
            *("dbus-daemon", f"--config-file={config}", "--nofork", "--print-address"),
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._daemon.stdout is not None
        await asyncio.wait_for(self._daemon.stdout.readline(), PATIENCE)
        await self.start_logind()

    async def start_logind(self) -> None:
        self._bus = await MessageBus(bus_address=self.address, negotiate_unix_fd=True).connect()
        self.manager = Manager()
        self._bus.export(PATH, self.manager)
        await self._bus.request_name(NAME)

    def stop_logind(self) -> None:
        if self._bus is not None:
            self._bus.disconnect()

    async def stop(self) -> None:
        self.stop_logind()
        if self._daemon is not None and self._daemon.returncode is None:
            self._daemon.terminate()
            await self._daemon.wait()

    async def lie(self) -> None:
        """Somebody who is not logind sends its signal."""
        bus = await MessageBus(bus_address=self.address).connect()
        liar = Manager()
        bus.export(PATH, liar)
        liar.prepare("shutdown", True)
        await bus.request_name("org.example.Liar")  # answered after the signal went out
        bus.disconnect()


def _close(descriptor: int) -> None:
    with suppress(OSError):
        os.close(descriptor)
