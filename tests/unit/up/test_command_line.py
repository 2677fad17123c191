"""What is typed, and what comes back: text and exit code."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sessionkeeper.cli import main
from sessionkeeper.up.state import StateDirectory

NODES = [
    {
        "name": name,
        "state": state,
        "tier": "spot",
        "runtime": "container",
        "cpu_level": "x86-64-v3",
        "sessions": [],
        "last_seen": 0.0,
    }
    for name, state in (("node-1", "ready"), ("node-2", "gone"))
]


class Gateway(BaseHTTPRequestHandler):
    """As much of the gateway's API as the command line calls."""

    def do_GET(self) -> None:
        if self.headers["Authorization"] != f"token {self.server.token}":
            return self.answer(403, {"error": {"code": "forbidden", "message": "wrong token"}})
        found = {"nodes": NODES} if self.path.endswith("/nodes") else {"state": "running"}
        return self.answer(200, found)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.calls.append((self.path, body))
        self.answer(200, {"moved": ["default"], "seconds": 0.4})

    def answer(self, status: int, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[StateDirectory, Any]]:
    """A state directory that is held, and its gateway."""
    state = StateDirectory(tmp_path / "state")
    state.prepare()
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    server.token, server.calls = state.token("gateway"), []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with state.locked():
        state.write_record(
            {
                "pid": 1,
                "url": "http://127.0.0.1:1/lab?token=t",
                "gateway": f"http://127.0.0.1:{server.server_port}",
                "nodes": {"node-1": {}},
            }
        )
        yield state, server
    server.shutdown()


def test_unknown_node_names_those_there_are(running: Any, capsys: Any) -> None:
    state, _ = running
    for command in (["kill"], ["drain"]):
        assert main(["node", *command, "node-9", "--state", str(state.path)]) == 7
        said = capsys.readouterr().err
        assert "'node-9'" in said
        assert "node-1" in said


def test_drain_gives_the_deadline_in_seconds(running: Any, capsys: Any) -> None:
    state, server = running
    given = ["node", "drain", "node-1", "--deadline", "500ms", "--state", str(state.path)]
    assert main(given) == 0
    assert server.calls == [("/api/sessionkeeper/nodes/node-1/drain", {"deadline": 0.5})]
    assert "moved default in 0.4 s" in capsys.readouterr().out


def test_deadline_that_is_none_is_a_usage_error(running: Any, capsys: Any) -> None:
    state, server = running
    given = ["node", "drain", "node-1", "--deadline", "soon", "--state", str(state.path)]
    assert main(given) == 2
    assert "'soon'" in capsys.readouterr().err
    assert server.calls == []


def test_node_list_and_status(running: Any, capsys: Any) -> None:
    state, _ = running
    assert main(["node", "list", "--state", str(state.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["node-1", "ready"], ["node-2", "gone"]]
    assert main(["status", "--json", "--state", str(state.path)]) == 0
    assert json.loads(capsys.readouterr().out) == {"state": "running"}
    assert main(["url", "--state", str(state.path)]) == 0
    assert capsys.readouterr().out == "http://127.0.0.1:1/lab?token=t\n"


def test_what_the_gateway_refuses_is_told_in_its_words(running: Any, capsys: Any) -> None:
    state, server = running
    server.token = "another"
    assert main(["status", "--state", str(state.path)]) == 1
    assert "wrong token" in capsys.readouterr().err


def test_gateway_that_is_away_is_worth_another_try(running: Any, capsys: Any) -> None:
    state, server = running
    server.shutdown()
    server.server_close()
    assert main(["node", "list", "--state", str(state.path)]) == 69
    assert "try again" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["down"],
        ["url"],
        ["node", "list"],
        ["node", "kill", "node-1"],
        ["node", "start"],
        ["node", "drain", "node-1"],
    ],
)
def test_without_a_running_up_every_command_says_how_to_start_one(
    words: list[str], tmp_path: Path, capsys: Any
) -> None:
    assert main([*words, "--state", str(tmp_path / "none")]) == 9
    assert "sessionkeeper up" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["up", "--nonsense"], ["nonsense"], ["node", "explode"], ["up", "--nod", "2"], []]
)
def test_what_cannot_be_understood_exits_with_2(words: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == (2 if words else 0)
    assert "usage:" in "".join(capsys.readouterr())


def test_help_needs_none_of_the_heavy_modules() -> None:
    script = (
        "import sys\nfrom sessionkeeper.cli import main\n"
        "try: main(['up', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'asyncio', 'tornado', 'rich', 'numpy', 'cryptography', 'jupyter_client'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr == "[]\n"
    assert "examples:" in done.stdout
