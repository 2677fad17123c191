"""`sessionkeeper gateway` by itself, started as operators of the stock kernel gateway would."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from certificates import Authority
from gateway_rig import header
from system.running import free_port
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from websockets.asyncio.client import connect

PROGRAM = (sys.executable, "-m", "sessionkeeper", "gateway")
AGENT = (sys.executable, "-m", "sessionkeeper", "agent", "--node", "far", "--runtime", "process")


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


@contextmanager
def agent(state: Path, url: str, **environ: str) -> Iterator[None]:
    """A node, once the gateway has accepted it."""
    readable, writable = os.pipe()
    (state / "agents").write_text("the-agents-token")
    place = ("--data", str(state / "node"), "--token-file", str(state / "agents"))
    with open(state / "agent.log", "wb") as log:
        process = subprocess.Popen(
            [*AGENT, *place, "--gateway-url", url, "--ready-fd", str(writable)],
            env={**os.environ, **environ},
            pass_fds=(writable,),
            stderr=log,
        )
    os.close(writable)
    try:
        with os.fdopen(readable) as ready:
            assert ready.readline(), (state / "agent.log").read_text()
        yield
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


async def test_an_agent_without_a_certificate_runs_and_saves_kernels_over_tls(
    tmp_path: Path,
) -> None:
    ours, port = Authority(tmp_path, "ours"), free_port()
    (certificate, key), (mine, my_key) = ours.issue("gateway"), ours.issue("client")
    said = {
        "KG_CERTFILE": certificate,
        "KG_KEYFILE": key,
        "KG_CLIENT_CA": ours.file,
        "KG_PORT": str(port),
        "KG_AUTH_TOKEN": "operators",
    }
    place, trust = f"https://127.0.0.1:{port}", {"SSL_CERT_FILE": ours.file}
    token = {"Authorization": "token operators"}
    with running(tmp_path, **said), agent(tmp_path, place, **trust):
        request = HTTPRequest(f"{place}/api/kernels", "POST", token, body="{}")
        request.ca_certs, request.client_cert, request.client_key = ours.file, mine, my_key
        kernel = json.loads((await AsyncHTTPClient().fetch(request)).body)["id"]
        context = ssl.create_default_context(cafile=ours.file)
        context.load_cert_chain(mine, my_key)
        how: dict[str, Any] = {"additional_headers": token, "ssl": context, "proxy": None}
        api = place.replace("https", "wss") + "/api"
        message = {"header": header("execute_request", "s"), "content": {"code": "x = 1"}}
        message |= {"parent_header": {}, "metadata": {}, "channel": "shell", "buffers": []}
        async with (
            asyncio.timeout(60),
            connect(f"{api}/kernels/{kernel}/channels", **how) as channels,
            connect(f"{api}/sessionkeeper/events", **how) as events,
        ):
            await channels.send(json.dumps(message))
            async for status in events:  # the packs of a checkpoint go up over the same port
                if json.loads(status)["checkpoint"] is not None:
                    break
