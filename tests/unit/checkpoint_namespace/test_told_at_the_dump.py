"""What the dump calls exact is exact after the load; what cannot be is told by the dump."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from .conftest import Moved, StartKernel

CELL = """
import ctypes, dataclasses
from unittest import mock

class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int), ("y", ctypes.c_double)]
    def far(self):
        return self.x + self.y

class Packed(ctypes.LittleEndianStructure):
    _pack_ = 1
    _fields_ = [("flag", ctypes.c_char), ("at", Point), ("rest", ctypes.c_int * 3)]

class Either(ctypes.Union):
    _fields_ = [("whole", ctypes.c_uint32), ("parts", ctypes.c_uint8 * 4)]

point, packed, either = Point(3, 4.5), Packed(b"x", Point(1, 2), (1, 2, 3)), Either(0x01020304)
numbers = (ctypes.c_int * 3)(7, 8, 9)
mocked = mock.MagicMock(return_value=3)

class Named:
    def __init__(self, name):
        self.name, self.group = name, set()
    def __hash__(self):
        return hash(self.name)
    def __eq__(self, other):
        return self.name == other.name

cyclic = Named("a")
cyclic.group.add(cyclic)
fine = Named("b")
around = {fine, Named("c")}
begun = set()
last = Named("d")
last.group = begun
begun.add(last)
outer = [begun]

@dataclasses.dataclass(frozen=True)
class Key:
    a: int
    b: str

keys = {Key(1, "x"): 1, Key(2, "y"): 2}
"""

FACTS = """(
    (point.x, point.y, point.far()), (packed.flag, packed.at.y, list(packed.rest)),
    ctypes.sizeof(Packed), (either.whole, list(either.parts)), list(numbers),
    type(numbers) is ctypes.c_int * 3, fine in around, len(around), keys[Key(2, "y")],
)"""


def test_what_the_dump_calls_exact_is_there_after_the_load(moved: Moved) -> None:
    moved.kernel.run(CELL)
    before = moved.kernel.value(FACTS)
    loaded = moved.move()
    assert moved.dumped is not None
    assert moved.kernel.value(FACTS) == before
    for name, told in moved.dumped.variables.items():
        assert (name, told.state) == (name, loaded.variables[name].state)
    assert sorted(loaded.named("lost")) == ["cyclic", "mocked"]
    assert "hashes by attributes" in str(moved.dumped.variables["cyclic"].why)
    assert "a mock has a class of its own" in str(moved.dumped.variables["mocked"].why)


PANDAS_2 = Path(sys.prefix) / "pandas-2"
"""Where `make test` puts it; it comes before the installed one in the kernels' path."""


@pytest.mark.needs("pandas-2")
def test_columns_of_pandas_2_are_views_of_their_frame_afterwards(
    monkeypatch: pytest.MonkeyPatch, start_kernel: StartKernel, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PANDAS_2))
    moved = Moved(start_kernel, tmp_path / "dump")
    moved.kernel.run(
        "import numpy as np, pandas as pd\n"
        "df = pd.DataFrame({'a': np.arange(3.0), 'b': np.arange(3.0), 'c': list('xyz')})\n"
        "col, arr, words, shallow = df['a'], df['b'].values, df['c'], df.copy(deep=False)\n"
        "raw = np.arange(6.0).reshape(3, 2)\nover = pd.DataFrame(raw)\n"
        "pd.set_option('mode.chained_assignment', None)"
    )
    report = moved.move()
    told = {name: said for name, said in report.variables.items() if said.state != "exact"}
    assert all("no longer shares memory" in str(said.why) for said in told.values())
    assert told.keys() <= {"df", "words", "shallow"}  # arrays of objects have no views
    moved.kernel.run("col.iloc[0] = 7; arr[1] = 8; shallow.loc[2, 'a'] = 9; raw[0, 1] = 10")
    facts = "(pd.__version__[0], df.a.tolist(), df.b.tolist(), float(over.iloc[0, 1]))"
    assert moved.kernel.value(facts) == "('2', [7.0, 1.0, 9.0], [0.0, 8.0, 2.0], 10.0)"
    moved.kernel.run("words.iloc[0] = 'new'")
    shared = moved.kernel.value("df.c[0]") == "'new'"
    assert shared or "words" in told
