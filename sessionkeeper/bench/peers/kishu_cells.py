"""Kishu: attached to an IPython shell, it saves after each cell; `checkout` in a new process.

Arguments: a directory, the number of cells, bytes of the array. A fourth, the id of a commit, is
for the new process.
"""

# mypy: disable-error-code="import-not-found, no-untyped-call"

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from typing import Any


def attached(directory: pathlib.Path) -> tuple[Any, Any]:
    """A shell with Kishu in it, and Kishu. In its test mode it waits for no browser."""
    notebook = directory / "cells.ipynb"
    os.environ["TEST_NOTEBOOK_PATH"] = str(notebook)
    os.environ["KISHU_PATH_ROOT"] = str(directory)
    import nbformat
    from IPython.core.interactiveshell import InteractiveShell
    from kishu.jupyterint import KishuForJupyter
    from kishu.notebook_id import NotebookId

    if not notebook.exists():
        nbformat.write(nbformat.v4.new_notebook(), notebook)
    shell = InteractiveShell.instance()
    kishu = KishuForJupyter(NotebookId("cells", notebook, "test_kernel_id"), ip=shell)
    kishu.set_session_id(1)
    kishu.install_kishu_hooks()
    return shell, kishu


def run(shell: Any, code: str) -> float:
    """Seconds that a cell took."""
    began = time.perf_counter()
    shell.run_cell(code, store_history=True).raise_error()
    return time.perf_counter() - began


def main(directory: pathlib.Path, cells: int, size: int) -> None:
    """Run the cells."""
    shell, kishu = attached(directory)
    array = f"import numpy; x = numpy.random.default_rng(0).random({size} // 8)"
    run(shell, f"{array}; y = numpy.zeros(125)")
    paused, stored = [], [_stored(directory)]
    for cell in range(cells):
        paused.append(run(shell, f"y[:] = {cell}.5"))
        stored.append(_stored(directory))
    last = kishu._kishu_graph.head()
    began = time.perf_counter()
    arguments = [str(directory), str(cells), str(size), last]
    back = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True)
    restored = time.perf_counter() - began if back.returncode == 0 else None
    found = {
        "total_mb": stored[-1] / 1e6,
        "cell_mb": (stored[-1] - stored[0]) / 1e6 / cells,
        "pause_ms": 1000 * statistics.median(paused),
        "restore_s": restored,
    }
    print("\n" + json.dumps(found))


def checkout(directory: pathlib.Path, commit: str) -> None:
    """In the new process."""
    shell, kishu = attached(directory)
    kishu.checkout(commit)
    run(shell, "x[0]")


def _stored(directory: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


if __name__ == "__main__":
    where = pathlib.Path(sys.argv[1])
    if len(sys.argv) > 4:
        checkout(where, sys.argv[4])
    else:
        main(where, int(sys.argv[2]), int(sys.argv[3]))
