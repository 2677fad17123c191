# ruff: noqa: E501  (a table)
"""Kinds of objects people have in notebooks, and what must become of each.

A case defines the variable of its name; ``check`` is an expression that holds before and after.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    name: str
    code: str
    check: str
    state: str = "exact"


def exact(name: str, code: str, check: str) -> Case:
    return Case(name, code, check)


def degraded(name: str, code: str, check: str) -> Case:
    return Case(name, code, check, "degraded")


def lost(name: str, code: str) -> Case:
    return Case(name, code, "True", "lost")


BUILTINS = [
    exact("integer", "integer = 2**200", "integer == 2**200"),
    exact("floats", "floats = [0.1, float('inf'), -0.0]", "str(floats) == '[0.1, inf, -0.0]'"),
    exact("not_a_number", "not_a_number = float('nan')", "not_a_number != not_a_number"),
    exact("text", "text = 'naïve ☃ \\ud800'", "text == 'naïve ☃ \\ud800'"),
    exact("raw", "raw = bytes(range(256)) * 1000", "raw == bytes(range(256)) * 1000"),
    exact("octets", "octets = bytearray(b'ab')", "octets == b'ab' and type(octets) is bytearray"),
    exact("nothing", "nothing = None", "nothing is None"),
    exact("dots", "dots = ...", "dots is Ellipsis"),
    exact("tuples", "tuples = (1, (2, [3]))", "tuples == (1, (2, [3]))"),
    exact("frozen", "frozen = frozenset({1, 2})", "frozen == frozenset({1, 2})"),
    exact("view", "view = memoryview(octets)", "view.obj is octets and view[0] == 97"),
    exact("span", "span = slice(1, 5, 2)", "span == slice(1, 5, 2)"),
    exact("steps", "steps = range(0, 10, 3)", "list(steps) == [0, 3, 6, 9]"),
    exact("_private", "_private = {'kept': 1}", "_private == {'kept': 1}"),
    exact("__dunder", "__dunder = 5", "globals()['__dunder'] == 5"),
    exact("größe", "größe = 42", "größe == 42"),
    exact("a_type", "a_type = type(None)", "a_type is type(None)"),
    exact("builtin", "builtin = len", "builtin is len"),
    exact("method", "method = [3].append", "method.__self__ == [3]"),
    exact("failure", "failure = KeyError('k', 2)", "failure.args == ('k', 2)"),
    exact("keys", "kd = {'a': 1}\nkeys = kd.keys()", "kd.update(a=1) is None and 'a' in keys"),
]

STANDARD_LIBRARY = [
    exact("exact_number", "import decimal, fractions\nexact_number = decimal.Decimal('1.10')",
          "str(exact_number) == '1.10'"),
    exact("third", "third = fractions.Fraction(1, 3)", "third * 3 == 1"),
    exact("moment", "import datetime as dt\nmoment = dt.datetime(2020, 2, 29, tzinfo=dt.timezone.utc)",
          "moment.isoformat() == '2020-02-29T00:00:00+00:00'"),
    exact("zone", "import zoneinfo\nzone = zoneinfo.ZoneInfo('Europe/Berlin')",
          "zone is zoneinfo.ZoneInfo('Europe/Berlin')"),
    exact("ring", "import collections\nring = collections.deque([1, 2], maxlen=2)",
          "ring.maxlen == 2 and list(ring) == [1, 2]"),
    exact("groups", "groups = collections.defaultdict(list, a=[1])", "groups['new'] == []"),
    exact("counted", "counted = collections.Counter('abca')", "counted['a'] == 2"),
    exact("chain_map", "chain_map = collections.ChainMap({'a': 1}, {'b': 2})", "chain_map['b'] == 2"),
    exact("half_read", "import itertools\nhalf_read = iter([1, 2, 3])\nnext(half_read)",
          "list(__import__('copy').copy(half_read)) == [2, 3]"),
    exact("counting", "counting = itertools.count(5)", "repr(counting) == 'count(5)'"),
    exact("partial", "import functools\npartial = functools.partial(int, base=2)",
          "partial('101') == 5"),
    exact("pattern", "import re\npattern = re.compile(r'(?i)a+')", "pattern.match('AA').end() == 2"),
    exact("path", "import pathlib\npath = pathlib.Path('a') / 'b'", "str(path) == 'a/b'"),
    exact("identity", "import uuid\nidentity = uuid.UUID(int=7)", "identity.int == 7"),
    exact("own_random", "import random\nown_random = random.Random(3)\nown_random.random()",
          "__import__('copy').copy(own_random).random() == 0.5442292252959519"),
    exact("in_memory", "import io\nin_memory = io.StringIO('line\\n')\nin_memory.seek(2)",
          "in_memory.tell() == 2 and in_memory.getvalue() == 'line\\n'"),
    exact("in_bytes", "in_bytes = io.BytesIO(b'abc')\nin_bytes.read(1)",
          "in_bytes.tell() == 1 and in_bytes.getvalue() == b'abc'"),
    exact("space", "import types\nspace = types.SimpleNamespace(a=1)", "space.a == 1"),
    exact("module", "import xml.etree.ElementTree\nmodule = xml", "xml.etree.ElementTree.Element"),
    exact("tree", "tree = xml.etree.ElementTree.fromstring('<a><b x=\"1\"/></a>')",
          "tree[0].attrib == {'x': '1'}"),
    exact("lock", "import threading\nlock = threading.Lock()", "lock.locked() is False"),
    exact("event", "event = threading.Event()\nevent.set()", "event.is_set()"),
    exact("queue", "import queue as queue_module\nqueue = queue_module.Queue()\nqueue.put(4)",
          "list(queue.queue) == [4]"),
    exact("standard_output", "import sys\nstandard_output = sys.stdout", "standard_output is sys.stdout"),
    exact("environment", "import os\nenvironment = os.environ", "environment is os.environ"),
    exact("randint", "from random import randint", "randint.__self__ is random._inst"),
    exact("weak", "import weakref\nweak_target = own_random\nweak = weakref.ref(weak_target)",
          "weak() is own_random"),
    lost("sqlite", "import sqlite3\nsqlite = sqlite3.connect(':memory:')"),
    lost("cursor", "cursor = sqlite.cursor()"),
    lost("generator", "generator = (i for i in range(3))"),
    lost("mapped", "mapped = map(str, generator)"),
    lost("thread", "thread = threading.Thread(target=threading.Event().wait, daemon=True)\n"
         "thread.start()"),
    lost("held", "held = threading.Lock()\nheld.acquire()"),
    lost("pool", "import concurrent.futures\npool = concurrent.futures.ThreadPoolExecutor(1)"),
    lost("child", "import subprocess\nchild = subprocess.Popen(['true'])\nchild.wait()"),
    lost("socket", "import socket as socket_module\nsocket = socket_module.socket()"),
    lost("loop", "import asyncio\nloop = asyncio.new_event_loop()"),
]  # fmt: skip

DEFINED = [
    exact("square", "def square(x, *, power=2):\n    'Docs.'\n    return x ** power",
          "square(3) == 9 and square.__doc__ == 'Docs.' and square(2, power=3) == 8"),
    exact("double", "double = lambda x: 2 * x", "double(4) == 8"),
    exact("count_up", "total = 0\ndef count_up():\n    global total\n    total += 1\n    return total",
          "count_up.__globals__ is globals() and (count_up(), total)[0] == total"),
    exact("peek", "def make():\n    n = 0\n    def bump():\n        nonlocal n\n        n += 1\n"
          "        return n\n    return bump, lambda: n\nbump, peek = make()",
          "bump() == peek()"),
    exact("recursive", "def outer():\n    def fact(n):\n        return n * fact(n - 1) if n else 1\n"
          "    return fact\nrecursive = outer()", "recursive(5) == 120"),
    exact("decorated", "import contextlib\n@contextlib.contextmanager\ndef decorated():\n    yield 8",
          "decorated().__enter__() == 8"),
    exact("Base", "class Base:\n    shared = []\n    def __init__(self):\n        self.a = 1\n"
          "    def who(self):\n        return 'base'", "Base().who() == 'base'"),
    exact("Child", "class Child(Base):\n    def who(self):\n        return 'child of ' + super().who()",
          "Child().who() == 'child of base' and issubclass(Child, Base)"),
    exact("instance", "instance = Child()", "type(instance) is Child and instance.a == 1"),
    exact("Slotted", "class Slotted:\n    __slots__ = ('x', '__dict__')", "Slotted.x"),
    exact("slotted", "slotted = Slotted()\nslotted.x, slotted.y = 1, 2",
          "(slotted.x, slotted.y) == (1, 2) and type(slotted) is Slotted"),
    exact("Tight", "class Tight:\n    __slots__ = ('x', '__y')\n    def __init__(self):\n"
          "        self.__y = 1\ntight = Tight()", "not hasattr(tight, '__dict__') and tight._Tight__y == 1"),
    exact("Plugin", "class Plugin:\n    count = 0\n    def __init_subclass__(cls):\n"
          "        Plugin.count += 1\nclass Left(Plugin): pass", "Plugin.count == 1 and Left.count == 1"),
    exact("Meta", "class Meta(type):\n    made = []\n    def __new__(meta, name, bases, ns, **kw):\n"
          "        cls = super().__new__(meta, name, bases, ns)\n        meta.made.append(cls)\n"
          "        return cls\nclass Made(metaclass=Meta): pass",
          "Meta.made == [Made] and type(Made) is Meta"),
    exact("Box", "T = typing.TypeVar('T') if 'typing' in globals() else __import__('typing').TypeVar('T')\n"
          "class Box(__import__('typing').Generic[T]):\n    v: T", "Box[int].__origin__ is Box"),
    exact("Fast", "import dataclasses\n@dataclasses.dataclass(slots=True, frozen=True)\nclass Fast:\n"
          "    x: int = 1\nfast = Fast(2)", "fast == Fast(2) and Fast.__slots__ == ('x',)"),
    exact("Point", "import dataclasses\n@dataclasses.dataclass(order=True)\nclass Point:\n    x: int\n"
          "    tags: list = dataclasses.field(default_factory=list)",
          "[f.name for f in dataclasses.fields(Point)] == ['x', 'tags'] and Point(1) < Point(2)"),
    exact("point", "point = Point(3, ['a'])", "point == Point(3, ['a']) and type(point) is Point"),
    exact("Color", "import enum\nclass Color(enum.Enum):\n    RED = 1", "Color.RED is Color(1)"),
    exact("red", "red = Color.RED", "red is Color.RED"),
    exact("Row", "import typing\nclass Row(typing.NamedTuple):\n    a: int\nrow = Row(1)",
          "row == Row(1) and type(row) is Row"),
    exact("Pair", "Pair = collections.namedtuple('Pair', 'l r')\npair = Pair(1, 2)", "pair.r == 2"),
    exact("Shape", "import abc\nclass Shape(abc.ABC):\n    @abc.abstractmethod\n    def area(self): ...",
          "Shape.__abstractmethods__ == {'area'}"),
    exact("Lazy", "class Lazy:\n    @functools.cached_property\n    def v(self):\n        return 7\n"
          "    @property\n    def w(self):\n        return 8\n    @staticmethod\n    def s():\n"
          "        return 9\n    @classmethod\n    def c(cls):\n        return cls",
          "(Lazy().v, Lazy().w, Lazy.s(), Lazy.c() is Lazy) == (7, 8, 9, True)"),
    exact("bound", "bound = instance.who", "bound.__self__ is instance"),
    exact("Oops", "class Oops(Exception):\n    def __init__(self, code, text):\n"
          "        super().__init__(text)\n        self.code = code", "issubclass(Oops, Exception)"),
    exact("oops", "oops = Oops(7, 'bad')", "(oops.code, oops.args) == (7, ('bad',))"),
    degraded("caught", "try:\n    1/0\nexcept ZeroDivisionError as error:\n    caught = error",
             "str(caught) == 'division by zero'"),
    degraded("cached", "@functools.lru_cache(maxsize=4)\ndef cached(x):\n    return x + 1\ncached(1)",
             "cached(1) == 2 and cached.cache_info().maxsize == 4"),
    degraded("holder", "class Holder: pass\nholder = Holder()\nholder.rows, holder.stream = [1], generator",
             "holder.rows == [1]"),
    degraded("mixed", "mixed = [1, generator, 'two']", "(mixed[0], mixed[2]) == (1, 'two')"),
    lost("raising", "class Raising:\n    def __reduce__(self):\n        raise ValueError('I refuse')\n"
         "raising = Raising()"),
    lost("lying", "class Lying:\n    def __reduce__(self):\n        return 5\nlying = Lying()"),
    lost("exiting", "class Exiting:\n    def __getstate__(self):\n        raise SystemExit('no')\n"
         "exiting = Exiting()"),
    lost("too_deep", "class Node:\n    pass\ntoo_deep = node = Node()\nfor _i_ in range(20000):\n"
         "    node.next = Node()\n    node = node.next\ndel node, _i_"),
]  # fmt: skip

SHARED = [
    exact("cycle", "cycle = []\ncycle.append(cycle)", "cycle[0] is cycle"),
    exact("one", "common = [1]\none = {'c': common}", "one['c'] is common"),
    exact("two", "two = (common, one)", "two[0] is common and two[1] is one"),
    exact("parent", "parent, kid = Base(), Base()\nparent.kid, kid.parent = kid, parent",
          "parent.kid is kid and kid.parent is parent"),
    exact("registry", "registry = {instance: Child}", "registry[instance] is Child"),
    exact("space_dict", "space_dict = globals()", "space_dict is globals()"),
    exact("alias", "alias = Base.shared", "alias is Base.shared"),
    exact("weak_values", "weak_values = weakref.WeakValueDictionary(p=parent)",
          "weak_values['p'] is parent"),
]  # fmt: skip

SCIENCE = [
    exact("array", "import numpy as np\narray = np.arange(100_000.0)", "array.sum() == 4999950000.0"),
    exact("window", "window = array[10:20]", "np.shares_memory(window, array) and window[0] == 10"),
    exact("strided", "strided = array[::-1000]", "np.shares_memory(strided, array)"),
    exact("fortran", "fortran = np.asfortranarray(np.arange(6).reshape(2, 3))",
          "fortran.flags.f_contiguous and fortran[1, 0] == 3"),
    exact("locked_array", "locked_array = np.ones(20_000)\nlocked_array.flags.writeable = False",
          "not locked_array.flags.writeable"),
    exact("small_locked", "small_locked = np.ones(2)\nsmall_locked.flags.writeable = False",
          "not small_locked.flags.writeable"),
    exact("objects", "objects = np.array([None, common], dtype=object)", "objects[1] is common"),
    exact("records", "records = np.zeros(2, dtype=[('a', 'i4'), ('b', 'U3')])",
          "records.dtype.names == ('a', 'b')"),
    exact("masked", "masked = np.ma.array([1, 2], mask=[0, 1])", "masked.sum() == 1"),
    exact("scalar", "scalar = np.float32(1.5)", "type(scalar) is np.float32"),
    exact("generator_np", "generator_np = np.random.default_rng(5)\ngenerator_np.random()",
          "__import__('copy').deepcopy(generator_np).random() == 0.8079407897364937"),
    exact("legacy", "from numpy.random import rand as legacy", "legacy.__self__ is np.random.mtrand._rand"),
    exact("frame", "import pandas as pd\nframe = pd.DataFrame({'a': [1, 2], 'b': ['x', None],\n"
          "    'c': pd.Categorical(['u', 'v']), 'd': pd.to_datetime(['2020-01-01', '2021-01-01'])})",
          "frame.shape == (2, 4) and frame['c'].dtype == 'category' and frame.loc[1, 'd'].year == 2021"),
    exact("column", "column = frame['a']", "(column.__setitem__(0, 9), frame.loc[0, 'a'], "
          "column.__setitem__(0, 1))[1] == 1"),
    exact("multi", "multi = frame.set_index(['a', 'c'])", "multi.index.nlevels == 2"),
    exact("grouped", "grouped = frame.groupby('a')", "grouped.ngroups == 2"),
    exact("period", "period = pd.period_range('2020', periods=3, freq='M')", "len(period) == 3"),
    exact("interval", "interval = pd.cut(pd.Series([1, 5]), 2)", "interval.cat.categories.size == 2"),
    exact("wide", "wide = pd.DataFrame(np.random.default_rng(0).random((20_000, 3)))",
          "wide.shape == (20_000, 3) and wide._mgr.nblocks == 1"),
    exact("sparse", "import scipy.sparse\nsparse = scipy.sparse.eye(5, format='csr')",
          "sparse.nnz == 5"),
    exact("spline", "import scipy.interpolate\nspline = scipy.interpolate.CubicSpline([0, 1, 2], [0, 1, 4])",
          "float(spline(2)) == 4.0"),
    exact("ufunc", "import scipy.special\nufunc = scipy.special.expit", "ufunc(0) == 0.5"),
    exact("model", "from sklearn.linear_model import LinearRegression\n"
          "model = LinearRegression().fit([[0], [1]], [0, 2])", "round(model.predict([[3]])[0], 6) == 6"),
    exact("forest", "from sklearn.ensemble import RandomForestClassifier\n"
          "forest = RandomForestClassifier(5, random_state=0).fit(np.arange(50)[:, None], [0] * 25 + [1] * 25)",
          "list(forest.predict([[0], [49]])) == [0, 1]"),
    exact("pipeline", "from sklearn.pipeline import make_pipeline\n"
          "from sklearn.preprocessing import StandardScaler, FunctionTransformer\n"
          "pipeline = make_pipeline(FunctionTransformer(double), StandardScaler()).fit([[0], [1]])",
          "pipeline.transform([[0]])[0, 0] == -1"),
    exact("figure", "import matplotlib\nimport matplotlib.pyplot as plt\n"
          "figure, axes = plt.subplots()\naxes.plot([1, 2])\nplt.close(figure)",
          "figure.axes[0] is axes and len(axes.lines) == 1"),
    exact("settings", "from matplotlib import rcParams as settings", "settings is matplotlib.rcParams"),
    degraded("on_disk", "np.arange(4.0).tofile('disk.bin')\n"
             "on_disk = np.memmap('disk.bin', dtype=float, mode='r+')",
             "on_disk[3] == 3 and type(on_disk) is np.memmap"),
]  # fmt: skip

FILES = [
    degraded("reading", "open('in.txt', 'w').write('one\\ntwo\\nthree\\n')\n"
             "reading = open('in.txt')\nreading.readline()",
             "(reading.tell(), reading.mode, reading.name) == (4, 'r', 'in.txt')"),
    degraded("binary", "binary = open('in.txt', 'rb')\nbinary.read(5)",
             "(binary.tell(), binary.mode) == (5, 'rb')"),
    degraded("writing", "writing = open('out.txt', 'w')\nwriting.write('hé')",
             "(writing.tell(), writing.mode, open('out.txt').read()) == (3, 'w', 'hé')"),
    degraded("both", "both = open('both.txt', 'w+')\nboth.write('abc')\nboth.seek(1)",
             "(both.tell(), open('both.txt').read()) == (1, 'abc')"),
    degraded("appending", "open('log.txt', 'w').write('x')\nappending = open('log.txt', 'a')\n"
             "appending.write('y')", "appending.flush() is None and open('log.txt').read() == 'xy' and appending.mode == 'a'"),
    degraded("updating", "updating = open('in.txt', 'r+b')\nupdating.seek(2)",
             "updating.tell() == 2 and updating.writable()"),
    degraded("unbuffered", "unbuffered = open('raw.bin', 'wb', buffering=0)\nunbuffered.write(b'12')",
             "unbuffered.tell() == 2 and type(unbuffered) is io.FileIO"),
    degraded("logging_to", "logging_to = {'file': writing}", "logging_to['file'] is writing"),
    exact("closed", "closed = open('in.txt')\nclosed.close()",
          "closed.closed and closed.name == 'in.txt'"),
    lost("deleted", "deleted = open('gone.txt', 'w')\nos.unlink('gone.txt')"),
    lost("iterated", "iterated = open('in.txt')\nnext(iterated)"),
    lost("carriage", "open('dos.txt', 'wb').write(b'a\\r\\nb')\ncarriage = open('dos.txt', newline='')"),
    lost("zipped", "import gzip\nzipped = gzip.open('z.gz', 'wb')"),
    lost("pipe", "pipe = os.fdopen(os.pipe()[0])"),
]  # fmt: skip

CASES = [*BUILTINS, *STANDARD_LIBRARY, *DEFINED, *SHARED, *SCIENCE, *FILES]
