"""dill: `dump_session` after each cell, `load_session` in a new process.

Arguments: a directory, the number of cells, bytes of the array.
"""

# ruff: noqa: S102 (cells are code)
# mypy: disable-error-code="import-not-found"

import json
import pathlib
import statistics
import subprocess
import sys
import time

LOAD = """
import dill, sys
dill.load_session(sys.argv[1])
print(float(x[0]))
"""


def main(directory: str, cells: int, size: int) -> None:
    """Run the cells in this process, whose `__main__` is what dill saves."""
    import dill

    space = sys.modules["__main__"].__dict__
    array = f"import numpy; x = numpy.random.default_rng(0).random({size} // 8)"
    exec(f"{array}; y = numpy.zeros(125)", space)
    paused, stored = [], 0
    for cell in range(cells + 1):
        file = pathlib.Path(directory, f"cell-{cell}.pkl")
        exec(f"y[:] = {cell}.5", space)
        began = time.perf_counter()
        dill.dump_session(str(file))
        paused.append(time.perf_counter() - began)
        stored += file.stat().st_size
        if cell:
            file.with_name(f"cell-{cell - 1}.pkl").unlink()
    restored = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", LOAD, file], check=True, capture_output=True)
        restored.append(time.perf_counter() - began)
    found = {
        "total_mb": stored / 1e6,
        "cell_mb": stored / 1e6 / (cells + 1),
        "pause_ms": 1000 * statistics.median(paused[1:]),
        "restore_s": statistics.median(restored),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
