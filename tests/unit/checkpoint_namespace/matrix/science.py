# ruff: noqa: E501  (a table)
"""Rows of numpy, pandas, scipy, scikit-learn, matplotlib, statsmodels, networkx, polars, pyarrow
and pillow.
"""

from __future__ import annotations

from .row import Library, Row, degraded, lost

ARRAY = "np.array_equal(it, new) and (it.dtype, it.strides, it.flags.writeable) == (new.dtype, new.strides, new.flags.writeable)"
DRAWS = "__import__('copy').deepcopy(it).random(5).tolist() == new.random(5).tolist()"

NUMPY = Library(
    "numpy",
    "import numpy as np",
    [
        Row("ndarray of float64", "np.random.default_rng(1).random((300, 400))", ARRAY),
        Row("ndarray of int8", "np.arange(100, dtype='i1')", ARRAY),
        Row("ndarray of bool", "np.arange(9) % 2 == 0", ARRAY),
        Row("ndarray of complex", "np.exp(1j * np.arange(5))", ARRAY),
        Row("ndarray of float16", "np.linspace(0, 1, 9, dtype='f2')", ARRAY),
        Row("ndarray of longdouble", "np.linspace(0, 1, 9, dtype=np.longdouble)", ARRAY),
        Row("ndarray, big-endian", "np.arange(7, dtype='>i4')", ARRAY),
        Row("ndarray, no dimension", "np.array(7.5)", ARRAY),
        Row("ndarray, empty", "np.empty((0, 3))", "(it.shape, it.dtype) == (new.shape, new.dtype)"),
        Row("ndarray, Fortran order", "np.asfortranarray(np.arange(12.0).reshape(3, 4))", ARRAY),
        Row("ndarray, read-only", "it = np.ones(20_000)\nit.flags.writeable = False", ARRAY),
        Row("ndarray of text", "np.array(['a', 'ünï'])", ARRAY),
        Row("ndarray of StringDType", "np.array(['a', 'long' * 50], dtype=np.dtypes.StringDType())", "it.tolist() == new.tolist() and it.dtype == new.dtype"),
        Row("ndarray of objects", "np.array([None, [1], 'x'], dtype=object)", "it.tolist() == new.tolist()"),
        Row("ndarray of datetime64", "np.array(['2020-01-01', 'NaT'], 'M8[D]')", "np.array_equal(it, new, equal_nan=True) and it.dtype == new.dtype"),
        Row("ndarray of timedelta64", "np.arange(3, dtype='m8[s]')", ARRAY),
        Row("structured array", "np.array([(1, 'a')], dtype=[('n', 'i4'), ('s', 'U3')])", ARRAY),
        Row("recarray", "np.rec.array([(1, 2.0)], names='a,b')", "it.a[0] == 1 and it.dtype == new.dtype"),
        Row("matrix", "np.matrix('1 2; 3 4')", ARRAY),
        Row("masked array", "np.ma.array([1, 2, 3], mask=[0, 1, 0], fill_value=9)", "np.ma.allequal(it, new, fill_value=False) or (it.mask.tolist(), it.compressed().tolist(), it.fill_value) == (new.mask.tolist(), new.compressed().tolist(), new.fill_value)"),
        Row("two views of one array", "it = np.zeros(50_000)\nit = [it, it[10:20], it[::-7]]", "np.shares_memory(it[0], it[1]) and np.shares_memory(it[0], it[2]) and it[2].strides == new[2].strides"),
        Row("broadcast view", "np.broadcast_to(np.arange(3), (4, 3))", "np.array_equal(it, new)"),
        Row("float32 scalar", "np.float32(1.1)"),
        Row("datetime64 scalar", "np.datetime64('2024-02-29T12:00')"),
        Row("dtype", "np.dtype([('a', 'f4'), ('b', 'O')])"),
        Row("Generator (PCG64), unseeded", "it = np.random.default_rng()\nit.random(7)\nnext_draws = __import__('copy').deepcopy(it).random(5).tolist()", "__import__('copy').deepcopy(it).random(5).tolist() == next_draws"),
        Row("Generator (Philox)", "it = np.random.Generator(np.random.Philox(3))\nit.random()", DRAWS),
        Row("RandomState", "it = np.random.RandomState(3)\nit.normal()", DRAWS),
        Row("SeedSequence", "np.random.SeedSequence(5)", "it.generate_state(4).tolist() == new.generate_state(4).tolist()"),
        Row("poly1d", "np.poly1d([1, 2, 3])"),
        Row("Polynomial", "np.polynomial.Polynomial([1, 2])"),
        Row("ufunc", "np.add", "it is np.add"),
        Row("vectorize", "np.vectorize(lambda x: x + 1)", "it([1, 2]).tolist() == [2, 3]"),
        Row("finfo", "np.finfo('f4')", "it.eps == new.eps"),
        Row("iinfo", "np.iinfo('i4')", "it.max == new.max"),
        degraded("memmap", "np.arange(4.0).tofile('m.bin')\nit = np.memmap('m.bin', dtype=float, mode='r+')", "it.tolist() == [0, 1, 2, 3] and it.mode == 'r+'", "mapped again, not truncated"),
        lost("nditer", "np.nditer(np.arange(3))", "nditer"),
    ],
)  # fmt: skip

