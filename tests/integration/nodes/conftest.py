"""A whole `up` with stand-ins for its parts, in a process of its own."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sessionkeeper.nodes import cgroups, processes
from sessionkeeper.up.state import StateDirectory

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def free_port() -> int:
    """A port with free ones above it, most likely."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Up:
    """A running `up`. `lifetime` marks, by its digits, every process the agents start."""

    def __init__(
        self,
        state: Path,
        *flags: str,
        python: str = sys.executable,
        prefix: tuple[str, ...] = (),
        runtime: str = "container",
        environ: dict[str, str] | None = None,
    ) -> None:
        self.state = StateDirectory(state)
        self.lifetime = str(random.randrange(10**6, 10**7))
        self.port = free_port()
        self._flags = ["--state", str(state), "--port", str(self.port), *flags]
        self._command = [*prefix, python, str(HERE / "bring_up.py"), runtime, *self._flags]
        self._environ = {**os.environ, **(environ or {}), "STAND_IN_LIFETIME": self.lifetime}
        self.process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self) -> Up:
        """Start it and wait for its URL."""
        self.launch()
        self.url = self.process.stdout.readline().strip()
        if not self.url:
            pytest.fail(f"up ended: {self.process.communicate()[1]}")
        return self

    def launch(self) -> None:
        self.process = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environ,
            cwd=ROOT,
        )

    def fail(self) -> tuple[int, str]:
        """Start it and wait for its end: exit code and standard error."""
        self.launch()
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=60)
        return self.process.returncode

    def record(self) -> dict[str, Any]:
        found = self.state.read_record()
        assert found is not None
        return found

    def ask_gateway(self, hellos: int = 0) -> dict[str, Any]:
        """Its flags and who said hello to it, once there were so many hellos."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.record()['gateway']}/{hellos}", timeout=30) as answer:
            return json.loads(answer.read())

    def hellos(self) -> dict[str, dict[str, Any]]:
        """What each node's agent told the gateway of itself, the newest of each."""
        return {hello["node"]: hello for hello in self.ask_gateway()["hellos"]}

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        words = (*words, "--state", str(self.state.path))
        command = [sys.executable, "-m", "sessionkeeper", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)

    def on_nodes(self) -> list[int]:
        """Processes that agents started, wherever they went."""
        found = []
        for pid in processes.parents():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if self.lifetime.encode() in words:
                found.append(pid)
        return found

    def leftovers(self) -> dict[str, object]:
        """Everything of it that is on the machine; empty when nothing is."""
        found = {
            "processes": processes.parts(self.state.id) or self.on_nodes(),
            "mounts": [
                line
                for line in Path("/proc/self/mountinfo").read_text().splitlines()
                if str(self.state.path) in line
            ],
            "cgroups": [
                str(one)
                for root in cgroups.hierarchies()
                for one in root.glob(f"*{self.state.id}*")
            ],
            "nodes": sorted(os.listdir(self.state.nodes)),
            "record": self.state.read_record() or {},
        }
        if os.geteuid() == 0:
            for name, command in {
                "links": ["ip", "-o", "link"],
                "tables": ["nft", "list", "tables"],
                "netns": ["ip", "netns", "list"],
            }.items():
                lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                found[name] = [line for line in lines.splitlines() if self.state.id in line]
        return {name: what for name, what in found.items() if what}


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Makes `Up`s, and ends them."""
    made: list[Up] = []

    def make(*flags: str, state: Path | None = None, **options: Any) -> Up:
        made.append(Up(state or tmp_path / "state", *flags, **options))
        return made[-1]

    yield make
    for one in made:
        if one.process is not None and one.process.poll() is None:
            one.stop()
        processes.end_all(lambda one=one: processes.parts(one.state.id))
