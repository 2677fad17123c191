"""What of a session is not a variable: IPython's own state, and that of the process."""

from __future__ import annotations

import importlib
import linecache
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import imported, kinds, moves
from .groups import Entry

_MODULE_NAMES = frozenset(
    [
        "__name__",
        "__doc__",
        "__package__",
        "__loader__",
        "__spec__",
        "__session__",
        "__builtin__",
        "__builtins__",
    ]
)
_HOOK_NAMES = ("_", "__", "___")
# Set for one process by whoever starts the kernel.
_PROCESS_VARIABLES = ("JPY_PARENT_PID", "JPY_INTERRUPT_EVENT", "IPY_INTERRUPT_EVENT")
# Objects that every process has one of, and that are never copied.
_SEEDS = (
    ("sys", "__stdout__"), ("sys", "__stderr__"), ("sys", "__stdin__"), ("sys", "modules"),
    ("sys", "path"),
    ("sys", "argv"), ("os", "environ"), ("random", "_inst"), ("builtins", "__dict__"),
    ("dataclasses", "MISSING"), ("dataclasses", "KW_ONLY"), ("dataclasses", "_FIELD"),
    ("dataclasses", "_FIELD_CLASSVAR"), ("dataclasses", "_FIELD_INITVAR"),
    ("dataclasses", "_HAS_DEFAULT_FACTORY"), ("numpy.random.mtrand", "_rand"),
    ("matplotlib", "rcParams"), ("asyncio", "events"),
)  # fmt: skip


def namespace_entries(shell: Any) -> tuple[list[Entry], dict[str, str]]:
    """The user's values, and the modules bound to names: ``{name: module}``."""
    hidden, hook = shell.user_ns_hidden, shell.displayhook
    entries, modules = [], {}
    for name in ("stdout", "stderr", "stdin"):
        stream = getattr(sys, name, None)
        if stream is not getattr(sys, f"__{name}__", None) and not is_kernels(stream):
            entries.append(Entry("stream", name, stream))
    for number, value in list(shell.history_manager.output_hist.items()):
        entries.append(Entry("output", _shown(number), value))
        if type(number) is not int:
            entries[-1].state, entries[-1].why = "lost", "only outputs with a number are saved"
    for name in _HOOK_NAMES:
        entries.append(Entry("hook", name, getattr(hook, name)))
    for name, value in list(shell.user_ns.items()):
        if name in _MODULE_NAMES or (name in hidden and hidden[name] is value):
            continue
        if name in _HOOK_NAMES and getattr(hook, name) is value:
            continue
        if name in ("_i", "_ii", "_iii") and type(value) is str and not value:
            continue
        if type(name) is not str:
            why = "only variables with a name are saved"
            entries.append(Entry("variable", _shown(name), value, "lost", why))
        elif (module := kinds.module_name(value)) is not None:
            modules[name] = module
        else:
            entries.append(Entry("variable", name, value))
    return entries, modules


def _shown(key: Any) -> str:
    return str(key) if type(key) in (str, int) else f"<{kinds.type_name(key)}>"


def is_kernels(stream: Any) -> bool:
    """Whether it is one of those that ipykernel has in the place of ``sys.stdout`` and so on."""
    return kinds.type_name(stream).startswith("ipykernel.")


def seeds(
    shell: Any, entries: list[Entry], of_modules: list[Entry]
) -> tuple[list[tuple[str, str, str | None]], list[Any]]:
    """Objects a restored kernel has by itself: how to find each, and the objects in that order.

    With those of libraries goes what proves that they are still as imported.
    """
    found: dict[int, tuple[tuple[str, str, str | None], Any]] = {}
    history = shell.history_manager
    own = {
        "user_ns": shell.user_ns, "shell": shell, "hook": shell.displayhook, "history": history,
        "In": history.input_hist_parsed, "Out": history.output_hist, "dirs": history.dir_hist,
        **_context(),
    }  # fmt: skip
    for name, value in own.items():
        found.setdefault(id(value), (("", name, None), value))
    for module, name in _SEEDS:
        value = kinds.content(sys.modules.get(module)).get(name)
        if value is not None:
            found.setdefault(id(value), ((module, name, None), value))
    for module, name in imported.of_libraries(history.input_hist_parsed, entries, of_modules):
        value = kinds.content(sys.modules[module])[name]
        if id(value) not in found:
            found[id(value)] = ((module, name, imported.proof(value)), value)
    return [seed for seed, _ in found.values()], [value for _, value in found.values()]


def _context() -> dict[str, Any]:
    """This thread's context of decimal numbers, which is the settings' to restore."""
    decimal = sys.modules.get("decimal")
    return {} if decimal is None else {"decimal": decimal.getcontext()}


def find_seed(shell: Any, module: str, name: str) -> Any:
    """The restored kernel's own object for a seed. Raises when there is none."""
    if module:
        return getattr(importlib.import_module(module), name)
    history = shell.history_manager
    return {
        "user_ns": shell.user_ns, "shell": shell, "hook": shell.displayhook, "history": history,
        "In": history.input_hist_parsed, "Out": history.output_hist, "dirs": history.dir_hist,
        **_context(),
    }[name]  # fmt: skip


def capture_history(shell: Any) -> dict[str, Any]:
    history = shell.history_manager
    sources = {}
    for filename, number in getattr(shell.compile, "_filename_map", {}).items():
        cached = linecache.cache.get(filename)
        if number and cached is not None and len(cached) == 4:
            sources[filename] = (number, "".join(cached[2]))
    return {
        "count": shell.execution_count,
        "parsed": list(map(str, history.input_hist_parsed)),
        "raw": list(map(str, history.input_hist_raw)),
        "last": [str(getattr(history, name, "")) for name in ("_i00", "_i", "_ii", "_iii")],
        "dirs": list(map(str, history.dir_hist)),
        "sources": sources,
    }