FRAME = "pd.testing.assert_frame_equal(it, new) is None"
SERIES = "pd.testing.assert_series_equal(it, new) is None"
INDEX = "pd.testing.assert_index_equal(it, new) is None"

PANDAS = Library(
    "pandas",
    "import pandas as pd",
    [
        Row("DataFrame of floats", "pd.DataFrame(np.random.default_rng(0).random((5000, 4)), columns=list('abcd'))", FRAME),
        Row("DataFrame, mixed dtypes", "pd.DataFrame({'i': [1, 2], 's': ['x', None], 'c': pd.Categorical(['u', 'v']), 't': pd.to_datetime(['2020', '2021']), 'o': [[1], {}]})", FRAME),
        Row("DataFrame, MultiIndex rows and columns", "pd.DataFrame(np.eye(4), index=pd.MultiIndex.from_product([['a', 'b'], [1, 2]], names=['k', 'n']), columns=pd.MultiIndex.from_product([[0, 1], ['x', 'y']]))", FRAME),
        Row("DataFrame with attrs", "it = pd.DataFrame({'a': [1]})\nit.attrs['unit'] = 'm'", f"{FRAME} and it.attrs == new.attrs"),
        Row("DataFrame, empty", "pd.DataFrame()", FRAME),
        Row("DataFrame, pyarrow-backed", "pd.DataFrame({'a': pd.array([1, None], 'int64[pyarrow]'), 's': pd.array(['x', None], 'string[pyarrow]')})", FRAME),
        Row("DataFrame, nullable dtypes", "pd.DataFrame({'a': [1, None], 'b': [True, None], 's': ['x', None]}).convert_dtypes()", FRAME),
        Row("DataFrame, column added and dropped", "it = pd.DataFrame({'a': [1, 2], 'b': [3, 4]})\nit['c'] = it.a * 2\nit = it.drop(columns='b')", FRAME),
        Row("Series of text", "pd.Series(['a', 'ü', None], name='words')", SERIES),
        Row("Series of objects", "pd.Series([1, 'a', [2]], dtype=object)", SERIES),
        Row("Series, categorical, ordered", "pd.Series(['lo', 'hi']).astype(pd.CategoricalDtype(['lo', 'hi'], ordered=True))", SERIES),
        Row("Series, time zone", "pd.Series(pd.date_range('2024-03-30', periods=3, tz='Europe/Berlin'))", SERIES),
        Row("Series, sparse", "pd.Series(pd.arrays.SparseArray([0, 0, 1, 0]))", SERIES),
        Row("Series, intervals", "pd.cut(pd.Series([1, 5, 9]), 3)", SERIES),
        Row("Series and its frame, copy on write", "it = pd.DataFrame({'a': [1, 2]})\nit = (it, it['a'])", "(it[1].__setitem__(0, 9), it[0].loc[0, 'a'], it[1].__setitem__(0, 1))[1] == 1"),
        Row("RangeIndex", "pd.RangeIndex(2, 20, 3, name='r')", INDEX),
        Row("Index of text", "pd.Index(['a', 'b'])", INDEX),
        Row("MultiIndex", "pd.MultiIndex.from_tuples([(1, 'a'), (2, 'b')], names=['n', 's'])", INDEX),
        Row("DatetimeIndex with frequency", "pd.date_range('2024', periods=4, freq='QS')", f"{INDEX} and it.freq == new.freq"),
        Row("PeriodIndex", "pd.period_range('2024', periods=4, freq='M')", INDEX),
        Row("TimedeltaIndex", "pd.timedelta_range('1h', periods=3)", INDEX),
        Row("IntervalIndex", "pd.interval_range(0, 3)", INDEX),
        Row("CategoricalIndex", "pd.CategoricalIndex(['a', 'b'])", INDEX),
        Row("Timestamp", "pd.Timestamp('2024-02-29 12:00', tz='UTC')"),
        Row("Timedelta", "pd.Timedelta('1 days 2h')"),
        Row("Period", "pd.Period('2024Q1')"),
        Row("Interval", "pd.Interval(0, 1, closed='both')"),
        Row("NaT", "pd.NaT", "it is pd.NaT"),
        Row("NA", "pd.NA", "it is pd.NA"),
        Row("DateOffset", "pd.offsets.BusinessDay(3)"),
        Row("CategoricalDtype", "pd.CategoricalDtype(['a', 'b'], ordered=True)"),
        Row("IntegerArray", "pd.array([1, None], 'Int64')", "it.equals(new)"),
        Row("DataFrameGroupBy", "pd.DataFrame({'g': [1, 1, 2], 'v': [1.0, 2, 3]}).groupby('g')", "it.sum().equals(new.sum())"),
        Row("Rolling", "pd.Series([1.0, 2, 3]).rolling(2)", "it.sum().equals(new.sum())"),
        Row("Styler", "pd.DataFrame({'a': [1]}).style.format('{:.2f}')", "it.set_uuid('x').to_html() == new.set_uuid('x').to_html()"),
    ],
)  # fmt: skip

