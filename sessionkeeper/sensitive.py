"""Which variables of a kernel's environment are secrets. Pure.

Nobody marks them, so their names tell, as they do in CI systems and log scrubbers; and a URL with a
password in it is one whatever it is called. Too many are taken for secrets rather than too few: all
that follows is that a session does not go to somebody's computer at home by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["has_secrets", "is_secret"]

_WORDS = re.compile(
    r"apikey|auth|cookie|credentials?|creds|dsn|jwt|keys?|pass|passphrase|passwd|passwords?|pat"
    r"|secrets?|signature|tokens?"
)
_URL_WITH_PASSWORD = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@", re.IGNORECASE)


def is_secret(name: str, value: str) -> bool:
    """Whether the variable is a secret: a word of its name says so (``AWS_SECRET_ACCESS_KEY``,
    ``githubToken``), or its value is a URL with a password. An empty one is none.
    """
    if not value:
        return False
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    words = re.split(r"[^a-z]+", spaced.lower())
    return any(map(_WORDS.fullmatch, words)) or bool(_URL_WITH_PASSWORD.search(value))


def has_secrets(environment: Mapping[str, str]) -> bool:
    """Whether any of them is one."""
    return any(is_secret(name, str(value)) for name, value in environment.items())
