"""What operators of the stock kernel gateway may set, and how this one takes it."""

from __future__ import annotations

import functools
import http.server
import json
import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from gateway_rig import TOKEN, Rig, header
from kernel_gateway.gatewayapp import KernelGatewayApp
from kernel_gateway.jupyter_websocket import JupyterWebsocketPersonality
from openapi_spec_validator import OpenAPIV2SpecValidator
from tornado import web
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.errors import OptionRefused
from gateway.handlers import ROUTES
from gateway.openapi import document
from gateway.options import _ENVIRONMENT, _READ, REFUSED, Options, read_options


@asynccontextmanager
async def gateway(options: Options) -> AsyncIterator[Rig]:
    with TemporaryDirectory(prefix="gw") as folder:
        rig = Rig(Path(folder), options)
        try:
            yield rig
        finally:
            await rig.close()


async def fetch(rig: Rig, path: str, method: str = "GET", **more: Any) -> HTTPResponse:
    headers = {"Authorization": f"token {TOKEN}", **more.pop("headers", {})}
    request = HTTPRequest(
        rig.url + path, method, headers, allow_nonstandard_methods=True, request_timeout=60, **more
    )
    return await AsyncHTTPClient().fetch(request, raise_error=False)


def said(response: HTTPResponse) -> str:
    return str(json.loads(response.body)["message"])


# -- reading them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stock", [KernelGatewayApp, JupyterWebsocketPersonality])
def test_every_option_of_the_stock_gateway_is_honoured_or_refused(stock: Any) -> None:
    traits = set(stock.class_traits(config=True))
    assert traits <= set(_READ) | set(REFUSED)
    variables = {v for k, v in vars(stock).items() if k.endswith("_env") and isinstance(v, str)}
    assert variables <= set(_ENVIRONMENT)


async def test_defaults_are_those_of_the_stock_gateway_but_for_what_is_documented() -> None:
    app = KernelGatewayApp()
    stock = JupyterWebsocketPersonality(parent=app)
    ours = Options()
    for name in ("allow_origin", "base_url", "max_kernels", "default_kernel_name", "certfile"):
        assert getattr(ours, name) == getattr(app, name), name
    assert stock.list_kernels is False
    assert ours.list_kernels is True
    KernelGatewayApp.clear_instance()


def test_flag_beats_environment_which_beats_file(tmp_path: Path) -> None:
    file = tmp_path / "jupyter_kernel_gateway_config.py"
    file.write_text(
        "c = get_config()\n"
        "c.KernelGatewayApp.max_kernels = 1\n"
        "c.KernelGatewayApp.allow_origin = 'https://a.example'\n"
        "c.KernelGatewayApp.default_kernel_name = 'bash'\n"
        "c.JupyterWebsocketPersonality.env_whitelist = ['LANG', 'TZ']\n"
    )
    environ = {"KG_MAX_KERNELS": "2", "KG_ALLOW_ORIGIN": "https://b.example", "OTHER": "x"}
    found = read_options(["--KernelGatewayApp.max_kernels=3"], file, environ)
    assert (found.max_kernels, found.allow_origin) == (3, "https://b.example")
    assert (found.default_kernel_name, found.env_whitelist) == ("bash", ("LANG", "TZ"))
    other = tmp_path / "config.json"
    other.write_text(json.dumps({"KernelGatewayApp": {"base_url": "x/y"}}))
    assert read_options([], other).base_url == "/x/y/"


