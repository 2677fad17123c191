"""No code of the user's runs at a load, and memory that was shared is, or it is told."""

from __future__ import annotations

from .conftest import Moved


def test_making_objects_again_does_not_call_what_the_user_wrote(moved: Moved) -> None:
    moved.kernel.run(
        "import collections, typing\nran = []\n"
        "class Acc:\n    total = 0\n    def __new__(cls, *a):\n        Acc.total += 1\n"
        "        return super().__new__(cls)\n    def __init__(self, k):\n        self.k = k\n"
        "class Word(str):\n    def __new__(cls, a, b):\n        ran.append('new')\n"
        "        return super().__new__(cls, a + b)\n"
        "    def __getnewargs__(self):\n        return self[:1], self[1:]\n"
        "class Counting(dict):\n    def __setitem__(self, k, v):\n        ran.append('set')\n"
        "        super().__setitem__(k, v)\n"
        "class Log(list):\n    def append(self, v):\n        ran.append('append')\n"
        "        super().append(v)\n    extend = append\n"
        "class Oops(Exception):\n    def __new__(cls, code):\n        ran.append('oops')\n"
        "        return super().__new__(cls, code)\n"
        "class Pair(typing.NamedTuple):\n    a: int\n"
        "xs = [Acc(1), Acc(2)]\nword = Word('a', 'b')\ncounting = Counting()\n"
        "counting['me'] = counting\ncounting.tag = 5\nlog = Log()\nlog.append(1)\nlog.append(log)\n"
        "oops, pair = Oops(3), Pair(4)"
    )
    facts = (
        "(Acc.total, [x.k for x in xs], ran, word, type(word) is Word, counting['me'] is counting,"
        " counting.tag, len(log), log[1] is log, oops.args, pair)"
    )
    before = moved.kernel.value(facts)
    report = moved.move()
    assert moved.kernel.value(facts) == before
    assert report.named("lost") == report.named("degraded") == []


def test_views_share_memory_or_are_reported(moved: Moved) -> None:
    moved.kernel.run(
        "import numpy as np\nm = np.memmap('f.bin', dtype='f8', mode='w+', shape=(10,))\n"
        "m[:] = 1\nv = np.asarray(m)\n"
        "records = np.rec.array([(1, 2.0), (3, 4.0)], names='x,y')\nx = records.x\n"
        "b = np.arange(6.0)\nwindows = np.lib.stride_tricks.sliding_window_view(b, 3)\n"
        "alone = np.arange(6.0).reshape(2, 3)\n"
        "objects = np.array([1, 'a', None], dtype=object)\npart = objects[1:]\n"
        "masked = np.ma.array(b, mask=[0, 1, 0, 0, 0, 0])\n"
        "class Mine(np.ndarray): pass\nmine = np.arange(4.0).view(Mine)\ntail = mine[1:]"
    )
    report = moved.move()
    assert report.variables["alone"].state == "exact"
    for name in ("part", "masked", "tail"):
        assert "no longer shares memory" in str(report.variables[name].why), name
    moved.kernel.run("v[0] = 7; x[0] = 9; b[1] = 66")
    assert moved.kernel.value("(float(m[0]), float(np.fromfile('f.bin')[0]))") == "(7.0, 7.0)"
    assert moved.kernel.value("(int(records.x[0]), float(windows[0, 1]))") == "(9, 66.0)"


def test_what_is_bound_to_events_of_this_process_is_told(moved: Moved) -> None:
    moved.kernel.run(
        "import weakref, tempfile, matplotlib\nmatplotlib.use('agg')\n"
        "import matplotlib.pyplot as plt\nclass R: pass\nr = R()\n"
        "ending = weakref.finalize(r, print, 1)\nplace = tempfile.TemporaryDirectory(dir='.')\n"
        "figure, axes = plt.subplots()\nfigure.canvas.mpl_connect('draw_event', lambda e: None)"
    )
    report = moved.kernel.dump(moved.directory)
    assert report.variables["ending"].state == "lost"
    assert "finalize inside is lost" in str(report.variables["place"].why)
    assert "connected to its events" in str(report.variables["figure"].why)
