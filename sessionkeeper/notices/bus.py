"""The system's message bus, as far as logind is asked something over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusError

from sessionkeeper.notices.notice import SourceFailed

__all__ = ["ANSWER_SECONDS", "Logind", "logind"]

ANSWER_SECONDS = 5.0
_NAME, _PATH = "org.freedesktop.login1", "/org/freedesktop/login1"
_MANAGER, _PROPERTIES = f"{_NAME}.Manager", "org.freedesktop.DBus.Properties"
_DBUS = {"destination": "org.freedesktop.DBus", "path": "/org/freedesktop/DBus"}


class Logind:
    """A connection to the Manager object of systemd-logind; see org.freedesktop.login1(5)."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self._owner = ""

    async def call(self, member: str, signature: str = "", *body: Any) -> Message:
        """Return the answer. Raises :class:`SourceFailed`, with logind's words."""
        return await self._send(
            destination=_NAME,
            path=_PATH,
            interface=_MANAGER,
            member=member,
            signature=signature,
            body=list(body),
        )

    async def get(self, name: str) -> Any:
        """Return a property's value. Raises :class:`SourceFailed`."""
        answer = await self._send(
            destination=_NAME,
            path=_PATH,
            interface=_PROPERTIES,
            member="Get",
            signature="ss",
            body=[_MANAGER, name],
        )
        value = answer.body[0]
        return value.value if isinstance(value, Variant) else value

    async def signals(self) -> asyncio.Queue[tuple[str, list[Any]]]:
        """Return where the Manager's signals arrive from now on: name and arguments. ``("gone",
        [])`` when logind, or the bus, has ended.
        """
        arrived: asyncio.Queue[tuple[str, list[Any]]] = asyncio.Queue()

        def look(message: Message) -> None:
            if message.message_type is not MessageType.SIGNAL:
                return
            if message.sender == self._owner and message.interface == _MANAGER:
                arrived.put_nowait((message.member or "", message.body))
            elif message.sender == _DBUS["destination"] and message.member == "NameOwnerChanged":
                name, _, new = message.body
                if name == _NAME and new != self._owner:
                    arrived.put_nowait(("gone", []))

        self._bus.add_message_handler(look)
        ended = asyncio.ensure_future(self._bus.wait_for_disconnect())  # type: ignore[no-untyped-call]
        ended.add_done_callback(lambda done: done.cancelled() or done.exception())
        ended.add_done_callback(lambda _: arrived.put_nowait(("gone", [])))
        about_dbus = f"type='signal',sender='{_DBUS['destination']}',arg0='{_NAME}'"
        about_logind = f"type='signal',sender='{_NAME}',interface='{_MANAGER}'"
        for rule in (about_dbus, about_logind):
            await self._ask_bus("AddMatch", "s", rule)
        # Anybody may send a signal to us alone, whatever rules say: only logind's count.
        self._owner = str((await self._ask_bus("GetNameOwner", "s", _NAME)).body[0])
        return arrived

    async def _ask_bus(self, member: str, signature: str, *body: Any) -> Message:
        interface = _DBUS["destination"]
        return await self._send(
            **_DBUS, interface=interface, member=member, signature=signature, body=list(body)
        )

    async def _send(self, **message: Any) -> Message:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await self._bus.call(Message(**message))
        except (DBusError, OSError, EOFError, TimeoutError) as error:
            raise SourceFailed(f"logind does not answer {message['member']}: {error}") from error
        if answer is None or answer.message_type is MessageType.ERROR:
            said = answer.body[0] if answer is not None and answer.body else "no answer"
            raise SourceFailed(f"logind refused {message['member']}: {said}")
        return answer


@asynccontextmanager
async def logind(address: str | None = None) -> AsyncIterator[Logind]:
    """Connect to logind by the bus at ``address``; None: the system's.

    Raises :class:`SourceFailed`.
    """
    bus: MessageBus | None = None
    try:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                bus = MessageBus(
                    bus_address=address, bus_type=BusType.SYSTEM, negotiate_unix_fd=True
                )
                await bus.connect()
        except Exception as error:  # the library lets the socket's and the parser's errors through
            raise SourceFailed(f"there is no system bus: {error or repr(error)}") from error
        yield Logind(bus)
    finally:
        if bus is not None:
            bus.disconnect()