SCIPY = Library(
    "scipy",
    "import scipy.sparse, scipy.stats, scipy.interpolate, scipy.spatial, scipy.optimize, scipy.signal, scipy.fft, scipy.integrate, scipy.linalg",
    [
        *(
            Row(f"{kind}_array", f"scipy.sparse.random_array((30, 30), density=0.1, format='{kind}', rng=0)", "(it != new).nnz == 0 and it.format == new.format")
            for kind in ("csr", "csc", "coo", "lil", "dok", "dia", "bsr")
        ),
        Row("csr_matrix", "scipy.sparse.csr_matrix(np.eye(3))", "(it != new).nnz == 0"),
        Row("CubicSpline", "scipy.interpolate.CubicSpline([0, 1, 2], [0, 1, 4])", "it(1.5) == new(1.5)"),
        Row("RegularGridInterpolator", "scipy.interpolate.RegularGridInterpolator(([0, 1], [0, 1]), np.eye(2))", "it([[0.5, 0.2]]) == new([[0.5, 0.2]])"),
        Row("RBFInterpolator", "scipy.interpolate.RBFInterpolator(np.arange(6.0).reshape(3, 2) ** 2, [1.0, 2, 3])", "it([[0.5, 0.2]]) == new([[0.5, 0.2]])"),
        Row("BSpline", "scipy.interpolate.make_interp_spline([0, 1, 2, 3], [0, 1, 4, 9])", "it(1.5) == new(1.5)"),
        Row("KDTree", "scipy.spatial.KDTree(np.random.default_rng(0).random((100, 2)))", "it.query([0.5, 0.5]) == new.query([0.5, 0.5])"),
        Row("ConvexHull", "scipy.spatial.ConvexHull(np.random.default_rng(0).random((20, 2)))", "it.volume == new.volume"),
        Row("Delaunay", "scipy.spatial.Delaunay(np.random.default_rng(0).random((20, 2)))", "np.array_equal(it.simplices, new.simplices) and it.find_simplex([[0.5, 0.5]]) == new.find_simplex([[0.5, 0.5]])"),
        Row("Voronoi", "scipy.spatial.Voronoi(np.random.default_rng(0).random((20, 2)))", "np.array_equal(it.vertices, new.vertices)"),
        Row("Rotation", "scipy.spatial.transform.Rotation.from_euler('z', 30, degrees=True)", "np.array_equal(it.as_quat(), new.as_quat())"),
        Row("frozen distribution", "scipy.stats.norm(1, 2)", "it.cdf(1.5) == new.cdf(1.5)"),
        Row("gaussian_kde", "scipy.stats.gaussian_kde([1.0, 2, 4])", "it(2.5) == new(2.5)"),
        Row("multivariate_normal", "scipy.stats.multivariate_normal([0, 0])", "it.pdf([1, 1]) == new.pdf([1, 1])"),
        Row("OptimizeResult", "scipy.optimize.minimize(lambda x: (x[0] - 1) ** 2, [0.0])", "np.array_equal(it.x, new.x) and it.message == new.message"),
        Row("TtestResult", "scipy.stats.ttest_ind([1, 2, 3], [2, 3, 5])", "it.pvalue == new.pvalue"),
        Row("OdeSolution", "scipy.integrate.solve_ivp(lambda t, y: -y, (0, 1), [1.0], dense_output=True)", "it.sol(0.5) == new.sol(0.5)"),
        Row("StateSpace", "scipy.signal.StateSpace([[1.0]], [[1.0]], [[1.0]], [[0.0]])", "np.array_equal(it.A, new.A)"),
        Row("dlti filter", "scipy.signal.dlti([1.0], [1, -0.5])", "np.array_equal(it.num, new.num) and it.dt == new.dt"),
        Row("LinearOperator", "scipy.sparse.linalg.aslinearoperator(np.eye(3))", "np.array_equal(it @ np.ones(3), new @ np.ones(3))"),
        lost("SuperLU", "scipy.sparse.linalg.splu(scipy.sparse.eye(3, format='csc'))", "SuperLU"),
    ],
)  # fmt: skip