@pytest.mark.parametrize(
    ("flags", "environ", "words"),
    [
        ([], {"KG_MAX_KERNELS": "many"}, "KG_MAX_KERNELS: 'many' is not a whole number"),
        ([], {"KG_AUTH_TOKEN": ""}, "never open to everyone"),
        ([], {"KG_PORT_RETRIES": "50"}, "nodes and UI servers know one port"),
        ([], {"KG_API": "kernel_gateway.notebook_http"}, "jupyter kernelgateway"),
        ([], {"KG_SSL_VERSION": "3"}, "TLS 1.2 and newer"),
        ([], {"KG_KEYFILE": "/k"}, "need a certfile"),
        ([], {"KG_ENV_PROCESS_WHITELIST": "LANG,AWS_SECRET_ACCESS_KEY"}, "may be a secret"),
        ([], {"KG_PRESPAWN_COUNT": "3", "KG_MAX_KERNELS": "2"}, "more than max_kernels"),
        ([], {"KG_TYPO": "1"}, "KG_TYPO is no option"),
        (["--KernelGatewayApp.typo=1"], {}, "--KernelGatewayApp.typo is no option"),
        (["--KernelGatewayApp.kernel_manager_class=x"], {}, "kernels run on nodes"),
        (["--KernelGatewayApp.cookie_secret=x"], {}, "no cookie gives access"),
    ],
)
def test_what_cannot_hold_is_refused_with_words(
    flags: list[str], environ: dict[str, str], words: str
) -> None:
    with pytest.raises(OptionRefused, match=words) as refused:
        read_options(flags, environ=environ)
    assert "docs/gateway.md" in refused.value.hint


# -- the document --------------------------------------------------------------------------------


def test_the_document_is_valid_openapi_and_has_every_path_that_is_served() -> None:
    found = document("/base/")
    OpenAPIV2SpecValidator(found).validate()
    as_route = {re.sub(r"\{\w+\}", "a.json", path) for path in found["paths"]}
    for path in as_route - {"/api/kernels/a.json/channels"}:
        assert any(re.fullmatch(pattern, path) for pattern, _ in ROUTES), path
    for pattern, handler in ROUTES:
        served = [path for path in as_route if re.fullmatch(pattern, path)]
        assert served, pattern
        for path, about in found["paths"].items():
            if re.sub(r"\{\w+\}", "a.json", path) in served and "channels" not in path:
                for verb in set(about) - {"parameters"}:
                    assert getattr(handler, verb) is not web.RequestHandler.__dict__[verb], path


async def test_the_document_is_at_both_paths_of_the_stock_gateway() -> None:
    async with gateway(Options()) as rig:
        as_json = await fetch(rig, "/api/swagger.json")
        as_yaml = await fetch(rig, "/api/swagger.yaml")
        assert json.loads(as_json.body)["swagger"] == "2.0"
        assert as_yaml.headers["Content-Type"] == "text/x-yaml"
        assert yaml.safe_load(as_yaml.body) == json.loads(as_json.body)


# -- what follows from them ------------------------------------------------------------------------


async def test_pages_of_another_origin_are_refused_with_words_unless_allowed() -> None:
    async with gateway(Options()) as rig:
        foreign, own = {"Origin": "https://evil.example"}, {"Origin": rig.url}
        refused = await fetch(rig, "/api/kernels", "POST", body="{}", headers=foreign)
        assert refused.code == 404
        assert "https://evil.example may not" in said(refused)
        assert (await fetch(rig, "/api/kernels", headers=own)).code == 200
        assert (await fetch(rig, "/api/kernels")).code == 200
        socket = f"ws://127.0.0.1:{rig.port}/api/kernels/x/channels?token={TOKEN}"
        with pytest.raises(InvalidStatus) as closed:
            await connect(socket, origin="https://evil.example")  # type: ignore[arg-type]
        assert closed.value.response.status_code == 403
        allowed = replace(rig.options, allow_origin="https://Evil.example")
        rig.app.settings["options"] = allowed
        answer = await fetch(rig, "/api/kernels", headers=foreign)
        assert answer.code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == "https://Evil.example"
        preflight = await fetch(rig, "/api/kernels", "OPTIONS", headers={"Authorization": ""})
        assert preflight.code == 200
        assert preflight.headers["Access-Control-Allow-Origin"] == "https://Evil.example"


