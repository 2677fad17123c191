"""Asks an image's own Python what of it a session uses. Runs in a container of that image.

    python probe.py        prints one line of JSON, or ends with 3 when the shim cannot run with it

Only the standard library, for Python >= 3.8.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from typing import Any, Dict, List  # noqa: UP035

FILES = ("logo-svg.svg", "logo-64x64.png", "logo-32x32.png", "kernel.js", "kernel.css")
LARGEST = 1 << 18
PYTHONS = (
    "python3",
    "python",
    "/srv/conda/envs/notebook/bin/python",
    "/opt/conda/bin/python",
    "/usr/local/bin/python3",
    "/usr/bin/python3",
)
"""Where an image may have the one that its kernels run with: the first that can run the shim."""


def directories() -> List[str]:  # noqa: UP006
    try:
        from jupyter_core.paths import jupyter_path
    except ImportError:
        home = os.path.expanduser("~/.local/share/jupyter")
        own = os.path.join(sys.prefix, "share", "jupyter")
        prefixes = [home, own, "/usr/local/share/jupyter", "/usr/share/jupyter"]
        return [os.path.join(prefix, "kernels") for prefix in prefixes]
    return list(jupyter_path("kernels"))


def read(place: str) -> Dict[str, Any]:  # noqa: UP006
    with open(os.path.join(place, "kernel.json"), encoding="utf-8") as file:
        spec = json.load(file)
    resources = {}
    for name in FILES:
        path = os.path.join(place, name)
        if os.path.isfile(path) and os.path.getsize(path) <= LARGEST:
            with open(path, "rb") as content:
                resources[name] = base64.b64encode(content.read()).decode()
    return {"spec": spec, "resources": resources, "directory": place}


def kernelspecs() -> Dict[str, Any]:  # noqa: UP006
    found: Dict[str, Any] = {}  # noqa: UP006
    for directory in directories():
        for name in sorted(os.listdir(directory)) if os.path.isdir(directory) else []:
            try:
                found.setdefault(name.lower(), read(os.path.join(directory, name)))
            except (OSError, ValueError):
                continue
    if "python3" not in found:
        try:
            import ipykernel  # noqa: F401
        except ImportError:
            return found
        argv = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": argv, "display_name": "Python 3", "language": "python"}
        found["python3"] = {"spec": spec, "resources": {}, "directory": "/"}
    return found


def main() -> int:
    try:
        import zmq  # noqa: F401
    except ImportError:
        return 3
    said = {
        "python": sys.executable,
        "version": list(sys.version_info[:2]),
        "kernelspecs": kernelspecs(),
    }
    print(json.dumps(said))
    return 0 if sys.version_info >= (3, 8) else 3


if __name__ == "__main__":
    sys.exit(main())
