"""How many sessions may have a node at a time: of one owner, and in one image. Pure.

As BinderHub has it (``per_repo_quota``, ``high_quota_specs``, ``banned_specs``): a number for all,
and others for those whose name a regular expression matches as a whole; 0 keeps them out. Who is
over it waits in the line, and is told so. A session that hibernates does not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_PART = re.compile(r"(owner|image)(?::(?P<name>[^=]+))?=(?P<most>\d+)")


@dataclass(frozen=True)
class Quotas:
    """``owner`` and ``image`` are the most sessions of one (None: no limit); ``owners`` and
    ``images`` are ``(regular expression, most)``, of which the first that matches counts.
    """

    owner: int | None = None
    image: int | None = None
    owners: tuple[tuple[str, int], ...] = ()
    images: tuple[tuple[str, int], ...] = ()

    def of_owner(self, name: str) -> int | None:
        """Return how many sessions this owner may have; None: any number. Sessions of nobody are
        not one owner's.
        """
        return _first(self.owners, name, self.owner) if name else None

    def of_image(self, name: str | None) -> int | None:
        """Return how many sessions may be in this image; None: any number."""
        return _first(self.images, name, self.image) if name else None


def spelled_quotas(quotas: Quotas) -> str:
    """Inverse of :func:`parse_quotas`."""
    plain = [("owner", quotas.owner), ("image", quotas.image)]
    words = [f"{what}={most}" for what, most in plain if most is not None]
    words += [f"owner:{name}={most}" for name, most in quotas.owners]
    words += [f"image:{name}={most}" for name, most in quotas.images]
    return ",".join(words)


def _first(special: Iterable[tuple[str, int]], name: str, otherwise: int | None) -> int | None:
    for pattern, most in special:
        if re.fullmatch(pattern, name):
            return most
    return otherwise


def parse_quotas(text: object) -> Quotas:
    """Read ``owner=5,image=100,owner:alice=20,image:.*/course:.*=300``. Raises ``ValueError`` that
    goes on after the text.
    """
    most: dict[str, int] = {}
    special: dict[str, list[tuple[str, int]]] = {"owner": [], "image": []}
    for part in filter(None, (part.strip() for part in str(text).split(","))):
        found = _PART.fullmatch(part)
        if found is None:
            raise ValueError("is no quota such as owner=5,image=100,owner:alice=20")
        if found["name"] is None:
            most[found[1]] = int(found["most"])
            continue
        try:
            re.compile(found["name"])
        except re.error as error:
            raise ValueError(f"has a regular expression that is none: {error}") from None
        special[found[1]].append((found["name"], int(found["most"])))
    return Quotas(
        most.get("owner"), most.get("image"), tuple(special["owner"]), tuple(special["image"])
    )
