"""Settings that libraries keep for the whole process, and that notebooks change in their first
cells.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

# matplotlib picks its backend by the kernel it is in.
_BACKEND = ("backend", "backend_fallback")


def _matplotlib_get(matplotlib: Any) -> dict[str, Any]:
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name not in _BACKEND}


def _matplotlib_set(matplotlib: Any, saved: dict[str, Any]) -> None:
    for name, value in saved.items():
        if name in matplotlib.rcParams and matplotlib.rcParams[name] != value:
            matplotlib.rcParams[name] = value


def _pandas_get(pandas: Any) -> dict[str, Any]:
    config = pandas._config.config
    registered = config._registered_options
    values = {name: config.get_option(name) for name in registered}
    return {n: v for n, v in values.items() if v != registered[n].defval}


def _pandas_set(pandas: Any, saved: dict[str, Any]) -> None:
    for name, value in saved.items():
        pandas.set_option(name, value)


def _numpy_get(numpy: Any) -> dict[str, Any]:
    return {"print": numpy.get_printoptions(), "errors": numpy.geterr()}


def _numpy_set(numpy: Any, saved: dict[str, Any]) -> None:
    options = {n: v for n, v in saved["print"].items() if n != "override_repr" or v is not None}
    numpy.set_printoptions(**options)
    numpy.seterr(**saved["errors"])


def _decimal_set(decimal: Any, saved: Any) -> None:
    decimal.setcontext(saved)


_SETTINGS: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], None]]] = {
    "numpy": (_numpy_get, _numpy_set),
    "pandas": (_pandas_get, _pandas_set),
    "matplotlib": (_matplotlib_get, _matplotlib_set),
    "sklearn": (lambda m: m.get_config(), lambda m, saved: m.set_config(**saved)),
    "decimal": (lambda m: m.getcontext().copy(), _decimal_set),
}


def capture(filters: list[Any]) -> tuple[dict[str, bytes], dict[str, Exception]]:
    """Settings of the loaded libraries, pickled, and those that could not be read.

    ``filters`` are the user's ``warnings.filters``.
    """
    saved: dict[str, bytes] = {}
    failed: dict[str, Exception] = {}
    for name, (get, _) in _SETTINGS.items():
        module = sys.modules.get(name)
        if module is None:
            continue
        try:
            saved[name] = pickle.dumps(get(module))
        except Exception as error:
            failed[name] = error
    try:
        saved["warnings"] = pickle.dumps(filters)
    except Exception as error:
        failed["warnings"] = error
    return saved, failed


def restore(saved: dict[str, bytes], also: Callable[[str, Exception | None], None]) -> list[Any]:
    """Apply saved settings; returns the ``warnings.filters`` to set when loading is over."""
    filters: list[Any] = []
    for name, data in saved.items():
        try:
            value = pickle.loads(data)  # noqa: S301 - the session's own data
            if name == "warnings":
                filters = value
            else:
                __import__(name)
                _SETTINGS[name][1](sys.modules[name], value)
            also(f"settings of {name}", None)
        except Exception as error:
            also(f"settings of {name}", error)
    return filters


def capture_python(held: dict[str, Any]) -> dict[str, Any]:
    """What the process itself was set to. ``held`` is what the engine has changed meanwhile."""
    mask = os.umask(0)
    os.umask(mask)
    socket = sys.modules.get("socket")
    timeout = socket.getdefaulttimeout() if socket is not None else None
    return {**held, "umask": mask, "timeout": timeout, "timezone": time.tzname}


def restore_python(
    saved: dict[str, Any], held: dict[str, Any], also: Callable[[str, Exception | None], None]
) -> None:
    """Set the process to it; what the engine holds is changed when it lets go of ``held``."""
    if not saved:
        return
    held.update({name: saved[name] for name in held.keys() & saved.keys()})
    os.umask(saved["umask"])
    if time.tzname != saved["timezone"]:
        time.tzset()  # the environment is that of the session already
    if saved["timeout"] is not None:
        import socket

        socket.setdefaulttimeout(saved["timeout"])
    also("settings of the process", None)


def handlers() -> list[str]:
    """Signals that the notebook's own functions handle."""
    own = [one for one in signal.Signals if _is_users(signal.getsignal(one))]
    return [one.name for one in own]


def _is_users(handler: Any) -> bool:
    return callable(handler) and getattr(handler, "__module__", None) == "__main__"