async def test_errors_carry_the_headers_of_cors_so_that_pages_can_read_them() -> None:
    async with gateway(Options(allow_origin="*")) as rig:
        for token in (TOKEN, "wrong"):
            answer = await fetch(rig, "/api/none", headers={"Authorization": f"token {token}"})
            assert answer.code in (401, 404)
            assert answer.headers["Access-Control-Allow-Origin"] == "*"


async def test_no_cookie_gives_access_and_no_xsrf_token_is_needed() -> None:
    async with gateway(Options()) as rig:
        cookie = {"Authorization": "", "Cookie": f"_xsrf=2|x; token={TOKEN}", "X-XSRFToken": "2|x"}
        assert (await fetch(rig, "/api/kernels", "POST", body="{}", headers=cookie)).code == 401
        wrong = await fetch(rig, "/api/kernels", "POST", body='{"name": "cobol"}')
        assert wrong.code == 404  # as far as the kernelspec, without any cookie
        query = await fetch(rig, "/api?token=wrong")
        assert query.code == 401  # the query wins over the header, as in the stock gateway


async def test_all_is_below_the_base_url() -> None:
    async with gateway(Options(base_url="/some/path/")) as rig:
        await rig.agent.dial()
        assert rig.url.endswith("/some/path")
        specs = json.loads((await fetch(rig, "/api/kernelspecs")).body)["kernelspecs"]
        logo = specs["bash"]["resources"]["logo-64x64"]
        assert logo == "/some/path/kernelspecs/bash/logo-64x64.png"
        assert (await fetch(rig, logo.removeprefix("/some/path"))).body == b"a picture"
        made = await fetch(rig, "/api/kernels", "POST", body='{"name": "bash"}')
        assert made.headers["Location"].startswith("/some/path/api/kernels/")
        rig.options = replace(rig.options, base_url="/")
        assert (await fetch(rig, "/api")).code == 404


async def test_kernelspec_the_operator_forces_wins_and_one_that_is_missing_is_named() -> None:
    async with gateway(Options(force_kernel_name="bash")) as rig:
        await rig.agent.dial()
        made = await fetch(rig, "/api/kernels", "POST", body='{"name": "python3"}')
        assert json.loads(made.body)["name"] == "bash"
        rig.app.settings["options"] = Options(default_kernel_name="cobol")
        refused = await fetch(rig, "/api/kernels", "POST", body="{}")
        assert refused.code == 500
        assert "'cobol'. There is: bash" in said(refused)


async def test_a_seed_notebook_may_come_by_http(tmp_path: Path) -> None:
    spec = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    cells = [{"cell_type": "code", "source": ["answer = ", "42"]}]
    (tmp_path / "seed.ipynb").write_text(json.dumps({"metadata": spec, "cells": cells}))
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    serve = functools.partial(quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/seed.ipynb"
        async with gateway(Options(seed_uri=url)) as rig:
            await rig.agent.dial()
            made = json.loads((await fetch(rig, "/api/kernels", "POST", body="{}")).body)
            assert await evaluated(rig, made["id"], "answer + 1") == "43"
            rig.app.settings["options"] = Options(seed_uri=str(tmp_path / "none.ipynb"))
            refused = await fetch(rig, "/api/kernels", "POST", body="{}")
            assert "KG_SEED_URI cannot be read" in said(refused)
            assert len(json.loads((await fetch(rig, "/api/kernels")).body)) == 1
        server.shutdown()


async def evaluated(rig: Rig, kernel_id: str, code: str) -> str:
    url = f"{rig.url.replace('http', 'ws', 1)}/api/kernels/{kernel_id}/channels?token={TOKEN}"
    head = header("execute_request", "s")
    message = {"header": head, "parent_header": {}, "metadata": {}, "content": {"code": code}}
    async with connect(url) as socket:
        await socket.send(json.dumps({**message, "channel": "shell", "buffers": []}))
        async for frame in socket:
            answer = json.loads(frame)
            if answer["msg_type"] == "execute_result":
                return str(answer["content"]["data"]["text/plain"])
    raise AssertionError("the connection ended")
