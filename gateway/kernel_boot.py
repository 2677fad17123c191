"""Runs `python -m <kernel module>` so that no output is dropped, with imports done before if asked.

The shim copies this file beside the kernel's sockets and runs it with the kernel's own Python
(>= 3.8):

    python boot.py PREFIX -m ipykernel_launcher -f connection.json
    python boot.py PREFIX --warm ipykernel.kernelapp,...

The second form imports, then waits for one line of JSON on stdin, `{"argv", "env", "cwd"}`, and
becomes that kernel. Either way the kernel sees what it would see under `python -m`: sys.argv,
sys.path, __main__, environment, signals.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from typing import Any, Sequence  # noqa: UP035


def never_drop(prefix: str) -> None:
    """Make iopub wait for the shim instead of dropping what exceeds its high-water mark.

    Takes itself back with the first PUB socket bound below `prefix`, the kernel's own. libzmq:
    ZMQ_XPUB_NODROP.
    """
    try:
        import zmq
    except ImportError:
        return
    sockets: Any = zmq.Socket
    original = sockets.bind

    def bind(self: Any, address: Any, *args: Any, **kwargs: Any) -> Any:
        if self.type in (zmq.PUB, zmq.XPUB) and str(address).startswith(prefix):
            self.setsockopt(zmq.XPUB_NODROP, 1)
            sockets.bind = original
        return original(self, address, *args, **kwargs)

    sockets.bind = bind


def wait_for_order(modules: Sequence[str]) -> list[str]:
    """Import `modules`, wait for the order; its argv. Ends the process when the shim goes away."""
    for module in modules:
        try:
            __import__(module)
        except Exception:  # noqa: S112 - the kernel will say it better
            continue
    line = sys.stdin.readline()
    if not line:
        os._exit(0)
    order = json.loads(line)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    argv: list[str] = order["argv"]
    return argv


def main() -> None:
    prefix, argv = sys.argv[1], sys.argv[2:]
    never_drop(prefix)
    if argv[0] == "--warm":
        argv = wait_for_order(argv[1].split(","))
    if argv[1] == "ipykernel_launcher":
        # It waits in case its output gets lost before the reply; here it does not get lost.
        argv.append("--Kernel._execute_sleep=0")
    sys.path[0] = os.getcwd()
    sys.argv = argv[1:]  # run_module puts the path at [0]
    runpy.run_module(argv[1], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
