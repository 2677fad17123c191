"""A session into a directory, and back. See ``docs/namespace-engine.md`` for what is in the
directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import mmap
import os
import pickle
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from . import blocks, groups, imported, moves, patches, rebuild, session, settings, stalls

FORMAT = 1
PYTHON = ".".join(map(str, sys.version_info[:3]))
SESSION = "session.pickle"
HISTORY = "history.pickle"


def _also(report: dict[str, Any]) -> Callable[[str, Exception | None], None]:
    def note(name: str, error: Exception | None) -> None:
        why = None if error is None else f"{type(error).__name__}: {error}"
        report["also"][name] = {"state": "exact" if error is None else "lost", "why": why}

    return note


def _tell(report: dict[str, Any], name: str, state: str, kind: str, why: Any, size: int) -> None:
    report["variables"][name] = {"state": state, "type": kind, "why": why, "bytes": size}


# --- dump ---------------------------------------------------------------------------------------


def dump(
    shell: Any,
    store: blocks.Directory,
    limit: int,
    report: dict[str, Any],
    filters: list[Any],
    python: dict[str, Any],
    patience: float,
) -> None:
    """Write the session to ``store``. ``filters`` are the user's ``warnings.filters``, ``python``
    what else of the process was changed for as long as this takes. A value that makes no progress
    for ``patience`` seconds is lost.
    """
    also = _also(report)
    entries, modules = session.namespace_entries(shell)
    own = imported.entries()
    with stalls.watched(patience), _silence():
        seed_names, seeds = session.seeds(shell, entries, own)
    entries += own
    process = session.capture_process(shell, modules)
    process["random"] = session.capture_random()
    named = [entry for entry in entries if entry.state != "lost"]
    with stalls.watched(patience), _silence():
        found = groups.collect(named, seeds, limit, store.hints)
    process["settings"], failed = settings.capture(filters)
    process["python"] = settings.capture_python(python)
    for name in settings.handlers():
        also(f"handler of {name}", RuntimeError("set it again with signal.signal"))
    for name, error in failed.items():
        also(f"settings of {name}", error)
    for name in process["extensions"]:
        also(f"extension {name}", RuntimeError("load it again with %load_ext"))
    cells = shell.history_manager.input_hist_parsed
    kept = {f"sys.{entry.name}" for entry in entries if entry.kind == "stream"}
    kept |= {imported.shown(entry.name) for entry in own} | {"sys.argv"}
    try:
        for name in patches.found(cells, shell.user_ns, set(modules.values()), seeds):
            if name not in kept:
                report["also"][f"change of {name}"] = {"state": "lost", "why": patches.TOLD}
    except Exception as error:
        also("changes of modules", error)
    store.begin()
    store.write(SESSION, memoryview(pickle.dumps(process)))
    store.write(HISTORY, memoryview(pickle.dumps(session.capture_history(shell))))
    index = {
        "format": FORMAT,
        "python": PYTHON,
        "seeds": seed_names,
        "groups": [_write(store, group) for group in found],
        "lost": [_described(entry) for entry in entries if entry.state == "lost"],
        "also": report["also"],
    }
    store.finish(index)
    for entry in entries:
        _tell_entry(report, _described(entry))
    for name in modules:
        _tell(report, name, "exact", "module", None, 0)
    for name in ("cwd", "sys.path", "environment", "history", "random"):
        also(name, None)
    report["bytes"] = store.size()
    report["written"] = store.written


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """What a `__getstate__` of the user's prints is no output of a cell."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _described(entry: groups.Entry) -> dict[str, Any]:
    return {
        "kind": entry.kind,
        "name": entry.name,
        "type": groups.type_name(entry.value),
        "state": entry.state,
        "why": entry.why,
        "bytes": entry.bytes,
    }


def _write(store: blocks.Directory, group: groups.Group) -> dict[str, Any]:
    first = group.entries[0]
    label = f"{first.kind}:{first.name}".encode("utf-8", "surrogatepass")
    name = f"v-{hashlib.blake2b(label, digest_size=8).hexdigest()}.pickle"
    store.write(name, memoryview(group.stream))
    written = []
    for buffer in group.buffers:
        raw = buffer.raw()
        file = store.buffer_name(_address(raw), raw.nbytes)
        store.write(file, raw)
        written.append([file, raw.nbytes, raw.readonly])
    return {
        "file": name,
        "size": len(group.stream),
        "code": group.has_code,
        "buffers": written,
        "entries": [_described(entry) for entry in group.entries],
    }


