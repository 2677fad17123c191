# ruff: noqa: E501  (a table)
"""Rows of what a notebook defines itself, and of what running cells again gets wrong."""

from __future__ import annotations

from .row import Library, Row, degraded, lost

NOTEBOOK = Library(
    "defined in the notebook",
    "import dataclasses",
    [
        Row("function with defaults and a docstring", "def it(x, *, power=2):\n    'Docs.'\n    return x ** power", "it(3) == 9 and it.__doc__ == 'Docs.' and it.__kwdefaults__ == {'power': 2}"),
        Row("lambda", "lambda x: 2 * x", "it(4) == 8"),
        Row("function that uses a global", "tally = 0\ndef it():\n    global tally\n    tally += 1\n    return tally", "it() == user['tally'] and it.__globals__ is globals()['user']"),
        Row("closures that share a cell", "def make():\n    n = 0\n    def bump():\n        nonlocal n\n        n += 1\n        return n\n    return bump, lambda: n\nit = make()", "it[0]() == it[1]()"),
        Row("recursive inner function", "def outer():\n    def fact(n):\n        return n * fact(n - 1) if n else 1\n    return fact\nit = outer()", "it(5) == 120"),
        Row("decorated function", "@functools.wraps(len)\ndef it(x):\n    return 7", "it(1) == 7 and it.__wrapped__ is len"),
        Row("context manager function", "@contextlib.contextmanager\ndef it():\n    yield 8", "it().__enter__() == 8"),
        Row("generator function", "def it():\n    yield 1", "list(it()) == [1]"),
        Row("async function", "async def it():\n    return 1", "it.__code__.co_flags & 128"),
        Row("class and its instance", "class Thing:\n    shared = []\n    def __init__(self):\n        self.a = 1\nit = Thing()", "type(it) is Thing and it.a == 1"),
        Row("subclass with super()", "class Sub(Thing):\n    def __init__(self):\n        super().__init__()\n        self.b = 2\nit = Sub()", "isinstance(it, Thing) and (it.a, it.b, Sub().b) == (1, 2, 2)"),
        Row("class with slots", "class Slotted:\n    __slots__ = ('x',)\nit = Slotted()\nit.x = 3", "it.x == 3 and not hasattr(it, '__dict__')"),
        Row("class with a metaclass", "class Meta(type):\n    made = []\n    def __init__(cls, *a):\n        Meta.made.append(cls)\nclass Made(metaclass=Meta): pass\nit = Made", "Meta.made == [Made] and type(it) is Meta"),
        Row("class with __init_subclass__", "class Plugin:\n    count = 0\n    def __init_subclass__(cls):\n        Plugin.count += 1\nclass Left(Plugin): pass\nit = Left", "Plugin.count == 1"),
        Row("abstract class", "class it(abc.ABC):\n    @abc.abstractmethod\n    def area(self): ...", "it.__abstractmethods__ == {'area'}"),
        Row("class with property, static and class method", "class it:\n    @property\n    def w(self): return 8\n    @staticmethod\n    def s(): return 9\n    @classmethod\n    def c(cls): return cls", "(it().w, it.s(), it.c() is it) == (8, 9, True)"),
        Row("generic class", "T = typing.TypeVar('T')\nclass Box(typing.Generic[T]):\n    v: T\nit = Box", "it[int].__origin__ is it"),
        Row("dataclass", "@dataclasses.dataclass(order=True)\nclass Point:\n    x: int\n    tags: list = dataclasses.field(default_factory=list)\nit = Point(3, ['a'])", "it == Point(3, ['a']) and Point(1) < it"),
        Row("dataclass, frozen, slots", "@dataclasses.dataclass(slots=True, frozen=True)\nclass Fast:\n    x: int = 1\nit = Fast(2)", "it == Fast(2) and hash(it) == hash(Fast(2))"),
        Row("Enum", "class Color(enum.Enum):\n    RED = 1\nit = Color.RED", "it is Color.RED and it is Color(1)"),
        Row("Flag", "class Mode(enum.Flag):\n    R = 1\n    W = 2\nit = Mode.R | Mode.W", "it == Mode.R | Mode.W and Mode.R in it"),
        Row("NamedTuple", "class Pair(typing.NamedTuple):\n    a: int\nit = Pair(1)", "it == Pair(1) and type(it) is Pair"),
        Row("namedtuple", "Pt = collections.namedtuple('Pt', 'x y')\nit = Pt(1, 2)", "it.y == 2 and type(it) is Pt"),
        Row("TypedDict", "class it(typing.TypedDict):\n    a: int", "it.__annotations__ == {'a': int}"),
        Row("Protocol", "@typing.runtime_checkable\nclass it(typing.Protocol):\n    def area(self): ...", "not isinstance(1, it)"),
        Row("exception class, raised and caught later", "class Oops(Exception):\n    def __init__(self, code):\n        super().__init__('bad')\n        self.code = code\nit = Oops(7)", "(it.code, it.args) == (7, ('bad',))"),
        Row("bound method", "owner = Thing()\nit = Thing.__init__.__get__(owner)", "it.__self__ is owner"),
        Row("cached_property with its value", "class Lazy:\n    @functools.cached_property\n    def v(self):\n        return object()\nit = Lazy()\nit.v", "'v' in vars(it)"),
        Row("descriptor with __set_name__", "class Field:\n    def __set_name__(self, owner, name):\n        self.name = name\nclass Model:\n    f = Field()\nit = Model", "it.__dict__['f'].name == 'f'"),
        Row("class whose __new__ counts", "class Counted:\n    made = 0\n    def __new__(cls):\n        Counted.made += 1\n        return super().__new__(cls)\nit = Counted()", "Counted.made == 1 and type(it) is Counted"),
        Row("dict with a __setitem__ of its own", "class Noisy(dict):\n    calls = []\n    def __setitem__(self, k, v):\n        Noisy.calls.append(k)\n        super().__setitem__(k, v)\nit = Noisy()\nit['a'] = 1", "it == {'a': 1} and Noisy.calls == ['a']"),
        Row("NewType", "it = typing.NewType('it', int)", "it.__supertype__ is int and it(3) == 3"),
        Row("list that holds itself", "it = []\nit.append(it)", "it[0] is it"),
        Row("two objects that hold each other", "parent, child = Thing(), Thing()\nparent.child, child.parent = child, parent\nit = parent", "it.child.parent is it and child is it.child"),
        Row("one object in two variables", "common = [1]\nit = {'c': common}", "it['c'] is common"),
        Row("array shared by an object and a variable", "samples = np.zeros(20_000)\nit = Thing()\nit.data = samples[5:]", "np.shares_memory(it.data, samples)"),
        Row("class attribute under another name", "Thing.shared", "it is Thing.shared"),
        Row("globals()", "globals()", "it is globals()['user']"),
        degraded("object with a part that is lost", "it = Thing()\nit.stream = (i for i in 'ab')", "it.a == 1", "generator inside is lost"),
        degraded("list with a part that is lost", "[1, (i for i in 'ab'), 'two']", "(it[0], it[2]) == (1, 'two')", "generator inside is lost"),
        lost("object that refuses to be pickled", "class Refuses:\n    def __reduce__(self):\n        raise ValueError('I refuse')\nit = Refuses()", "I refuse"),
        lost("object nested too deeply", "it = node = []\nfor _i_ in range(20_000):\n    node.append([])\n    node = node[0]\ndel node, _i_", "nested too deeply"),
    ],
)  # fmt: skip

