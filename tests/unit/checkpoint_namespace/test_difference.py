"""What changed is written, and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path

from checkpoint.namespace.inside.blocks import BLOCK, Directory

from .conftest import Kernel, Moved, StartKernel


def _written(kernel: Kernel, directory: Path) -> int:
    kernel.dump(directory)
    written = json.loads((directory / "report.json").read_text())["written"]
    assert isinstance(written, int)
    return written


def test_an_unchanged_array_is_not_written_again(start_kernel: StartKernel, tmp_path: Path) -> None:
    kernel = start_kernel()
    kernel.run("import numpy as np\na = np.random.default_rng(0).random(4_000_000)\nn = 0")
    assert _written(kernel, tmp_path / "dump") > 32_000_000
    kernel.run("n += 1")
    assert _written(kernel, tmp_path / "dump") < 20_000
    kernel.run("a[2_000_000] = 7")
    assert _written(kernel, tmp_path / "dump") < BLOCK + 20_000
    kernel.kill()
    fresh = start_kernel()
    fresh.load(tmp_path / "dump")
    assert fresh.value("(a[2_000_000], a.sum(), n)").startswith("(np.float64(7.0)")


def test_a_new_column_leaves_the_other_columns_alone(
    start_kernel: StartKernel, tmp_path: Path
) -> None:
    kernel = start_kernel()
    kernel.run(
        "import numpy as np, pandas as pd\nrng = np.random.default_rng(0)\n"
        "df = pd.DataFrame(rng.random((200_000, 5)))"
    )
    assert _written(kernel, tmp_path / "dump") > 8_000_000
    kernel.run("df['new'] = df[0] * 2")
    assert _written(kernel, tmp_path / "dump") < 1_700_000


def test_a_new_polars_column_leaves_the_other_columns_alone(
    start_kernel: StartKernel, tmp_path: Path
) -> None:
    kernel = start_kernel()
    kernel.run(
        "import numpy as np, polars as pl\ndf = pl.DataFrame(np.random.random((200_000, 5)))"
    )
    assert _written(kernel, tmp_path / "dump") > 8_000_000
    kernel.run("df = df.with_columns((pl.col('column_0') * 2).alias('new'))")
    assert _written(kernel, tmp_path / "dump") < 1_700_000


def test_objects_that_become_shared_between_dumps_stay_shared(
    start_kernel: StartKernel, tmp_path: Path
) -> None:
    kernel = start_kernel()
    kernel.run("inner = [1]\na, b = [inner], [inner]\nc, d = [[2]], [3]")
    assert not kernel.dump(tmp_path / "dump").named("degraded")
    kernel.run("d[0] = c[0]\nc.append(b)")
    assert not kernel.dump(tmp_path / "dump").named("degraded")
    kernel.run("a.append(i for i in 'xy')")
    assert kernel.dump(tmp_path / "dump").named("degraded") == ["a"]
    kernel.run("del a[1], inner")
    assert not kernel.dump(tmp_path / "dump").named("degraded")
    kernel.kill()
    fresh = start_kernel()
    assert not fresh.load(tmp_path / "dump").named("lost")
    assert fresh.value("(a[0] is b[0], d[0] is c[0], c[1] is b)") == "(True, True, True)"


def test_a_cleared_directory_is_written_anew(start_kernel: StartKernel, tmp_path: Path) -> None:
    kernel = start_kernel()
    kernel.run("import numpy as np\na = np.ones(100_000)")
    _written(kernel, tmp_path / "dump")
    for file in (tmp_path / "dump").iterdir():
        file.unlink()
    assert _written(kernel, tmp_path / "dump") > 800_000


def test_files_of_deleted_variables_go(start_kernel: StartKernel, tmp_path: Path) -> None:
    kernel = start_kernel()
    kernel.run("import numpy as np\na = np.ones(100_000)\nb = [1]")
    kernel.dump(tmp_path / "dump")
    before = len(os.listdir(tmp_path / "dump"))
    kernel.run("del a, b")
    kernel.dump(tmp_path / "dump")
    assert len(os.listdir(tmp_path / "dump")) == before - 3


def test_directory_writes_only_changed_blocks(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    data = bytearray(os.urandom(3 * BLOCK + 5))

    def write() -> int:
        directory.begin()
        directory.write("f", memoryview(data))
        directory.finish({})
        assert (tmp_path / "f").read_bytes() == data
        return directory.written

    assert write() == len(data)
    assert write() == 0
    data[BLOCK] ^= 1
    assert write() == BLOCK
    del data[-10:]
    assert write() == BLOCK - 5
    data += b"more"
    assert write() == BLOCK - 1


def test_a_large_value_is_loaded_without_copies_of_it(moved: Moved) -> None:
    moved.kernel.run("import os\nx = os.urandom(100 << 20)\nn = hash(x[:100])")
    peak = "int(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0]) >> 10"
    fresh = int(moved.kernel.value(peak)) - 100
    moved.move()
    assert moved.kernel.value("len(x) >> 20") == "100"
    assert int(moved.kernel.value(peak)) < fresh + 150