def _address(raw: memoryview) -> int:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return id(raw.obj)
    return int(numpy.frombuffer(raw, dtype="u1").__array_interface__["data"][0])


# --- load ---------------------------------------------------------------------------------------


def load(shell: Any, path: Path, report: dict[str, Any], python: dict[str, Any]) -> list[Any]:
    """Bring the session at ``path`` into ``shell``; returns its ``warnings.filters``, and puts into
    ``python`` what is to be set with them.

    A part that fails is noted in ``report``, and the others go on. Raises `ValueError` when there
    is no session at ``path``, or one of a newer format.
    """
    try:
        index = json.loads((path / blocks.INDEX).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} holds no complete namespace dump: {error}") from error
    if index["format"] > FORMAT:
        raise ValueError(f"{path} has format {index['format']}, known is up to {FORMAT}")
    report["also"].update(index["also"])
    also = _also(report)
    process = pickle.loads((path / SESSION).read_bytes())  # noqa: S301 - the session's own data
    session.restore_process(process, also)
    failed = session.restore_modules(shell, process, also)
    for name in process["modules"]:
        state = "lost" if name in failed else "exact"
        _tell(report, name, state, "module", failed.get(name), 0)
    filters = settings.restore(process["settings"], also)
    settings.restore_python(process.get("python", {}), python, also)
    history = pickle.loads((path / HISTORY).read_bytes())  # noqa: S301
    session.restore_history(shell, history)
    also("history", None)
    changed: dict[int, str] = {}
    rebuild.streams.update(stdout=sys.stdout, stderr=sys.stderr)
    seeds = []
    for module, name, *proof in index["seeds"]:
        seeds.append(_seed(shell, module, name))
        if proof and proof[0] is not None and imported.proof(seeds[-1]) != proof[0]:
            changed[id(seeds[-1])] = f"{module}.{name}"
            report["also"][f"change of {module}.{name}"] = {"state": "lost", "why": patches.TOLD}
    for described in index["lost"]:
        _tell_entry(report, described)
    for group in sorted(
        index["groups"], key=lambda g: [e["kind"] == "variable" for e in g["entries"]]
    ):
        report["bytes"] += _load_group(shell, path, group, seeds, changed, index["python"], report)
    session.restore_random(process["random"], also)
    return filters


class _Chained:
    """One stream after the other; no read goes over the border. Nothing is copied: large values
    are read into the place where they stay.
    """

    def __init__(self, first: BinaryIO, second: BinaryIO) -> None:
        self._source, self._next = first, second

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        if data or self._source is self._next:
            return data
        self._source = self._next
        return self._source.read(size)

    def readinto(self, buffer: Any) -> int:
        return int(self._source.readinto(buffer))  # type: ignore[attr-defined]

    def readline(self) -> bytes:
        return self._source.readline()


class _Unpickler(pickle.Unpickler):
    """Reads a stream whose memo begins with ``seeds``, as :class:`.pickler.Pickler` wrote it."""

    def __init__(self, file: BinaryIO, buffers: list[memoryview], seeds: list[Any]) -> None:
        # The memo cannot be set from outside (CPython drops what `Unpickler.memo = {...}` is
        # given), so a pickle before the first one puts the seeds there.
        put = [pickle.BININT + struct.pack("<i", i) for i in range(len(seeds))]
        code = [number + pickle.BINPERSID + pickle.MEMOIZE + pickle.POP for number in put]
        prologue = b"".join([pickle.PROTO + b"\x05", *code, pickle.NONE, pickle.STOP])
        super().__init__(_Chained(io.BytesIO(prologue), file), buffers=buffers)
        self._seeds = seeds
        self.load()

    def persistent_load(self, index: Any) -> Any:
        return self._seeds[index]


def _seed(shell: Any, module: str, name: str) -> Any:
    try:
        return session.find_seed(shell, module, name)
    except Exception as error:
        return rebuild.Lost(f"{module}.{name}", f"{type(error).__name__}: {error}")


