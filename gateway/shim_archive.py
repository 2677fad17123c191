"""Packs the shim into one file that runs with any image's Python and pyzmq."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

# What `preload` of a shim that waits for an ipykernel should hold: all that such a kernel imports
# before it answers, so that it starts in 0.1 s and not in 0.6 s. What is missing is left out.
PRELOAD = (
    "ipykernel.kernelapp",
    "ipykernel.ipkernel",
    "ipykernel.zmqshell",
    "ipykernel.debugger",
    "tornado.platform.asyncio",
    "IPython.core.completer",
    "IPython.core.completerlib",
    "IPython.core.debugger",
    "IPython.core.oinspect",
    "IPython.extensions.storemagic",
    "jedi",
    "comm",
    "sqlite3",
)

SHIPPED = (
    "frames.py",
    "kernel_boot.py",
    "shim.py",
    "shim_agent.py",
    "shim_calls.py",
    "shim_dropped.py",
    "shim_ends.py",
    "shim_haste.py",
    "shim_kernel.py",
    "shim_link.py",
    "shim_starved.py",
    "shim_streams.py",
)
_MAIN = "import sys\nfrom gateway.shim import main\nsys.exit(main(sys.argv))\n"


def build_shim(path: Path) -> Path:
    """Write the shim as a zipapp to `path` (replaced in one step); returns `path`.

    The bytes depend on the sources alone, so equal shims are equal files.
    """
    source = Path(__file__).parent
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:

        def add(name: str, text: str) -> None:
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)

        add("__main__.py", _MAIN)
        add("gateway/__init__.py", "")
        for module in SHIPPED:
            add(f"gateway/{module}", (source / module).read_text())
    part.chmod(0o755)
    os.replace(part, path)
    return path
