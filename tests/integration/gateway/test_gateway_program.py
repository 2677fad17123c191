"""`sessionkeeper gateway` by itself, started as operators of the stock kernel gateway would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from system.running import free_port

PROGRAM = (sys.executable, "-m", "sessionkeeper", "gateway")


def command(state: Path) -> list[str]:
    (state / "agents").write_text("the-agents-token")
    return [
        *PROGRAM,
        *("--state", str(state / "gateway")),
        *("--agent-token-file", str(state / "agents")),
        *("--store", str(state / "store")),
        *("--master-key", str(state / "master.key")),
    ]


@contextmanager
def running(state: Path, *flags: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """The program, once it says that it serves."""
    readable, writable = os.pipe()
    with open(state / "log", "wb") as log:
        process = subprocess.Popen(
            [*command(state), "--ready-fd", str(writable), *flags],
            env={**os.environ, **environ},
            pass_fds=(writable,),
            stderr=log,
        )
    os.close(writable)
    try:
        with os.fdopen(readable) as ready:
            assert ready.readline(), (state / "log").read_text()
        yield process
    finally:
        process.terminate()
        process.wait()


def get(url: str, **headers: str) -> tuple[int, Any, dict[str, str]]:
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read()), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read()), dict(error.headers)


def test_it_serves_as_its_environment_flags_and_file_say(tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "jupyter_kernel_gateway_config.py"
    file.write_text("c.KernelGatewayApp.allow_origin = 'https://desk.example'\n")
    said = {"KG_PORT": str(port), "KG_AUTH_TOKEN": "operators", "KG_LIST_KERNELS": "False"}
    flags = ("--config", str(file), "--KernelGatewayApp.base_url=/kg")
    with running(tmp_path, *flags, **said):
        place, token = f"http://127.0.0.1:{port}/kg", {"Authorization": "token operators"}
        status, version, headers = get(f"{place}/api", **token)
        assert (status, list(version)) == (200, ["version"])
        assert headers["Access-Control-Allow-Origin"] == "https://desk.example"
        assert get(f"{place}/api")[0] == 401
        status, error, _ = get(f"{place}/api/kernels", **token)
        assert (status, error["reason"]) == (403, "Forbidden")
        assert "KG_LIST_KERNELS" in error["hint"]
        status, found, _ = get(f"{place}/readyz")
        assert (status, found["ready"]) == (200, True)
        assert found["notes"] == {"nodes": "no node is ready"}
    assert "operators" not in (tmp_path / "log").read_text()


def test_what_cannot_hold_ends_the_start_with_words(tmp_path: Path) -> None:
    (tmp_path / "none.crt").write_text("no certificate")
    for environ, words in (
        ({"KG_CERTFILE": str(tmp_path / "none.crt")}, "none.crt"),
        ({"KG_COOKIE_SECRET": "x"}, "KG_COOKIE_SECRET is no option"),
    ):
        said = {**os.environ, "KG_AUTH_TOKEN": "t", "KG_PORT": str(free_port()), **environ}
        done = subprocess.run(command(tmp_path), env=said, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
        assert "hint: docs/gateway.md" in done.stderr