_UNTOUCHED = "open({0!r}).read() == {1!r}"

RERUN = Library(
    "what running cells again gets wrong",
    "",
    [
        degraded("file opened with w+", "it = open('w+.txt', 'w+')\nit.write('0123')\nit.seek(2)", "(it.tell(), it.mode) == (2, 'w+') and " + _UNTOUCHED.format("w+.txt", "0123"), "not truncated"),
        degraded("file opened with w", "it = open('w.txt', 'w')\nit.write('hé')", "it.tell() == 3 and " + _UNTOUCHED.format("w.txt", "hé"), "not truncated"),
        degraded("file opened with a", "open('a.txt', 'w').write('x')\nit = open('a.txt', 'a')\nit.write('y')", "it.mode == 'a' and " + _UNTOUCHED.format("a.txt", "xy"), "opened again"),
        degraded("file opened with x", "it = open('x.txt', 'x')\nit.write('1')", "it.tell() == 1 and " + _UNTOUCHED.format("x.txt", "1"), "not truncated"),
        degraded("file opened with r+b", "open('rb.txt', 'w').write('abc')\nit = open('rb.txt', 'r+b')\nit.seek(2)", "it.tell() == 2 and " + _UNTOUCHED.format("rb.txt", "abc"), "position 2"),
        degraded("file being read", "open('r.txt', 'w').write('one\\ntwo')\nit = open('r.txt')\nit.readline()", "it.tell() == 4 and not it.writable()", "position 4"),
        Row("file, closed", "it = open('c.txt', 'w')\nit.close()", "it.closed and it.name == 'c.txt' and " + _UNTOUCHED.format("c.txt", "")),
        lost("file, deleted while open", "it = open('gone.txt', 'w')\nos.unlink('gone.txt')", "deleted or renamed"),
        lost("text file in the middle of `for line in file`", "it = open('r.txt')\nnext(it)", "position"),
        lost("compressed file being written", "import gzip\nit = gzip.open('z.gz', 'wb')", "position"),
        lost("pipe", "os.fdopen(os.pipe()[0])", "path"),
        lost("sqlite3 connection", "import sqlite3\nit = base = sqlite3.connect('base.db')\nit.execute('create table t (a)')\nit.execute('insert into t values (1)')\nit.commit()", "connect again"),
        lost("sqlite3 cursor", "base.cursor()", "belongs to a connection"),
        Row("row inserted into a database", "'base.db'", "__import__('sqlite3').connect(it).execute('select count(*) from t').fetchone() == (1,)"),
        Row("name with an underscore", "_hidden = {'kept': 1}\nit = _hidden", "it is _hidden and _hidden == {'kept': 1}"),
        Row("state of random", "random.seed(5)\nrandom.random()\nit = random.getstate()", "random.getstate() == it"),
        Row("state of numpy.random", "np.random.seed(5)\nnp.random.random()\nit = np.random.get_state()[1].tolist()", "np.random.get_state()[1].tolist() == it"),
        Row("working directory", "os.makedirs('below', exist_ok=True)\nit = os.getcwd()", "os.getcwd() == it"),
        Row("environment variable, set and unset", "os.environ['MINE'] = 'é'\nos.environ.pop('HOME', None)\nit = dict(os.environ)", "(os.environ['MINE'], 'HOME' in os.environ) == ('é', False)"),
        Row("sys.path", "sys.path.insert(0, '/mine') if '/mine' not in sys.path else 0\nit = list(sys.path)", "sys.path == it"),
    ],
)  # fmt: skip
