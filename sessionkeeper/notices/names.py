"""What an operator may say about where notices come from."""

from __future__ import annotations

__all__ = ["NAMES", "parse_names"]

NAMES = ("aws", "google", "azure", "kubernetes", "logind", "signal")


def parse_names(text: str) -> tuple[str, ...]:
    """Return the names in ``text``: ``auto``, ``none``, or some of :data:`NAMES`, with commas.

    Raises ValueError that goes on after it.
    """
    words = tuple(dict.fromkeys(one.strip() for one in text.split(",")))
    if words in (("auto",), ("none",)):
        return words
    for word in words:
        if word not in NAMES:
            raise ValueError(f"is not auto, none or some of {', '.join(NAMES)}, with commas")
    return words
