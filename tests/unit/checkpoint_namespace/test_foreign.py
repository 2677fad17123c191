"""Ordinary objects that answer every question with an error cost themselves alone."""

from __future__ import annotations

from pathlib import Path

from .conftest import Moved

HOSTILE = """
import types, sys, numpy as np
a = [1]
class Proxy:
    @property
    def __class__(self):
        raise RuntimeError("unbound")
    def __eq__(self, other):
        raise RuntimeError("no eq")
proxy = Proxy()
class Lazy(types.ModuleType):
    def __getattribute__(self, name):
        raise ImportError("not installed")
lazy = Lazy("lazy")
class Nameless(types.ModuleType):
    @property
    def __name__(self):
        raise RuntimeError("no name")
nameless = Nameless("nameless")
class Meta(type):
    __qualname__ = "Meta"
    def __getattribute__(cls, name):
        raise RuntimeError("no " + name)
class Odd(metaclass=Meta):
    pass
odd = Odd()
class Module:
    __module__ = None
unplaced = Module()
sys.modules["ghost"] = 5
Out["x"] = 3
globals()[1] = 3
for _i in np.zeros((2, 3)):
    pass
import own
"""


def test_objects_that_raise_when_looked_at_cost_only_themselves(
    moved: Moved, tmp_path: Path
) -> None:
    (tmp_path / "workspace" / "own.py").write_text(
        "class P:\n    @property\n    def __class__(self): raise RuntimeError('unbound')\np = P()\n"
    )
    moved.kernel.run(HOSTILE)
    report = moved.move()
    assert report.variables["a"].state == "exact"
    assert {"proxy", "lazy", "nameless", "Out[x]", "1"} <= set(report.named("lost"))
    assert moved.kernel.value("(a, _i.tolist())") == "([1], [0.0, 0.0, 0.0])"


def test_files_and_names_of_the_user_are_not_taken_for_the_engines_own(
    moved: Moved, tmp_path: Path
) -> None:
    for name in ("cloudpickle", "xxhash", "mmap", "platform", "blake3"):
        (tmp_path / "workspace" / f"{name}.py").write_text("x = 'mine'\n")
    moved.kernel.run("import cloudpickle\n__import__ = warnings = type = 7\ndef f(): return 5")
    report = moved.move()
    assert report.variables["f"].state == "exact"
    assert moved.kernel.value("(f(), cloudpickle.x, __import__)") == "(5, 'mine', 7)"
    moved.kernel.run("import xxhash, blake3")
    assert moved.kernel.value("(xxhash.x, blake3.x)") == "('mine', 'mine')"


def test_an_object_whose_saving_never_ends_is_lost_once_and_the_users_alarm_is_left_alone(
    moved: Moved,
) -> None:
    moved.kernel.run(
        "import threading, signal\nclass Hangs:\n    tried = []\n    def __reduce__(self):\n"
        "        self.tried.append(1)\n        threading.Event().wait()\n"
        "h, box, a = Hangs(), {'h': Hangs(), 'n': 1}, [1]\n"
        "rang = []\nsignal.signal(signal.SIGALRM, lambda *_: rang.append(1))\nsignal.alarm(40)"
    )
    report = moved.kernel.dump(moved.directory, patience=0.3)
    assert "takes for ever" in str(report.variables["h"].why)
    assert report.variables["box"].state == "degraded"
    assert report.variables["a"].state == "exact"
    again = moved.kernel.dump(moved.directory, patience=0.3)
    assert again.seconds < report.seconds
    assert moved.kernel.value("len(Hangs.tried)") == "1"
    assert moved.kernel.value("30 < signal.getitimer(signal.ITIMER_REAL)[0] <= 40") == "True"
    assert moved.kernel.value("len(rang)") == "0"


def test_what_is_printed_while_an_object_is_saved_is_no_output(moved: Moved) -> None:
    moved.kernel.run(
        "import typing\nclass Loud:\n    def __getstate__(self):\n        print('saved')\n"
        "        return {'a': 1}\nloud = Loud()\nUserId = typing.NewType('UserId', int)"
    )
    assert moved.move().named("lost") == []  # a dump that says anything fails here
    assert moved.kernel.value("(loud.a, UserId(3), UserId.__supertype__)") == ("(1, 3, int)")
