"""One bad object, one damaged file or one full disk never spoils the rest."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from checkpoint.namespace import engine

from .conftest import Kernel, Moved, StartKernel


def _index(path: Path) -> dict[str, dict[str, object]]:
    index = json.loads((path / engine.INDEX).read_text())
    return {entry["name"]: group for group in index["groups"] for entry in group["entries"]}


def test_use_of_a_lost_part_says_what_was_lost(moved: Moved) -> None:
    moved.kernel.run("box = {'gen': (i for i in 'ab'), 'n': 1}")
    moved.move()
    for use in ("next(box['gen'])", "list(box['gen'])", "box['gen'].send(1)", "bool(box['gen'])"):
        with pytest.raises(RuntimeError, match="this generator was lost: a generator's position"):
            moved.kernel.value(use)
    assert moved.kernel.value("box['n']") == "1"


def test_an_object_that_fails_only_when_loaded_is_reported_and_the_rest_is_there(
    moved: Moved,
) -> None:
    moved.kernel.run(
        "class Bad:\n    def __reduce__(self):\n        return int, ('not a number',)\n"
        "before, bad, after = [1], Bad(), [2]\nholder = {'bad': bad}\nlast = 3"
    )
    report = moved.move()
    assert moved.dumped is not None
    assert moved.dumped.variables["bad"].state == "exact"
    assert report.variables["bad"].state == "lost"
    assert "not a number" in str(report.variables["bad"].why)
    assert report.variables["holder"].state == "lost"
    assert moved.kernel.value("(before, after, last, 'bad' in globals())") == "([1], [2], 3, False)"


def test_a_module_that_is_gone_costs_only_what_needs_it(moved: Moved) -> None:
    moved.kernel.run(
        "open('gone.py', 'w').write('class T: pass')\nimport gone\nfrom gone import T\n"
        "thing, other = T(), [1]\nimport os\nos.unlink('gone.py')"
    )
    report = moved.move()
    assert sorted(report.named("lost")) == ["T", "gone", "thing"]
    assert "No module named 'gone'" in str(report.variables["gone"].why)
    assert moved.kernel.value("other") == "[1]"


def test_a_damaged_stream_costs_only_its_variables(
    start_kernel: StartKernel, tmp_path: Path
) -> None:
    kernel = start_kernel()
    kernel.run("import numpy as np\na = np.ones(50_000)\nb, c = [1], {'x': 2}")
    kernel.dump(tmp_path / "dump")
    groups = _index(tmp_path / "dump")
    (tmp_path / "dump" / str(groups["b"]["file"])).write_bytes(b"")
    buffers = groups["a"]["buffers"]
    assert isinstance(buffers, list)
    os.truncate(tmp_path / "dump" / buffers[0][0], 100)
    kernel.kill()
    fresh = start_kernel()
    report = fresh.load(tmp_path / "dump")
    assert sorted(report.named("lost")) == ["a", "b"]
    assert fresh.value("c") == "{'x': 2}"


def test_an_interrupted_dump_is_not_loadable(start_kernel: StartKernel, tmp_path: Path) -> None:
    kernel = start_kernel()
    kernel.run("a = 1")
    kernel.dump(tmp_path / "dump")
    (tmp_path / "dump" / engine.INDEX).unlink()
    with pytest.raises(engine.NamespaceError, match="no complete namespace dump"):
        kernel.load(tmp_path / "dump")
    assert kernel.value("a") == "1"


def test_a_newer_format_is_refused_with_words(start_kernel: StartKernel, tmp_path: Path) -> None:
    kernel = start_kernel()
    kernel.dump(tmp_path / "dump")
    index = tmp_path / "dump" / engine.INDEX
    index.write_text(index.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(engine.NamespaceError, match="has format 99"):
        kernel.load(tmp_path / "dump")


def test_code_of_another_python_is_not_run(start_kernel: StartKernel, tmp_path: Path) -> None:
    kernel = start_kernel()
    kernel.run("def f(): return 1\nx = [2]")
    kernel.dump(tmp_path / "dump")
    index = tmp_path / "dump" / engine.INDEX
    index.write_text(index.read_text().replace('"python": "3.', '"python": "2.'))
    report = start_kernel().load(tmp_path / "dump")
    assert report.named("lost") == ["f"]
    assert "Python 2." in str(report.variables["f"].why)


def test_what_exceeds_the_limit_is_lost_and_the_rest_is_kept(
    start_kernel: StartKernel, tmp_path: Path
) -> None:
    kernel = start_kernel()
    kernel.run("import numpy as np\nbig = np.ones(1_000_000)\nwords = ['w'] * 10\nsmall = [1]")
    report = kernel.dump(tmp_path / "dump", limit=1_000_000)
    assert report.named("lost") == ["big"]
    assert report.variables["big"].why == "the dump would exceed its size limit"
    assert report.bytes < 1_000_000


def test_a_directory_that_cannot_be_written_is_an_error_and_the_kernel_goes_on(
    start_kernel: StartKernel, tmp_path: Path
) -> None:
    kernel = start_kernel()
    kernel.run("a = 1")
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(engine.NoReport):
        kernel.dump(tmp_path / "file")
    assert kernel.value("a") == "1"


def test_a_disk_that_takes_no_more_fails_the_dump_as_a_whole(
    start_kernel: StartKernel, tmp_path: Path
) -> None:
    kernel = start_kernel()
    kernel.run("import numpy as np, resource\na = np.ones(100_000)")
    kernel.dump(tmp_path / "dump")
    full = "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))"
    kernel.run(f"a += 1; {full}")
    with pytest.raises(engine.NamespaceError, match="File too large"):
        kernel.dump(tmp_path / "dump")
    assert not (tmp_path / "dump" / engine.INDEX).exists()
    kernel.run(full.replace("500_000", "resource.RLIM_INFINITY"))
    assert kernel.dump(tmp_path / "dump").variables["a"].state == "exact"
    assert kernel.value("a.sum()") == "np.float64(200000.0)"


def test_a_raised_recursion_limit_does_not_crash_the_kernel(
    start_kernel: StartKernel, tmp_path: Path
) -> None:
    kernel = start_kernel()
    kernel.run(
        "import sys\nsys.setrecursionlimit(10**7)\ndeep = []\n"
        "for _ in range(300_000):\n    deep = [deep]\nx = [1]"
    )
    report = kernel.dump(tmp_path / "dump")
    assert report.variables["deep"].why == "it is nested too deeply"
    assert report.variables["x"].state == "exact"
    assert kernel.value("sys.getrecursionlimit()") == str(10**7)


def _file_kernel(start: StartKernel) -> Kernel:
    kernel = start()
    kernel.run("out = open('out.txt', 'w+')\nout.write('0123456789')\nout.seek(4)")
    return kernel


def test_a_file_open_for_writing_is_not_touched_by_a_load(
    start_kernel: StartKernel, tmp_path: Path
) -> None:
    kernel = _file_kernel(start_kernel)
    kernel.dump(tmp_path / "dump")
    kernel.kill()
    file = tmp_path / "workspace" / "out.txt"
    before = file.stat()
    fresh = start_kernel()
    fresh.load(tmp_path / "dump")
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (
        10,
        before.st_mtime_ns,
        before.st_ino,
    )
    fresh.run("out.write('X')\nout.flush()")
    assert file.read_text() == "0123X56789"


def test_a_file_that_changed_meanwhile_is_not_opened_for_writing(
    start_kernel: StartKernel, tmp_path: Path
) -> None:
    kernel = _file_kernel(start_kernel)
    kernel.dump(tmp_path / "dump")
    kernel.kill()
    file = tmp_path / "workspace" / "out.txt"
    file.write_text("something else")
    report = start_kernel().load(tmp_path / "dump")
    assert report.variables["out"].state == "lost"
    assert "has 14 bytes now, it had 10" in str(report.variables["out"].why)
    assert file.read_text() == "something else"


def test_a_file_that_is_gone_is_not_created(start_kernel: StartKernel, tmp_path: Path) -> None:
    kernel = _file_kernel(start_kernel)
    kernel.dump(tmp_path / "dump")
    kernel.kill()
    (tmp_path / "workspace" / "out.txt").unlink()
    report = start_kernel().load(tmp_path / "dump")
    assert report.variables["out"].state == "lost"
    assert not (tmp_path / "workspace" / "out.txt").exists()