def _estimator(path: str, arguments: str = "", target: str = "y", check: str = "predict") -> Row:
    module, _, name = path.rpartition(".")
    fit = f"X, {target}" if target else "X"
    return Row(
        name,
        f"import sklearn.{module}\nit = sklearn.{module}.{name}({arguments}).fit({fit})",
        f"np.array_equal(it.{check}(X), new.{check}(X)) and repr(it) == repr(new)",
    )


SKLEARN = Library(
    "scikit-learn",
    "X = np.random.default_rng(0).normal(size=(60, 3))\ny = (X[:, 0] > 0).astype(int)\nz = X @ [1, 2, 3]",
    [
        _estimator("linear_model.LinearRegression", target="z"),
        _estimator("linear_model.LogisticRegression", check="predict_proba"),
        _estimator("linear_model.Lasso", "alpha=0.1", "z"),
        _estimator("linear_model.SGDClassifier", "random_state=0"),
        _estimator("tree.DecisionTreeClassifier", "random_state=0"),
        _estimator("ensemble.RandomForestClassifier", "8, random_state=0", check="predict_proba"),
        _estimator("ensemble.GradientBoostingRegressor", "n_estimators=8, random_state=0", "z"),
        _estimator("ensemble.HistGradientBoostingClassifier", "max_iter=5, random_state=0"),
        _estimator("ensemble.IsolationForest", "n_estimators=8, random_state=0", ""),
        _estimator("svm.SVC", "probability=False"),
        _estimator("neighbors.KNeighborsClassifier", "3"),
        _estimator("naive_bayes.GaussianNB", check="predict_proba"),
        _estimator("neural_network.MLPClassifier", "(4,), max_iter=20, random_state=0"),
        _estimator("gaussian_process.GaussianProcessRegressor", target="z"),
        _estimator("cluster.KMeans", "2, n_init=1, random_state=0", ""),
        _estimator("mixture.GaussianMixture", "2, random_state=0", ""),
        _estimator("decomposition.PCA", "2", "", "transform"),
        _estimator("preprocessing.StandardScaler", "", "", "transform"),
        _estimator("preprocessing.KBinsDiscretizer", "3, encode='ordinal', quantile_method='linear'", "", "transform"),
        _estimator("model_selection.GridSearchCV", "sklearn.linear_model.Ridge(), {'alpha': [0.1, 1]}, cv=2", "z"),
        _estimator("compose.ColumnTransformer", "[('a', sklearn.preprocessing.StandardScaler(), [0, 1])]", "", "transform"),
        Row(
            "Pipeline with a function of the notebook",
            "from sklearn.pipeline import make_pipeline\nfrom sklearn.preprocessing import FunctionTransformer\n"
            "def twice(x):\n    return x * 2\nit = make_pipeline(FunctionTransformer(twice), sklearn.linear_model.Ridge()).fit(X, z)",
            "np.array_equal(it.predict(X), new.predict(X))",
        ),
        Row(
            "estimator class of the notebook",
            "from sklearn.base import BaseEstimator, RegressorMixin\nclass Mean(RegressorMixin, BaseEstimator):\n"
            "    def fit(self, X, y):\n        self.mean_ = y.mean()\n        return self\n"
            "    def predict(self, X):\n        return np.full(len(X), self.mean_)\nit = Mean().fit(X, z)",
            "np.array_equal(it.predict(X), new.predict(X)) and type(it) is Mean",
        ),
        Row("TfidfVectorizer", "from sklearn.feature_extraction.text import TfidfVectorizer\nit = TfidfVectorizer().fit(['a bb cc', 'bb dd'])", "(it.transform(['bb cc']) != new.transform(['bb cc'])).nnz == 0"),
        Row("Bunch", "from sklearn.datasets import load_iris\nit = load_iris()", "np.array_equal(it.data, new.data) and it.DESCR == new.DESCR"),
        Row("StratifiedKFold", "from sklearn.model_selection import StratifiedKFold\nit = StratifiedKFold(3, shuffle=True, random_state=1)", "[t.tolist() for _, t in it.split(X, y)] == [t.tolist() for _, t in new.split(X, y)]"),
    ],
)  # fmt: skip

