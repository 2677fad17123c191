"""A real IPython kernel, driven as the agent drives it: silent code between two cells."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager

from checkpoint.namespace import engine


class Kernel:
    """One ipykernel process and its client."""

    def __init__(self, cwd: Path) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(cwd), stdout=subprocess.DEVNULL)
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, code: str, silent: bool = False) -> list[dict[str, Any]]:
        """Execute a cell; its output messages. Raises `RuntimeError` when it fails."""
        messages: list[dict[str, Any]] = []
        reply = self.client.execute_interactive(
            code, silent=silent, timeout=60, output_hook=messages.append, allow_stdin=False
        )
        if reply["content"]["status"] != "ok":
            raise RuntimeError("\n".join(reply["content"].get("traceback", [])))
        return [m for m in messages if m["msg_type"] not in ("status", "execute_input")]

    def value(self, expression: str) -> str:
        """``repr`` of ``expression``, evaluated without leaving a trace in the kernel."""
        reply = self.client.execute_interactive(
            "", silent=True, user_expressions={"v": expression}, timeout=60
        )
        result = reply["content"]["user_expressions"]["v"]
        if result["status"] != "ok":
            raise RuntimeError(f"{result['ename']}: {result['evalue']}")
        text: str = result["data"]["text/plain"]
        return text

    def dump(self, directory: Path, **options: Any) -> engine.Report:
        assert self.run(engine.dump_code(directory, **options), silent=True) == []
        return engine.read_report(directory / engine.DUMP_REPORT)

    def load(self, directory: Path) -> engine.Report:
        report = directory.with_name(directory.name + "-loaded.json")
        assert self.run(engine.load_code(directory, report), silent=True) == []
        return engine.read_report(report)

    def kill(self) -> None:
        os.kill(self.manager.provisioner.pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


StartKernel = Callable[[], Kernel]


@pytest.fixture
def start_kernel(tmp_path: Path) -> Iterator[StartKernel]:
    """Starts kernels in one workspace, as many as are asked for."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    kernels: list[Kernel] = []

    def start() -> Kernel:
        kernels.append(Kernel(workspace))
        return kernels[-1]

    yield start
    for kernel in kernels:
        kernel.close()


class Moved:
    """Runs cells in one kernel, kills it, and goes on in another, as often as wanted."""

    def __init__(self, start: StartKernel, directory: Path) -> None:
        self._start = start
        self.directory = directory
        self.kernel = start()
        self.dumped: engine.Report | None = None

    def move(self) -> engine.Report:
        self.dumped = self.kernel.dump(self.directory)
        self.kernel.kill()
        self.kernel = self._start()
        return self.kernel.load(self.directory)


@pytest.fixture
def moved(start_kernel: StartKernel, tmp_path: Path) -> Moved:
    return Moved(start_kernel, tmp_path / "dump")
