"""The half of the namespace engine that runs inside the user's kernel.

It needs the standard library and cloudpickle, is loaded under a private name from its own
directory, and leaves nothing in the user's namespace. :func:`dump` and :func:`load` never raise:
what went wrong is in the report they write.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.machinery
import importlib.util
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPORT = "report.json"
DEEPEST = 3000  # Python's recursion limit while pickling
CLOUDPICKLE = f"{__name__}.cloudpickle"
_directories: dict[str, Any] = {}


@functools.lru_cache(200)
def is_installed(entry: Any) -> bool:
    """Whether this entry of ``sys.path`` holds libraries, and no files of the notebook's."""
    if type(entry) is not str or not entry:
        return False
    parts = Path(entry).parts
    roots = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    library = any(part.startswith(("site-packages", "dist-packages")) for part in parts)
    stdlib = any(part.startswith("python") for part in parts[-2:])
    return library or (stdlib and any(entry.startswith(root + os.sep) for root in roots))


@contextlib.contextmanager
def _libraries_only() -> Iterator[None]:
    """What the engine imports meanwhile is no file of the notebook's (a `platform.py`), and what
    the notebook imports afterwards is none of ours.
    """
    path, before = list(sys.path), set(sys.modules)
    sys.path[:] = [entry for entry in path if type(entry) is str and is_installed(entry)]
    try:
        yield
    finally:
        sys.path[:] = path
        own = [entry for entry in path if type(entry) is str and not is_installed(entry)]
        for name in sys.modules.keys() - before:
            top = str(name).partition(".")[0]
            if top != __name__ and importlib.machinery.PathFinder.find_spec(top, own) is not None:
                del sys.modules[name]


def _borrow(directory: str) -> None:
    """Have cloudpickle and xxhash: the kernel's own, else those in ``directory``.

    cloudpickle gets a name of ours: pickles name it, and what the notebook has under its name may
    be a file of the user's.
    """
    find = importlib.machinery.PathFinder.find_spec
    if CLOUDPICKLE not in sys.modules:
        spec = find("cloudpickle", sys.path) or find("cloudpickle", [directory])
        if spec is None or spec.origin is None:
            raise ImportError("cloudpickle is not there")
        file = Path(spec.origin).with_name("cloudpickle.py")
        _execute(CLOUDPICKLE, importlib.util.spec_from_file_location(CLOUDPICKLE, file))
    if "xxhash" not in sys.modules:
        with contextlib.suppress(ImportError):  # built for another Python
            _execute("xxhash", find("xxhash", sys.path) or find("xxhash", [directory]))


def _execute(name: str, spec: importlib.machinery.ModuleSpec | None) -> None:
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
    interval = sys.getswitchinterval()
    held = {"collecting": gc.isenabled(), "depth": sys.getrecursionlimit()}
    # No collection: it would run the user's finalizers. No switch: one moment, not several. No
    # deeper than the stack is for sure: a deep structure must not crash the kernel.
    gc.disable()
    sys.setrecursionlimit(min(held["depth"], DEEPEST))
    sys.setswitchinterval(60)
    try:
        (path / report_name).unlink(missing_ok=True)
        filters = list(warnings.filters)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _libraries_only():
                _borrow(borrowed)
                from . import blocks, moves, transfer  # noqa: F401 - while nothing is in the way
            filters = work(path, report, filters, held)
        if filters:
            _set_filters(filters)
    except BaseException as error:
        report["error"] = f"{type(error).__name__}: {error}"
        report["trace"] = traceback.format_exc()
    finally:
        sys.setswitchinterval(interval)
        sys.setrecursionlimit(held["depth"])
        if held["collecting"]:
            gc.enable()
    report["seconds"] = round(time.perf_counter() - started, 6)
    try:
        path.mkdir(parents=True, exist_ok=True)
        temporary = path / (report_name + ".new")
        temporary.write_text(json.dumps(report))
        temporary.replace(path / report_name)
    except BaseException as error:
        print(f"sessionkeeper: no report at {path}: {error}", file=sys.__stderr__)


def dump(directory: str, borrowed: str, limit: int, patience: float) -> None:
    """Write the session, at most ``limit`` bytes, and ``report.json`` into ``directory``.

    What makes no progress for ``patience`` seconds is left out.
    """

    def work(path: Path, report: dict[str, Any], filters: list[Any], held: dict[str, Any]) -> None:
        from . import blocks, transfer

        store = _directories.setdefault(directory, blocks.Directory(path))
        transfer.dump(_kernel_shell(), store, limit, report, filters, held, patience)

    _run(directory, borrowed, REPORT, work)


def load(
    directory: str, borrowed: str, report_path: str, moved: tuple[str, str] | None = None
) -> None:
    """Bring the session in ``directory`` into this kernel, a fresh one; the report goes to
    ``report_path``. ``moved``: where the workspace was, and where it is.
    """

    def work(
        path: Path, report: dict[str, Any], filters: list[Any], held: dict[str, Any]
    ) -> list[Any]:
        from . import moves, transfer

        with moves.following(moved):
            return transfer.load(_kernel_shell(), Path(directory), report, held)

    target = Path(report_path)
    _run(str(target.parent), borrowed, target.name, work)
