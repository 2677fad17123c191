"""An image with a shell, this machine's Python and ipykernel, as that of a repository would have
them. Made without a builder and without a network, for measurements and tests.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from sessionkeeper.images.writing import File, layer

USER = 1000
HOME = "/home/ann"
ENV = "/srv/env"
NOT_NEEDED = re.compile(
    r"/(test|tests|idlelib|tkinter|turtledemo|lib2to3|ensurepip|site-packages|dist-packages"
    r"|config-[^/]*|__phello__)(/|$)|\.(a|pyi|exe)$|\.opt-\d\.pyc$|/lib-dynload/(_tkinter|_test|_ctypes_test|_xx)"
)
LEFT_OUT = {"debugpy"}  # 30 MB, and only debuggers want it
PROGRAMS = (
    *("/bin/sh", "/bin/bash", "/bin/cat", "/bin/cp", "/bin/mkdir", "/bin/sleep"),
    "/usr/bin/env",
)
CONFIG = {
    "User": "ann",
    "Env": [f"PATH={ENV}/bin:/usr/bin:/bin", "LANG=C.UTF-8", "FROM_IMAGE=yes"],
    "WorkingDir": HOME,
}


def distributions(name: str) -> Iterator[str]:
    """The names of a distribution and of all it needs here."""
    known: set[str] = set()
    todo = [name]
    while todo:
        one = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if one in known or one in LEFT_OUT:
            continue
        try:
            needs = distribution(one).requires or []
        except PackageNotFoundError:
            continue
        known.add(one)
        yield one
        todo += [re.split(r"[ ;<>=!~\[(]", need)[0] for need in needs if "extra ==" not in need]


def packages() -> Iterator[tuple[str, Path]]:
    """Paths below site-packages, and where their content is."""
    for name in distributions("ipykernel"):
        for file in distribution(name).files or []:
            found = Path(str(file.locate()))
            if (
                not str(file).startswith("..")
                and found.is_file()
                and not NOT_NEEDED.search(f"/{file}")
            ):
                yield str(file), found


def standard_library() -> Iterator[tuple[str, Path]]:
    base = Path(sysconfig.get_path("stdlib"))
    for above, directories, names in os.walk(base):
        directories[:] = [d for d in directories if not NOT_NEEDED.search(f"{above}/{d}/")]
        for name in names:
            path = Path(above) / name
            if not NOT_NEEDED.search(str(path)) and path.is_file():
                yield str(path), path


def libraries(programs: list[Path]) -> set[str]:
    """The shared libraries, and the loader, of programs and of libraries."""
    found: set[str] = set()
    for start in range(0, len(programs), 200):
        command = ["ldd", *map(str, programs[start : start + 200])]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        found |= set(re.findall(r"(/[^ :]+) \(0x", said))
    return {path for path in found if path.startswith(("/lib", "/usr/lib", sys.base_prefix))}


@cache
def files() -> tuple[File, ...]:
    """The image's lowest layer."""
    python = Path(os.path.realpath(sys.executable))
    own = dict(standard_library())
    inside = f"{ENV}/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    own |= {f"{inside}/{path}": found for path, found in packages()}
    own[str(python)] = python
    own |= {program: Path(program).resolve() for program in PROGRAMS}
    shared = [path for path in own.values() if ".so" in path.name] + [
        python,
        *(Path(program) for program in PROGRAMS),
    ]
    own |= {path: Path(path).resolve() for path in libraries(shared)}
    text = {
        "/etc/passwd": f"root:x:0:0:root:/root:/bin/sh\nann:x:{USER}:{USER}::{HOME}:/bin/bash\n",
        "/etc/group": f"root:x:0:\nann:x:{USER}:\n",
        f"{ENV}/pyvenv.cfg": f"home = {python.parent}\ninclude-system-site-packages = false\n",
    }
    directories = {str(above) for path in (*own, *text) for above in Path(path).parents}
    return (
        *(File(path.lstrip("/")) for path in sorted(directories - {"/"})),
        File("tmp", mode=0o1777),
        File("home/ann", mode=0o755, user=USER),
        *(File(path.lstrip("/"), found, 0o755) for path, found in own.items()),
        *(File(path.lstrip("/"), content.encode()) for path, content in text.items()),
        File(f"{ENV}/bin".lstrip("/")),
        File(f"{ENV}/bin/python".lstrip("/"), link=str(python)),
        File(f"{ENV}/bin/python3".lstrip("/"), link="python"),
    )


@cache
def base_layer() -> bytes:
    """All of it, as one layer."""
    return layer(files())
