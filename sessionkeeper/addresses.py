"""What sessions and kernels are called where a connection carries those of many.

Kernel ids do not tell sessions apart: a fork has the kernels of its origin, and a client may choose
an id. So link frames bear an address made of both; nobody has to be told it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from functools import lru_cache

SESSION_HEADER = "Sessionkeeper-Session"
"""Which session an operator means; without it the one that the gateway was started with."""

_SPACE = uuid.UUID("5e55104b-ee9e-5000-8000-000000000000")


@lru_cache(4096)
def address_of(session: str, kernel_id: str) -> str:
    """Return the address of a session's kernel, a UUID (RFC 9562, version 5)."""
    return str(uuid.uuid5(_SPACE, f"{session}/{kernel_id}"))


class Addresses:
    """Finds who has an address among ``known``, the (session, kernel id) there are now."""

    def __init__(self, known: Callable[[], Iterable[tuple[str, str]]]) -> None:
        self._known = known
        self._found: dict[str, tuple[str, str]] = {}

    def find(self, address: str) -> tuple[str, str] | None:
        """Return whose it is: (session, kernel id), which may be gone by now; None: nobody's."""
        if address not in self._found:
            self._found = {address_of(*one): one for one in self._known()}
        return self._found.get(address)
