"""What a node may say of itself when it connects. Pure.

It is looked at once, at the door: what comes further has the types that everything behind it goes
by. A node that is hostile, or a version that is strange, is refused, and harms nobody else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from gateway.errors import BadFrame
from sessionkeeper.placement import TIER_ORDER

MOST_SESSIONS, MOST_KERNELSPECS = 10_000, 200
LONGEST_NAME, LONGEST_REFERENCE = 128, 1024
RESOURCES = ("logo-64x64.png", "logo-32x32.png")
"""Of a kernelspec, what is taken from a machine that is not the operator's: no scripts."""


def checked(hello: Mapping[str, Any], *, trusted: bool) -> dict[str, Any]:
    """Return it. Of one that is not ``trusted``, what pages would run is left out. Raises
    ``BadFrame`` that names what makes no sense.
    """
    for what, is_good in _RULES.items():
        if what in hello and not is_good(hello[what]):
            raise BadFrame(f"The hello of a node makes no sense: its {what}.")
    if "node" not in hello:
        raise BadFrame("The hello of a node does not name it.")
    if trusted:
        return dict(hello)
    specs = {
        name: {**spec, "resources": {r: spec["resources"][r] for r in RESOURCES if _has(spec, r)}}
        for name, spec in hello.get("kernelspecs", {}).items()
    }
    # Nor can it say that it is the machine of another node, which would wait for it then, or what
    # somebody is to pay for it.
    unknown = dict.fromkeys(("machine", "price", "list_price"))
    return {**hello, "kernelspecs": specs, **unknown}


def _has(spec: Mapping[str, Any], resource: str) -> bool:
    return isinstance(spec["resources"].get(resource), str)


def _name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME


def _reference(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_REFERENCE


def _text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= LONGEST_NAME)


def _price(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and 0 <= value < math.inf)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 50


def _sessions(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= MOST_SESSIONS
        and all(_name(one) and _count(epoch) for one, epoch in value.items())
    )


def _kernelspecs(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= MOST_KERNELSPECS
        and all(
            _name(name)
            and isinstance(one, dict)
            and isinstance(one.get("spec"), dict)
            and isinstance(one.get("resources"), dict)
            for name, one in value.items()
        )
    )


_RULES: dict[str, Callable[[Any], bool]] = {
    "node": _name,
    "instance": _text,
    "tier": lambda value: value in TIER_ORDER,
    "runtime": lambda value: value in ("container", "process"),
    "engines": lambda value: isinstance(value, list) and all(map(_name, value)),
    "kernelspecs": _kernelspecs,
    "images": lambda value: isinstance(value, dict),
    "cpu": lambda value: isinstance(value, str),
    "cpu_level": _text,
    "cpu_baseline": _text,
    "cores": _count,
    "machine": _text,
    "price": _price,
    "list_price": _price,
    "has_images": lambda value: isinstance(value, list) and all(map(_reference, value)),
    "memory": lambda value: value is None or _count(value),
    "sessions": _sessions,
}
