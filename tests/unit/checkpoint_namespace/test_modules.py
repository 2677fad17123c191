"""What was imported, and the process itself, come back as they were and not as new."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Moved

OWN = """
import random, types, uuid
CONFIG = {"lr": 0.1}
settings = types.SimpleNamespace(lr=0.1, layers=[1])
rng = random.Random(0)
START = uuid.uuid4()
REGISTRY = {}
count = 0
class Model:
    made = []
    number = 0
def register(f):
    REGISTRY[f.__name__] = f
    return f
"""


@pytest.fixture
def own(moved: Moved, tmp_path: Path) -> Moved:
    (tmp_path / "workspace" / "own.py").write_text(OWN)
    return moved


def test_what_was_changed_in_the_users_own_module_is_as_it_was_left(own: Moved) -> None:
    own.kernel.run(
        "import own, numpy as np\nfrom own import CONFIG, settings, rng, START, register\n"
        "CONFIG['lr'] = 0.5\nsettings.layers.append(9)\nrng.random()\nown.count += 3\n"
        "own.Model.made.append(1)\nown.Model.number = 4\nown.array = np.arange(3)\n"
        "keep = settings\n"
        "@register\ndef f():\n    return 7"
    )
    facts = (
        "(CONFIG, settings.layers, rng.getstate()[1][:3], START, own.count, own.Model.made,"
        " own.Model.number, own.array.tolist())"
    )
    before = own.kernel.value(facts)
    report = own.move()
    assert own.kernel.value(facts) == before
    same = "(own.CONFIG is CONFIG, own.rng is rng, keep is own.settings, own.REGISTRY['f'] is f)"
    assert own.kernel.value(same) == "(True, True, True, True)"
    assert [name for name in report.also if name.startswith("change")] == []


def test_what_the_users_module_cannot_keep_is_told_and_new(own: Moved) -> None:
    own.kernel.run("import own\nown.rows = (i for i in 'ab')\nown.CONFIG['lr'] = 2")
    report = own.move()
    assert report.also["own.rows"]["state"] == "lost"
    assert own.kernel.value("own.CONFIG") == "{'lr': 2}"


def test_an_imported_object_of_a_library_is_the_librarys_own_or_told(moved: Moved) -> None:
    moved.kernel.run(
        "from string import Formatter\nfrom calendar import c, different_locale\n"
        "from email.policy import default\nimport calendar, email.policy\nc.mine = [1]"
    )
    report = moved.move()
    assert moved.kernel.value("(c is calendar.c, default is email.policy.default)") == (
        "(True, True)"
    )
    assert report.variables["default"].state == "exact"
    assert report.variables["c"].state == "degraded"
    assert report.also["change of calendar.c"]["state"] == "lost"


def test_streams_that_were_put_in_the_place_of_the_kernels_come_back(moved: Moved) -> None:
    moved.kernel.run(
        "import sys, io\n"
        "class Tee:\n    def __init__(self, out):\n        self.out, self.log = out, []\n"
        "    def write(self, text):\n        self.log.append(text)\n        self.out.write(text)\n"
        "    def flush(self):\n        self.out.flush()\n"
        "tee = sys.stdout = Tee(sys.stdout)\nerrors = sys.stderr = io.StringIO()\n"
        "sys.argv = ['train.py', '--lr', '0.1']\nprint('one', file=errors)"
    )
    report = moved.move()
    facts = "(sys.stdout is tee, sys.stderr is errors, errors.getvalue(), sys.argv[1:])"
    assert moved.kernel.value(facts) == "(True, True, 'one\\n', ['--lr', '0.1'])"
    moved.kernel.run("print('two')")
    assert moved.kernel.value("(tee.log[-2:], type(tee.out).__name__)") == (
        "(['two', '\\n'], 'OutStream')"
    )
    assert [name for name in report.also if name.startswith("change")] == []


def test_settings_of_the_process_come_back_and_handlers_are_told(moved: Moved) -> None:
    moved.kernel.run(
        "import sys, gc, os, signal, decimal, time, socket\nsys.setrecursionlimit(12345)\n"
        "gc.disable()\nos.umask(0o077)\nctx = decimal.getcontext()\nsocket.setdefaulttimeout(7)\n"
        "os.environ['TZ'] = 'Asia/Tokyo'\ntime.tzset()\nsignal.signal(10, lambda *a: None)"
    )
    facts = (
        "(sys.getrecursionlimit(), gc.isenabled(), os.umask(63), ctx is decimal.getcontext(),"
        " socket.getdefaulttimeout(), time.localtime(0).tm_hour)"
    )
    report = moved.move()
    assert moved.kernel.value(facts) == "(12345, False, 63, True, 7.0, 9)"
    assert report.also["handler of SIGUSR1"]["state"] == "lost"
