"""More than variables: what else of a session comes back, and that a dump leaves no trace."""

from __future__ import annotations

import json
from pathlib import Path

from .conftest import Moved, StartKernel

SNAPSHOT = (
    "repr((sorted(globals()), list(In), sorted(Out), _, __, ___, get_ipython().execution_count,"
    " get_ipython().history_manager.input_hist_raw, sorted(get_ipython().user_ns_hidden),"
    " sorted(__import__('os').environ.items()), __import__('sys').path,"
    " __import__('random').getstate(), __import__('gc').isenabled(),"
    " __import__('sys').getswitchinterval(), __import__('sys').getrecursionlimit(),"
    " __import__('warnings').filters))"
)


def test_dump_leaves_no_trace_in_the_kernel(start_kernel: StartKernel, tmp_path: Path) -> None:
    kernel = start_kernel()
    kernel.run("import numpy as np\n_mine, x = 1, [1, 2]\ng = (i for i in x)")
    kernel.run("x")
    before = kernel.value(SNAPSHOT)
    kernel.dump(tmp_path / "dump")
    kernel.dump(tmp_path / "dump")
    assert kernel.value(SNAPSHOT) == before
    reply = kernel.client.execute_interactive("next(g)", timeout=30, output_hook=lambda m: None)
    assert reply["content"]["execution_count"] == 3


def test_dump_works_when_the_user_took_the_builtin_names(
    start_kernel: StartKernel, tmp_path: Path
) -> None:
    kernel = start_kernel()
    kernel.run("open = exec = compile = getattr = id = print = sys = list = len = 7")
    report = kernel.dump(tmp_path / "dump")
    assert set(report.named("exact")) >= {"open", "exec", "compile", "id", "sys", "len"}


def test_history_and_outputs_go_on_counting(moved: Moved) -> None:
    kernel = moved.kernel
    kernel.run("def f():\n    return 1/0\ndata = [1]")
    kernel.run("data")
    kernel.run("'three'")
    report = moved.move()
    kernel = moved.kernel
    assert {"Out[2]", "Out[3]", "data"} <= set(report.named("exact"))
    assert kernel.value("(_, __, _3, Out[2] is data, _2 is data, _i3)") == (
        "('three', [1], 'three', True, True, \"'three'\")"
    )
    reply = kernel.client.execute_interactive("_", timeout=30, output_hook=lambda m: None)
    assert reply["content"]["execution_count"] == 4
    assert kernel.value("(len(In), In[2], sorted(Out))") == "(5, 'data', [2, 3, 4])"
    assert kernel.value("__import__('inspect').getsource(f)") == repr("def f():\n    return 1/0\n")


def test_a_name_with_underscores_that_the_user_took_stays_the_users(moved: Moved) -> None:
    moved.kernel.run("_ = 'mine'\n_i = 'too'\n_3 = 'three'")
    moved.move()
    assert moved.kernel.value("(_, _i, _3)") == "('mine', 'too', 'three')"


def test_random_numbers_go_on_where_they_were(moved: Moved) -> None:
    moved.kernel.run(
        "import random, numpy as np\nrandom.seed(1); np.random.seed(1)\n"
        "random.gauss(0, 1), np.random.standard_normal()"
    )
    state = "(random.getstate(), np.random.get_state(legacy=False))"
    before = moved.kernel.value(f"repr({state})")
    moved.move()
    assert moved.kernel.value(f"repr({state})") == before


def test_working_directory_environment_and_path_come_back(moved: Moved) -> None:
    moved.kernel.run(
        "import os, sys\nos.makedirs('sub')\nos.chdir('sub')\nos.environ['TOKEN'] = 'é'\n"
        "del os.environ['HOME']\nsys.path.insert(0, os.getcwd())\n"
        "open('mymodule.py', 'w').write('class Thing:\\n    value = 3\\n')\n"
        "from mymodule import Thing\nthing = Thing()\nthing.value = 4"
    )
    report = moved.move()
    assert moved.kernel.value("(os.getcwd()[-4:], os.environ['TOKEN'], 'HOME' in os.environ)") == (
        "('/sub', 'é', False)"
    )
    assert moved.kernel.value("(type(thing) is Thing, thing.value, sys.path[0][-4:])") == (
        "(True, 4, '/sub')"
    )
    assert {part["state"] for part in report.also.values()} == {"exact"}


def test_settings_of_libraries_come_back(moved: Moved) -> None:
    moved.kernel.run(
        "import decimal, warnings, numpy as np, pandas as pd, matplotlib.pyplot as plt\n"
        "decimal.getcontext().prec = 5\nwarnings.filterwarnings('ignore', message='mine')\n"
        "np.set_printoptions(precision=2)\npd.set_option('display.max_rows', 7)\n"
        "plt.rcParams['lines.linewidth'] = 9\nplt.style.use('ggplot')"
    )
    settings = (
        "(decimal.getcontext().prec, warnings.filters[0][1].pattern, str(np.array([1/3])),"
        " pd.get_option('display.max_rows'), dict(plt.rcParams))"
    )
    before = moved.kernel.value(f"repr({settings})")
    assert before.startswith("\"(5, 'mine', '[0.33]', 7")
    moved.move()
    assert moved.kernel.value(f"repr({settings})") == before


def test_a_plot_looks_the_same_after_a_move(moved: Moved) -> None:
    moved.kernel.run("import matplotlib.pyplot as plt\nplt.style.use('ggplot')")
    draw = "fig, ax = plt.subplots()\nax.plot([1, 3, 2])\nplt.show()"
    (before,) = moved.kernel.run(draw)
    moved.move()
    (after,) = moved.kernel.run(draw)
    assert before["content"]["data"]["image/png"] == after["content"]["data"]["image/png"]


def test_a_notebook_that_annotates_its_variables_keeps_them(moved: Moved) -> None:
    moved.kernel.run("count: int = 3")
    moved.move()
    assert moved.kernel.value("(count, __annotations__)") == "(3, {'count': int})"


def test_report_is_json_that_names_every_variable(
    start_kernel: StartKernel, tmp_path: Path
) -> None:
    kernel = start_kernel()
    kernel.run("a = [1]\ng = (i for i in a)\nh = {'g': g}")
    kernel.dump(tmp_path / "dump")
    report = json.loads((tmp_path / "dump" / "report.json").read_text())
    states = {name: variable["state"] for name, variable in report["variables"].items()}
    assert states == {"a": "exact", "g": "lost", "h": "degraded"}
    assert report["variables"]["g"]["type"] == "generator"
    assert "generator" in report["variables"]["g"]["why"]
    assert "generator" in report["variables"]["h"]["why"]
    assert 0 < report["seconds"] < 60
    assert report["bytes"] == sum(
        f.stat().st_size
        for f in (tmp_path / "dump").iterdir()
        if f.name not in ("report.json", "index.json")
    )