PICTURE = "picture(it) == picture(new)"
_PLOT = "it, ax = plt.subplots(figsize=(2, 1.5), dpi=40)\n{}\nplt.close(it)"

MATPLOTLIB = Library(
    "matplotlib",
    "import matplotlib, matplotlib.pyplot as plt, matplotlib.colors, matplotlib.dates, matplotlib.path",
    [
        Row("Figure, lines and legend", _PLOT.format("ax.plot([1, 3, 2], label='l'); ax.legend()"), PICTURE),
        Row("Figure, image and colour bar", _PLOT.format("it.colorbar(ax.imshow(np.eye(4)))"), PICTURE),
        Row("Figure, histogram, log axis", _PLOT.format("ax.hist([1, 2, 2, 9], log=True)"), PICTURE),
        Row("Figure, dates", _PLOT.format("ax.plot(np.array(['2024-01', '2024-05'], 'M8[M]'), [1, 2])"), PICTURE),
        Row("Figure, 3-d surface", "it = plt.figure(figsize=(2, 1.5), dpi=40)\nit.add_subplot(projection='3d').plot_surface(*np.meshgrid([0, 1], [0, 1]), np.eye(2))\nplt.close(it)", PICTURE),
        Row("Figure, grid of subplots", "it, axs = plt.subplots(2, 2, sharex=True, figsize=(2, 1.5), dpi=40)\nplt.close(it)", PICTURE + " and it.axes[0] is axs[0, 0]"),
        Row("Figure, text with mathematics", _PLOT.format("ax.set_title('$\\\\alpha^2$')"), PICTURE),
        Row("Figure open in pyplot", "it = plt.figure('kept', figsize=(2, 1.5), dpi=40)\nit.add_subplot().plot([1, 2])", "it.axes[0].lines[0].get_ydata().tolist() == [1, 2]"),
        Row("LinearSegmentedColormap", "matplotlib.colors.LinearSegmentedColormap.from_list('c', ['r', 'b'])", "it(0.3) == new(0.3)"),
        Row("LogNorm", "matplotlib.colors.LogNorm(1, 10)", "it(3) == new(3)"),
        Row("Path", "matplotlib.path.Path([[0, 0], [1, 1]])", "np.array_equal(it.vertices, new.vertices)"),
        Row("rcParams", "plt.rcParams", "it is matplotlib.rcParams"),
        Row("Rectangle", "plt.Rectangle((0, 0), 1, 2)", "it.get_bbox().bounds == new.get_bbox().bounds"),
    ],
)  # fmt: skip

