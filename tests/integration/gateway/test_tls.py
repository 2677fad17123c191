"""TLS of the gateway, with certificates of an authority that the test makes."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from certificates import Authority
from gateway_rig import TOKEN, Rig
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from gateway.errors import OptionRefused
from gateway.options import Options


async def fetch(rig: Rig, path: str, **how: Any) -> HTTPResponse:
    headers = {"Authorization": f"token {TOKEN}"}
    request = HTTPRequest(rig.url + path, headers=headers, **how)
    return await AsyncHTTPClient().fetch(request, raise_error=False)


async def test_clients_and_agents_come_by_tls_and_clients_show_a_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, foreign = Authority(tmp_path, "ours"), Authority(tmp_path, "foreign")
    certificate, key = ours.issue("gateway")
    mine, my_key = ours.issue("client")
    monkeypatch.setenv("SSL_CERT_FILE", ours.file)  # what agents and UI servers go by
    with TemporaryDirectory(prefix="gw") as folder:
        options = Options(certfile=certificate, keyfile=key, client_ca=ours.file)
        rig = Rig(Path(folder), options)
        try:
            await rig.agent.dial()
            kernel_id = await rig.start_kernel("bash")
            trust = {"ca_certs": ours.file}
            without = await fetch(rig, "/api/kernels", **trust)
            assert without.code == 401
            assert "wants a certificate" in json.loads(without.body)["message"]
            assert (await fetch(rig, "/healthz", **trust)).code == 200
            shown = {**trust, "client_cert": mine, "client_key": my_key}
            (kernel,) = json.loads((await fetch(rig, "/api/kernels", **shown)).body)
            assert kernel["id"] == kernel_id
            socket = f"{rig.url.replace('http', 'ws', 1)}/api/kernels/{kernel_id}/channels"
            headers = {"Authorization": f"token {TOKEN}"}
            with pytest.raises(InvalidStatus) as refused:
                await connect(socket, additional_headers=headers)
            assert refused.value.response.status_code == 401
            context = ssl.create_default_context(cafile=ours.file)
            context.load_cert_chain(mine, my_key)
            async with connect(socket, additional_headers=headers, ssl=context) as open_socket:
                assert open_socket.protocol.state.name == "OPEN"
            theirs, their_key = foreign.issue("stranger")
            strange = {**trust, "client_cert": theirs, "client_key": their_key}
            with pytest.raises((ssl.SSLError, OSError)):
                await fetch(rig, "/api/kernels", **strange)
            old = ssl.create_default_context(cafile=ours.file)
            old.maximum_version = ssl.TLSVersion.TLSv1_1
            with pytest.raises((ssl.SSLError, OSError)):
                await fetch(rig, "/healthz", ssl_options=old)
        finally:
            await rig.close()


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "no.crt").write_text("nothing")
    with TemporaryDirectory(prefix="gw") as folder, pytest.raises(OptionRefused, match=r"no\.crt"):
        Rig(Path(folder), Options(certfile=str(tmp_path / "no.crt")))