def restore_history(shell: Any, saved: dict[str, Any]) -> None:
    history = shell.history_manager
    history.input_hist_parsed[:] = saved["parsed"]
    history.input_hist_raw[:] = saved["raw"]
    history.dir_hist[:] = [moves.path(one) for one in saved["dirs"]]
    history._i00, history._i, history._ii, history._iii = saved["last"]
    names = {f"_i{n}": text for n, text in enumerate(saved["raw"]) if n}
    names.update({"_i": saved["last"][1], "_ii": saved["last"][2], "_iii": saved["last"][3]})
    shell.push(names, interactive=False)
    for filename, (number, text) in saved["sources"].items():
        linecache.cache[filename] = (len(text), None, text.splitlines(True), filename)
        shell.compile._filename_map[filename] = number
    shell.execution_count = saved["count"]


def _start_environment() -> dict[str, str]:
    """The environment this process was started with."""
    try:
        pairs = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return dict(os.environ)
    split = [pair.partition(b"=") for pair in pairs if b"=" in pair]
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in split}


def _changed_arguments() -> list[str] | None:
    """``sys.argv`` if the notebook has changed it."""
    try:
        given = Path("/proc/self/cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        return None
    now = list(sys.argv)
    if any(type(one) is not str for one in now):
        return None
    return now if list(map(os.fsencode, now[1:])) != given[-len(now) + 1 or len(given) :] else None


def capture_process(shell: Any, modules: dict[str, str]) -> dict[str, Any]:
    start, now = _start_environment(), dict(os.environ)
    tops = {module.partition(".")[0] for module in modules.values()}
    try:
        cwd = os.getcwd()
    except OSError:
        cwd = ""
    return {
        "cwd": cwd,
        "path": [entry for entry in sys.path if isinstance(entry, str)],
        "prefix": sys.prefix,
        "argv": _changed_arguments(),
        "set": {n: v for n, v in now.items() if start.get(n) != v and n not in _PROCESS_VARIABLES},
        "unset": [n for n in start if n not in now and n not in _PROCESS_VARIABLES],
        "modules": modules,
        "submodules": sorted(
            name
            for name, module in list(sys.modules.items())
            if type(name) is str
            and kinds.is_module(module)
            and name.partition(".")[0] in tops
            and "." in name
        ),
        "extensions": sorted(
            shell.extension_manager.loaded - {"storemagic", "IPython.extensions.storemagic"}
        ),
    }


_LENT = str(Path(__file__).with_name("lent"))


def _is_lent(entry: str) -> bool:
    """Whether it is, on some node, what is lent to user code: the directory beside this file."""
    return Path(entry).parts[-2:] == Path(_LENT).parts[-2:]


def restore_process(saved: dict[str, Any], also: Callable[[str, Exception | None], None]) -> None:
    """Working directory, ``sys.path`` and environment. ``also`` takes what became of each."""
    for name, value in saved["set"].items():
        os.environ[name] = moves.paths(value)
    for name in saved["unset"]:
        os.environ.pop(name, None)
    also("environment", None)
    path = [_LENT if _is_lent(entry) else moves.path(entry) for entry in saved["path"]]
    if saved["prefix"] == sys.prefix:
        sys.path[:] = path
    else:
        old = saved["prefix"] + os.sep
        sys.path[:0] = [p for p in path if p not in sys.path and not p.startswith(old)]
    importlib.invalidate_caches()
    also("sys.path", None)
    if saved.get("argv") is not None:
        sys.argv[:] = saved["argv"]
        also("sys.argv", None)
    try:
        os.chdir(moves.path(saved["cwd"]))
        also("cwd", None)
    except OSError as error:
        also("cwd", error)


def restore_modules(
    shell: Any, saved: dict[str, Any], also: Callable[[str, Exception | None], None]
) -> dict[str, str]:
    """Import the modules bound to names, with their submodules; returns what failed, and why."""
    failed = {}
    for name, module in saved["modules"].items():
        try:
            shell.user_ns[name] = importlib.import_module(module)
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"
    missing: dict[str, list[str]] = {}
    for module in saved["submodules"]:
        if module not in sys.modules and module.partition(".")[0] in sys.modules:
            try:
                importlib.import_module(module)
            except Exception:
                missing.setdefault(module.partition(".")[0], []).append(module)
    for top, names in missing.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        also(f"modules of {top}", ImportError(f"there is no {', '.join(names[:3])}{more} here"))
    return failed


def capture_random() -> dict[str, Any]:
    state: dict[str, Any] = {"random": random.getstate()}
    numpy_random = sys.modules.get("numpy.random.mtrand")
    if numpy_random is not None:
        state["numpy.random"] = numpy_random.get_state(legacy=False)
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_rng_state"):
        state["torch"] = bytes(torch.get_rng_state().tolist())
    return state


def restore_random(saved: dict[str, Any], also: Callable[[str, Exception | None], None]) -> None:
    setters: dict[str, Callable[[Any], None]] = {"random": random.setstate}
    if "numpy.random" in saved:
        import numpy

        setters["numpy.random"] = numpy.random.set_state
    if "torch" in saved:
        torch: Any = importlib.import_module("torch")
        setters["torch"] = lambda state: torch.set_rng_state(torch.ByteTensor(list(state)))
    for name, state in saved.items():
        try:
            setters[name](state)
            also(name, None)
        except Exception as error:
            also(name, error)
