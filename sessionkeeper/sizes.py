"""How much something takes, as it is typed and as it is told."""

from __future__ import annotations

import re

__all__ = ["parse_size", "spelled_size"]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(?:i?B)?|B)?", re.IGNORECASE)


def parse_size(text: object) -> int:
    """Bytes of `2G`, `512MiB`, `1.5g` (powers of 1024) or a plain number; else ValueError."""
    match = _SIZE.fullmatch(str(text).strip())
    if not match:
        raise ValueError("is not a size such as 512M or 2G")
    return int(float(match[1]) * 1024 ** " KMGT".index((match[2] or " ").upper()))


def spelled_size(size: int) -> str:
    """`20 GiB` of so many bytes."""
    for power, name in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size >= 1024**power:
            return f"{size / 1024**power:.3g} {name}"
    return f"{size} bytes"
