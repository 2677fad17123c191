"""The workspace lies elsewhere on the next node: what follows it there, and what does not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from checkpoint.namespace import engine

from .conftest import Kernel, StartKernel


def move(start: StartKernel, first: Kernel, tmp_path: Path) -> tuple[Kernel, engine.Report]:
    dump, old, new = tmp_path / "dump", tmp_path / "workspace", tmp_path / "elsewhere"
    first.dump(dump)
    first.kill()
    os.rename(old, new)
    old.mkdir()  # the next kernel starts there
    kernel = start()
    report = tmp_path / "loaded.json"
    kernel.run(engine.load_code(dump, report, moved=(old, new)), silent=True)
    shutil.rmtree(old)
    return kernel, engine.read_report(report)


def test_process_state_and_open_files_follow_the_workspace(
    start_kernel: StartKernel, tmp_path: Path
) -> None:
    kernel = start_kernel()
    kernel.run(
        "import os, sys\nhere = os.getcwd()\nos.mkdir('sub'); os.chdir('sub')\n"
        "sys.path.append(here + '/lib')\n"
        "os.environ['DATA'] = here + '/data'; os.environ['WHERE'] = '/usr:' + here + '/bin'\n"
        "f = open(here + '/log.txt', 'w'); f.write('one\\n')\n"
        "g = open('from_sub.txt', 'w'); g.write('12'); os.chdir('..'); os.chdir('sub/..')"
    )
    kernel, _ = move(start_kernel, kernel, tmp_path)
    new = str(tmp_path / "elsewhere")
    assert kernel.value("os.getcwd()") == repr(new)
    assert kernel.value("g.tell(), g.name") == "(2, 'from_sub.txt')"
    assert kernel.value("sys.path[-1]") == repr(f"{new}/lib")
    assert kernel.value("os.environ['DATA']") == repr(f"{new}/data")
    assert kernel.value("os.environ['WHERE']") == repr(f"/usr:{new}/bin")
    kernel.run("f.write('two\\n'); f.flush()")
    assert (tmp_path / "elsewhere" / "log.txt").read_text() == "one\ntwo\n"


def test_user_values_are_never_rewritten_and_said_to_point_to_the_old_place(
    start_kernel: StartKernel, tmp_path: Path
) -> None:
    kernel = start_kernel()
    kernel.run(
        "import os, pathlib\nhere = os.getcwd()\np = pathlib.Path(here) / 'x'\n"
        "beside = here + '-2'\nword = 'workspace'"
    )
    kernel, report = move(start_kernel, kernel, tmp_path)
    assert kernel.value("here") == repr(str(tmp_path / "workspace"))
    assert report.named("degraded") == ["here", "p"]
    assert str(tmp_path / "elsewhere") in (report.variables["p"].why or "")
