"""Dump and load of a Python kernel's namespace, seen from outside the kernel.

Run :func:`dump_code` or :func:`load_code` in the kernel as a *silent* execution between two cells,
then read what became of each variable with :func:`read_report`. A dumped directory is an ordinary
tree of files: store it as such. It belongs to the dump from the moment the code runs until it has
ended, and must not be read meanwhile; give the same directory each time, so that only what changed
is written.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cloudpickle

from checkpoint.errors import CheckpointError

State = Literal["exact", "degraded", "lost"]
DUMP_REPORT = "report.json"
INDEX = "index.json"
LIMIT = 16 << 30  # bytes one dump may hold
PATIENCE = 10.0  # seconds

INSIDE = Path(__file__).with_name("inside")
"""What runs in the kernel: a directory of modules. A kernel that cannot see it gets a copy."""

LENT = "lent"
"""In `INSIDE`: what user code may import, if it is on the kernel's path."""

_NAME = "_sessionkeeper_namespace"
# One expression: a statement would leave a name in the user's namespace, and names that the user
# may have given another meaning (`open`, `exec`, `__import__`) are not used.
_CODE = """(lambda load: (lambda sys, util, name, start: (
    name in sys.modules or (lambda module: (
        sys.modules.__setitem__(name, module), module.__spec__.loader.exec_module(module)))(
            util.module_from_spec(util.spec_from_file_location(
                name, start + "/__init__.py", submodule_search_locations=[start]))),
    sys.modules[name].{call}) and None)(
        load("sys"), load("importlib.util").util, {name!r}, {start!r})
    )((lambda: 0).__builtins__["__import__"])"""


class NamespaceError(CheckpointError):
    """A dump or a load in the kernel did not come to its end; the kernel itself goes on."""

    code = "namespace_error"
    retryable = True
    hint = "The kernel's state is unchanged by a failed dump; the last checkpoint is still there."


class NoReport(NamespaceError):
    """The kernel left no report: it died, or the code never ran."""

    code = "namespace_no_report"


@dataclass(frozen=True)
class Variable:
    """What became of one variable, or of one output (`Out[3]`).

    ``type`` is the qualified name of its class; ``why`` says what is different or why it is lost;
    ``bytes`` is its size in the dump.
    """

    state: State
    type: str
    why: str | None
    bytes: int


@dataclass(frozen=True)
class Report:
    """What a dump saved, or a load brought back.

    ``seconds`` is the time the kernel stood still, ``bytes`` the size of the whole. ``also`` has
    the same for what is not a variable: working directory, environment, random state, settings of
    libraries.
    """

    variables: Mapping[str, Variable]
    seconds: float
    bytes: int
    also: Mapping[str, Mapping[str, Any]]

    def named(self, state: State) -> list[str]:
        """Names of the variables in ``state``, in order."""
        return [name for name, variable in self.variables.items() if variable.state == state]


def dump_code(
    directory: Path, *, limit: int = LIMIT, patience: float = PATIENCE, inside: Path = INSIDE
) -> str:
    """Code that writes the namespace to ``directory``, at most ``limit`` bytes, and ``report.json``
    in it.

    A variable beyond the limit is reported lost, and so is one whose saving makes no progress for
    ``patience`` seconds. Run it silently, between two cells. A report of an
    earlier dump is removed here and now, so that it is not taken for the one of this dump. Paths
    are the kernel's; ``inside`` is where it finds a copy of `INSIDE`.
    """
    with contextlib.suppress(OSError):
        (directory / DUMP_REPORT).unlink()
    return _code("dump", inside, str(directory), limit, patience)


def load_code(
    directory: Path,
    report: Path,
    *,
    moved: tuple[Path, Path] | None = None,
    inside: Path = INSIDE,
) -> str:
    """Code that brings the namespace at ``directory`` into a fresh kernel; its report goes to
    ``report``.

    ``report`` is a file outside of ``directory``. ``moved`` is where the workspace was and where
    it is: working directory, open files, ``sys.path`` and the environment follow it; values of the
    user's never do, and those that name a file of the old place are reported degraded.
    """
    with contextlib.suppress(OSError):
        report.unlink()
    places = (str(moved[0]), str(moved[1])) if moved is not None and moved[0] != moved[1] else None
    return _code("load", inside, str(directory), str(report), places)


def _code(
    function: str, inside: Path, directory: str, *more: float | str | tuple[str, str] | None
) -> str:
    borrowed = str(Path(cloudpickle.__file__).parents[1])
    call = f"{function}{(directory, borrowed, *more)!r}"
    return _CODE.format(call=call, name=_NAME, start=str(inside))


def read_report(path: Path) -> Report:
    """The report at ``path`` (for a dump: ``directory / DUMP_REPORT``).

    Raises `NoReport` when there is none, `NamespaceError` when the dump or load failed as a whole.
    """
    try:
        return parse_report(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise NoReport(f"The kernel left no readable report at {path}: {error}.") from error


def parse_report(text: str | bytes) -> Report:
    """The report that this is the content of. Raises as `read_report`."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise NoReport(f"The kernel left no readable report: {error}.") from error
    if not isinstance(content, dict):
        raise NoReport("What the kernel left as its report is none.")
    if "error" in content:
        raise NamespaceError(f"The namespace could not be carried over: {content['error']}.")
    try:
        return Report(
            variables={name: Variable(**value) for name, value in content["variables"].items()},
            seconds=float(content["seconds"]),
            bytes=int(content["bytes"]),
            also=content["also"],
        )
    except (LookupError, TypeError, ValueError, AttributeError):
        raise NoReport("What the kernel left as its report is none.") from None