STATSMODELS = Library(
    "statsmodels",
    "import statsmodels.api as sm, statsmodels.formula.api as smf\nsm_x = np.random.default_rng(0).normal(size=(50, 2))\nsm_y = sm_x @ [1, 2] + np.random.default_rng(1).normal(size=50)",
    [
        Row("OLS results", "sm.OLS(sm_y, sm.add_constant(sm_x)).fit()", "np.array_equal(it.params, new.params) and it.rsquared == new.rsquared and it.summary().tables[1].as_text() == new.summary().tables[1].as_text()"),
        Row("OLS results by formula", "smf.ols('y ~ x', pd.DataFrame({'x': sm_x[:, 0], 'y': sm_y})).fit()", "it.params.equals(new.params) and it.predict({'x': [1.5]}).equals(new.predict({'x': [1.5]}))"),
        Row("GLM results", "sm.GLM((sm_y > 0) * 1, sm_x, family=sm.families.Binomial()).fit()", "np.array_equal(it.params, new.params)"),
        Row("Logit results", "sm.Logit((sm_y > 0) * 1, sm_x).fit(disp=0)", "np.array_equal(it.predict(sm_x), new.predict(sm_x))"),
        Row("AutoReg results", "from statsmodels.tsa.ar_model import AutoReg\nit = AutoReg(sm_y, 2).fit()", "np.array_equal(it.forecast(3), new.forecast(3))"),
        Row("ARIMA results", "from statsmodels.tsa.arima.model import ARIMA\nit = ARIMA(sm_y, order=(1, 0, 0)).fit()", "np.array_equal(it.params, new.params) and np.allclose(it.forecast(2), new.forecast(2), rtol=1e-12)"),
        Row("DecomposeResult", "from statsmodels.tsa.seasonal import seasonal_decompose\nit = seasonal_decompose(np.arange(24.0), period=4)", "np.array_equal(it.seasonal, new.seasonal)"),
        Row("ECDF", "from statsmodels.distributions import ECDF\nit = ECDF([1, 2, 3])", "it(2) == new(2)"),
        Row("KDEUnivariate", "it = sm.nonparametric.KDEUnivariate(sm_y)\nit.fit()", "np.array_equal(it.density, new.density)"),
    ],
)  # fmt: skip

GRAPH = "nx.utils.graphs_equal(it, new)"

NETWORKX = Library(
    "networkx",
    "import networkx as nx",
    [
        Row("Graph", "nx.karate_club_graph()", GRAPH),
        Row("DiGraph", "nx.DiGraph([(1, 2, {'w': 3}), (2, 1)])", GRAPH),
        Row("MultiGraph", "nx.MultiGraph([(1, 2), (1, 2)])", GRAPH),
        Row("MultiDiGraph", "nx.MultiDiGraph([(1, 2), (1, 2)])", GRAPH),
        Row("Graph of the notebook's objects", "it = nx.Graph()\nit.add_edge((1, 'a'), frozenset({2}), tags=['x'])", GRAPH),
        Row("subgraph view", "nx.path_graph(5).subgraph([1, 2, 3])", "sorted(it.edges) == sorted(new.edges)"),
        Row("reversed view", "nx.DiGraph([(1, 2)]).reverse(copy=False)", "list(it.edges) == [(2, 1)]"),
        Row("EdgeView", "nx.path_graph(4).edges", "list(it) == list(new)"),
        Row("PlanarEmbedding", "nx.check_planarity(nx.complete_graph(4))[1]", "it.get_data() == new.get_data()"),
    ],
)  # fmt: skip

POLARS = Library(
    "polars",
    "import polars as pl, polars.testing",
    [
        Row("DataFrame", "pl.DataFrame({'a': [1, None], 's': ['x', 'ü'], 'l': [[1], []], 'f': [0.5, None]})", "it.equals(new) and it.schema == new.schema"),
        Row("DataFrame, large", "pl.DataFrame({'a': np.random.default_rng(0).random(50_000)})", "it.equals(new)"),
        Row("DataFrame, categories, enums, structs, dates", "pl.DataFrame({'c': pl.Series(['u', 'v'], dtype=pl.Categorical), 'e': pl.Series(['p'] * 2, dtype=pl.Enum(['p'])), 'r': [{'k': 1}, {'k': 2}], 'd': pl.Series([0, 1], dtype=pl.Date)})", "it.equals(new) and it.schema == new.schema"),
        Row("DataFrame, large, all kinds of columns", "pl.select(pl.int_range(20_000, dtype=pl.Int32).alias('i')).with_columns(pl.col('i').cast(pl.Float64).sqrt().alias('f'), pl.col('i').cast(pl.Datetime('us', 'UTC')).alias('t'), pl.col('i').cast(pl.Date).alias('d'), pl.col('i').cast(pl.String).alias('s'), pl.when(pl.col('i') > 9).then(pl.col('i')).alias('n'), (pl.col('i') % 2 == 0).alias('b'))", "it.equals(new) and it.schema == new.schema"),
        Row("Series", "pl.Series('n', [1, 2, None])", "it.equals(new) and it.name == new.name"),
        Row("Series of datetimes with time zone", "pl.Series([0, 1]).cast(pl.Datetime('us', 'Europe/Berlin'))", "it.equals(new) and it.dtype == new.dtype"),
        Row("Series of decimals", "pl.Series(['1.10', '2']).cast(pl.Decimal(10, 2))", "it.equals(new) and it.dtype == new.dtype"),
        Row("LazyFrame", "pl.LazyFrame({'a': [1, 2]}).filter(pl.col('a') > 1)", "it.collect().equals(new.collect())"),
        Row("Expr", "(pl.col('a') * 2).alias('b')", "it.meta.eq(new)"),
        Row("Schema", "pl.Schema({'a': pl.Int8, 'l': pl.List(pl.String)})"),
        Row("DataType", "pl.Datetime('ms', 'UTC')"),
        Row("GroupBy", "pl.DataFrame({'g': [1, 1], 'v': [2, 3]}).group_by('g')", "it.agg(pl.col('v').sum()).equals(new.agg(pl.col('v').sum()))"),
    ],
)  # fmt: skip

