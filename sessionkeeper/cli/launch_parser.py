"""What can be typed after `sessionkeeper launch`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

_EPILOG = """\
repo2docker builds what the repository asks for (binder/Dockerfile, requirements.txt, postBuild,
environment.yml, start, runtime.txt, ...); the image is kept, and the same commit is not built
again. The session runs in it, and JupyterLab beside it.

examples:
  sessionkeeper launch .
  sessionkeeper launch https://github.com/binder-examples/requirements --ref master
  sessionkeeper launch . --build-only

exit codes:
  2 that cannot be asked   9 nothing runs here   10 nothing here can build
  13 the image cannot be used   14 no such repository, branch, tag or commit
  15 the build failed; its log says why   16 no session came up   69 the gateway does not answer
"""


def add_launch(
    commands: Any,
    add: Callable[..., argparse.ArgumentParser],
    add_state: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Add `launch` to the commands; `add` and `add_state` are the parser's."""
    text = "build a repository's environment, and begin a session in it"
    parser = add(commands, "launch", text, "launch:launch", _EPILOG)
    parser.add_argument("source", metavar="URL|PATH", help="git repository, or a directory")
    help_ = "branch, tag or commit (of a directory: what is in it now; of a URL: HEAD)"
    parser.add_argument("--ref", metavar="REF", help=help_)
    parser.add_argument("--name", metavar="NAME", help="of the session (one is made up)")
    parser.add_argument("--build-only", action="store_true", help="begin no session")
    parser.add_argument("--rebuild", action="store_true", help="build it even if it is known")
    parser.add_argument("--quiet", action="store_true", help="do not show the build's log")
    parser.add_argument("--json", action="store_true", help="each event as a line of JSON")
    add_state(parser)
