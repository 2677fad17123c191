"""Every row of the matrix is exact, degraded or lost as promised, after SIGKILL and in a new
process.

All rows share one kernel: made, dumped, killed, loaded elsewhere, compared there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from checkpoint.namespace import engine

from .conftest import Kernel
from .matrix import LIBRARIES, Library, Row
from .matrix.document import PATH, text

ROWS = [(library, row) for library in LIBRARIES for row in library.rows]

# Runs in the kernel, in a namespace of its own; `user` is the notebook's.
_COMPARE = """
import contextlib, io, json, warnings
def picture(figure):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return bytes(canvas.buffer_rgba())
results = {}
warnings.simplefilter("ignore")
for name, code, same in rows:
    if name not in user:
        results[name] = "gone"
        continue
    scratch = dict(user)
    try:
        if "new" in same:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(code, scratch)
        it, new = user[name], scratch.get("it")
        names = {**globals(), **scratch, **user, "picture": picture, "it": it, "new": new}
        if "new" in same and type(it).__qualname__ != type(new).__qualname__:
            results[name] = f"it is a {type(it)}"
        else:
            results[name] = "same" if eval(same, names) else f"not so: {same}; it is {it!r:.300}"
    except BaseException as error:
        results[name] = f"{type(error).__name__}: {error}"
print(json.dumps(results))
"""


@dataclass
class Outcome:
    """What the reports say, and what comparing said in the first kernel and in the second."""

    dumped: engine.Report
    loaded: engine.Report
    before: dict[str, str]
    after: dict[str, str]


def _compared(kernel: Kernel) -> dict[str, str]:
    rows = [(library.variable(row), row.statements, row.same) for library, row in ROWS]
    code = f"exec({_COMPARE!r}, {{'rows': {rows!r}, 'user': globals()}})"
    messages = kernel.run(code)
    printed = [m["content"]["text"] for m in messages if m["content"].get("name") == "stdout"]
    results: dict[str, str] = json.loads("".join(printed).splitlines()[-1])
    return results


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    workspace = tmp_path_factory.mktemp("workspace")
    directory = tmp_path_factory.mktemp("dumps") / "dump"
    kernel = Kernel(workspace)
    try:
        kernel.run("import warnings\nwarnings.simplefilter('ignore')")
        for library in LIBRARIES:
            kernel.run(library.cell())
        dumped = kernel.dump(directory)
        before = _compared(kernel)
        kernel.kill()
        kernel = Kernel(workspace)
        loaded = kernel.load(directory)
        yield Outcome(dumped, loaded, before, _compared(kernel))
    finally:
        kernel.close()


@pytest.mark.parametrize(
    ("library", "row"), ROWS, ids=lambda x: x.what if isinstance(x, Row) else x.name
)
def test_object_comes_back_as_the_table_says(library: Library, row: Row, outcome: Outcome) -> None:
    name = library.variable(row)
    assert outcome.before[name] == "same", "the row itself is wrong"
    dumped, loaded = outcome.dumped.variables[name], outcome.loaded.variables[name]
    assert (dumped.state, loaded.state) == (row.state, row.state), (dumped.why, loaded.why)
    assert row.why in (loaded.why or "")
    assert (loaded.why is None) == (row.state == "exact")
    # A lost variable has no name any more: no other value in its place.
    assert outcome.after[name] == ("gone" if row.state == "lost" else "same")


def test_names_of_the_rows_differ() -> None:
    names = Counter(library.variable(row) for library, row in ROWS)
    assert [name for name, count in names.items() if count > 1] == []


def test_the_published_table_is_current() -> None:
    assert PATH.read_text() == text(), f"run python -m {text.__module__}"
