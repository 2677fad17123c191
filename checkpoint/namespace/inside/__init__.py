"""The half of the namespace engine that runs inside the user's kernel.

It needs the standard library and cloudpickle, is loaded under a private name from its own
directory, and leaves nothing in the user's namespace. :func:`dump` and :func:`load` never raise:
what went wrong is in the report they write.
"""

from __future__ import annotations

import gc
import importlib.machinery
import importlib.util
import json
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

REPORT = "report.json"
DEEPEST = 3000  # Python's recursion limit while pickling
_directories: dict[str, Any] = {}


def _borrow(name: str, directory: str) -> None:
    """Make module ``name`` importable: the kernel's own, else the one in ``directory``."""
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        return
    spec = importlib.machinery.PathFinder.find_spec(name, [directory])
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _kernel_shell() -> Any:
    from IPython import get_ipython

    return get_ipython()


def _set_filters(filters: list[Any]) -> None:
    warnings.filters[:] = filters  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]


def _run(directory: str, borrowed: str, report_name: str, work: Any) -> None:
    """Call ``work`` and write its report, or that it failed. Never raises."""
    started = time.perf_counter()
    report: dict[str, Any] = {"variables": {}, "bytes": 0, "also": {}}
    path = Path(directory)
    collecting, interval, depth = gc.isenabled(), sys.getswitchinterval(), sys.getrecursionlimit()
    # No collection: it would run the user's finalizers. No switch: one moment, not several. No
    # deeper than the stack is for sure: a deep structure must not crash the kernel.
    gc.disable()
    sys.setrecursionlimit(min(depth, DEEPEST))
    sys.setswitchinterval(60)
    try:
        (path / report_name).unlink(missing_ok=True)
        filters = list(warnings.filters)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _borrow("cloudpickle", borrowed)
            _borrow("xxhash", borrowed)
            filters = work(path, report, filters)
        if filters:
            _set_filters(filters)
    except BaseException as error:
        report["error"] = f"{type(error).__name__}: {error}"
        report["trace"] = traceback.format_exc()
    finally:
        sys.setswitchinterval(interval)
        sys.setrecursionlimit(depth)
        if collecting:
            gc.enable()
    report["seconds"] = round(time.perf_counter() - started, 6)
    try:
        path.mkdir(parents=True, exist_ok=True)
        temporary = path / (report_name + ".new")
        temporary.write_text(json.dumps(report))
        temporary.replace(path / report_name)
    except BaseException as error:
        print(f"sessionkeeper: no report at {path}: {error}", file=sys.__stderr__)


def dump(directory: str, borrowed: str, limit: int) -> None:
    """Write the session, at most ``limit`` bytes, and ``report.json`` into ``directory``."""

    def work(path: Path, report: dict[str, Any], filters: list[Any]) -> None:
        from . import blocks, transfer

        store = _directories.setdefault(directory, blocks.Directory(path))
        transfer.dump(_kernel_shell(), store, limit, report, filters)

    _run(directory, borrowed, REPORT, work)


def load(
    directory: str, borrowed: str, report_path: str, moved: tuple[str, str] | None = None
) -> None:
    """Bring the session in ``directory`` into this kernel, a fresh one; the report goes to
    ``report_path``. ``moved``: where the workspace was, and where it is.
    """

    def work(path: Path, report: dict[str, Any], filters: list[Any]) -> list[Any]:
        from . import moves, transfer

        with moves.following(moved):
            return transfer.load(_kernel_shell(), Path(directory), report)

    target = Path(report_path)
    _run(str(target.parent), borrowed, target.name, work)