EQUALS = "it.equals(new)"

PYARROW = Library(
    "pyarrow",
    "import pyarrow as pa, pyarrow.dataset, pyarrow.compute as pc",
    [
        Row("Table", "pa.table({'a': [1, None], 's': ['x', 'ü'], 'l': [[1], None]})", EQUALS),
        Row("Table with metadata", "pa.table({'a': [1]}).replace_schema_metadata({'k': 'v'})", "it.equals(new, check_metadata=True)"),
        Row("RecordBatch", "pa.record_batch({'a': [1, 2]})", EQUALS),
        Row("Array of int64, large", "pa.array(np.arange(50_000))", EQUALS),
        Row("Array, sliced", "pa.array(range(9)).slice(2, 4)", EQUALS),
        Row("ListArray", "pa.array([[1, 2], None, []])", EQUALS),
        Row("StructArray", "pa.array([{'a': 1}, {'a': None}])", EQUALS),
        Row("DictionaryArray", "pa.array(['a', 'b', 'a']).dictionary_encode()", EQUALS),
        Row("ChunkedArray", "pa.chunked_array([[1], [2, 3]])", "it.equals(new) and it.num_chunks == 2"),
        Row("Scalar", "pa.scalar(5, pa.int8())", EQUALS),
        Row("DataType", "pa.map_(pa.string(), pa.decimal128(9, 2))", EQUALS),
        Row("Schema", "pa.schema([('a', pa.int8())], metadata={'k': 'v'})", "it.equals(new, check_metadata=True)"),
        Row("Buffer", "pa.py_buffer(b'abc' * 50_000)", EQUALS),
        Row("Expression", "pc.field('a') > 3", EQUALS),
        lost("MemoryMappedFile", "open('arrow.bin', 'wb').write(b'12')\nit = pa.memory_map('arrow.bin')", "stream of this kind"),
    ],
)  # fmt: skip

PIXELS = "it.tobytes() == new.tobytes() and (it.mode, it.size, it.info) == (new.mode, new.size, new.info)"

PILLOW = Library(
    "pillow",
    "import PIL.Image, PIL.ImageDraw, PIL.ImageFont, PIL.ImageFilter",
    [
        Row("Image, RGB", "PIL.Image.linear_gradient('L').convert('RGB')", PIXELS),
        Row("Image, RGBA", "PIL.Image.new('RGBA', (9, 9), (1, 2, 3, 4))", PIXELS),
        Row("Image, palette", "PIL.Image.linear_gradient('L').convert('P')", f"{PIXELS} and it.getpalette() == new.getpalette()"),
        Row("Image, 1 bit", "PIL.Image.new('1', (9, 9), 1)", PIXELS),
        Row("Image, float", "PIL.Image.fromarray(np.eye(5, dtype='f4'))", PIXELS),
        Row("Image read from a PNG", "PIL.Image.new('L', (3, 3), 7).save('p.png')\nit = PIL.Image.open('p.png')\nit.load()", "it.tobytes() == new.tobytes() and it.format == new.format"),
        Row("ImageFilter", "PIL.ImageFilter.GaussianBlur(2)", "it.radius == new.radius"),
        Row("FreeTypeFont", "PIL.ImageFont.truetype(matplotlib.get_data_path() + '/fonts/ttf/DejaVuSans.ttf', 12)", "it.getlength('abc') == new.getlength('abc')"),
        degraded("ImageDraw", "PIL.ImageDraw.Draw(PIL.Image.new('L', (3, 3)))", "it.mode == 'L'", "ImagingDraw inside is lost"),
    ],
)  # fmt: skip