def _tell_entry(report: dict[str, Any], entry: dict[str, Any]) -> None:
    kind, name = entry["kind"], entry["name"]
    if kind in ("module", "stream"):
        if entry["state"] != "exact":
            name = imported.shown(name) if kind == "module" else f"sys.{name}"
            why = f"{entry['why']}; it is as a new kernel has it" * (entry["state"] == "lost")
            why = why or entry["why"]
            report["also"][name] = {"state": entry["state"], "why": why}
    elif kind != "hook":
        name = f"Out[{name}]" if kind == "output" else name
        _tell(report, name, entry["state"], entry["type"], entry["why"], entry["bytes"])


def _load_group(
    shell: Any,
    path: Path,
    group: dict[str, Any],
    seeds: list[Any],
    changed: dict[int, str],
    python: str,
    report: dict[str, Any],
) -> int:
    """Load one stream; returns its size in bytes. After a failure the rest of it is lost."""
    with contextlib.ExitStack() as files:
        why = None
        size = 0
        unpickler: _Unpickler | None = None
        if group["code"] and python.split(".")[:2] != PYTHON.split(".")[:2]:
            why = f"it holds code compiled by Python {python}, this kernel is Python {PYTHON}"
        else:
            try:
                file = files.enter_context(open(path / group["file"], "rb"))
                if os.fstat(file.fileno()).st_size != group["size"]:
                    raise ValueError(f"{group['file']} does not have its {group['size']} bytes")
                buffers = [_buffer(path, *buffer) for buffer in group["buffers"]]
                size = group["size"] + sum(buffer.nbytes for buffer in buffers)
                unpickler = _Unpickler(file, buffers, seeds)
            except Exception as error:
                why = f"{type(error).__name__}: {error}"
        for entry in group["entries"]:
            told = {"state": "lost", "why": why}
            if unpickler is not None and why is None:
                try:
                    value = unpickler.load()
                except BaseException as error:
                    why = told["why"] = f"{type(error).__name__}: {error}"
                else:
                    told = _place(shell, entry, value, changed)
            _tell_entry(report, {**entry, **told})
        return size


def _place(
    shell: Any, entry: dict[str, Any], value: Any, changed: dict[int, str]
) -> dict[str, Any]:
    """Give ``value`` its name; returns what that changes in what is told of it."""
    try:
        if type(value) is rebuild.Lost:
            raise rebuild.LostError(repr(value))
        _bind(shell, entry["kind"], entry["name"], value)
        why = moves.left_behind(value)
        if id(value) in changed:
            why = f"what was changed in {changed[id(value)]} is not kept, it is imported anew"
    except BaseException as error:
        return {"state": "lost", "why": f"{type(error).__name__}: {error}"}
    return {} if why is None else {"state": "degraded", "why": why}


def _read(path: Path, size: int) -> bytearray | mmap.mmap:
    """The file as memory of its own. Raises `ValueError` when it has another size."""
    # Pages of their own instead of a bytearray, which would be filled with zeros first.
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    data = mmap.mmap(-1, size, flags=private) if size >= blocks.BLOCK else bytearray(size)
    view = memoryview(data)
    with open(path, "rb", buffering=0) as file:
        at = 0
        while at < size and (got := file.readinto(view[at:])):
            at += got
        if at != size or os.fstat(file.fileno()).st_size != size:
            raise ValueError(f"{path.name} does not have its {size} bytes")
    return data


def _buffer(path: Path, name: str, size: int, readonly: bool) -> memoryview:
    view = memoryview(_read(path / name, size))
    return view.toreadonly() if readonly else view


def _bind(shell: Any, kind: str, name: str, value: Any) -> None:
    hook = shell.displayhook
    if kind == "variable":
        shell.user_ns[name] = value
    elif kind == "output":
        shell.history_manager.output_hist[int(name)] = value
        shell.push({f"_{name}": value}, interactive=False)
    elif kind == "module":
        imported.bind(name, value)
    elif kind == "stream":
        setattr(sys, name, value)
    else:
        setattr(hook, name, value)
        shell.push({name: value}, interactive=False)
