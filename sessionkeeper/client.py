"""Kernels of a gateway for programs that run notebooks: nbclient, papermill, your own.

`kernel_manager_class="sessionkeeper.client.GatewayKernels"`, with `JUPYTER_GATEWAY_URL` and
`JUPYTER_GATEWAY_AUTH_TOKEN` in the environment. jupyter_server has all of it but that its client
(`GatewayKernelClient`, 2.21) sends no token with the WebSocket, and takes a kernel that is not on
this machine for dead.
"""

# mypy: allow-untyped-calls, disable-error-code="misc"

from __future__ import annotations

from threading import Thread
from typing import Any

import websocket
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_server.gateway.gateway_client import GatewayClient
from jupyter_server.gateway.managers import GatewayKernelClient, GatewayKernelManager
from jupyter_server.utils import url_escape
from traitlets import DottedObjectName, Type

__all__ = ["GatewayKernelConnection", "GatewayKernels"]


class GatewayKernelConnection(GatewayKernelClient):
    """The channels of one kernel, over a WebSocket that is opened with the token."""

    async def start_channels(self, **wanted: bool) -> None:  # type: ignore[override]
        """Connect. Raises `websocket.WebSocketException`, `OSError`."""
        gateway = GatewayClient.instance()
        self.channel_socket = websocket.create_connection(
            f"{(gateway.ws_url or '').rstrip('/')}{gateway.kernels_endpoint}/"
            f"{url_escape(self.kernel_id)}/channels",
            header={gateway.auth_header_key: f"{gateway.auth_scheme} {gateway.auth_token}"},
            timeout=gateway.KERNEL_LAUNCH_TIMEOUT,
            enable_multithread=True,
            sslopt={
                "ca_certs": gateway.ca_certs,
                "certfile": gateway.client_cert,
                "keyfile": gateway.client_key,
            },
        )
        AsyncKernelClient.start_channels(self, **wanted)
        self.response_router = Thread(target=self._route_responses)
        self.response_router.start()

    async def _async_is_alive(self) -> bool:
        # The inherited one looks for a process on this machine.
        manager: Any = self.parent
        return bool(await manager.is_alive())


class GatewayKernels(GatewayKernelManager):
    """Starts one kernel at the gateway."""

    client_class = DottedObjectName("sessionkeeper.client.GatewayKernelConnection")
    client_factory = Type(klass=GatewayKernelConnection)
