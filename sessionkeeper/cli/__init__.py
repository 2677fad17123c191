"""The command line: `sessionkeeper COMMAND ...`.

Each command is a function `(arguments) -> exit code` in one of this package's modules, imported
when it is called. Errors are printed as `error: ...` and `hint: ...`; exit codes are listed in
`sessionkeeper.errors`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["main"]

_SELF_READING = {"bench": "sessionkeeper.bench"}  # it reads its own flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _failed(error)


def _dispatch(words: list[str]) -> int:
    from importlib import import_module

    if words and words[0] in _SELF_READING:
        return int(import_module(_SELF_READING[words[0]]).main(words[1:]) or 0)
    from sessionkeeper.cli.parser import parse

    found = parse(words)
    module, _, function = found.run.partition(":")
    return int(getattr(import_module(module), function)(found))


def _failed(error: Exception) -> int:
    from sessionkeeper.errors import EXIT_BUG, exit_code, explain

    code = exit_code(error)
    if code == EXIT_BUG:
        import traceback

        traceback.print_exc()
        print("This is a bug of sessionkeeper: please report the lines above.", file=sys.stderr)
    print(explain(error), file=sys.stderr)
    return code
