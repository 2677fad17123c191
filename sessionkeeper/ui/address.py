"""Where the gateway is, for everything that talks to it in this process."""

# mypy: allow-untyped-calls

from __future__ import annotations

from jupyter_server.gateway.gateway_client import GatewayClient

__all__ = ["gateway_address"]


def gateway_address() -> tuple[str, str]:
    """The gateway's URL, without a slash at the end, and its token."""
    gateway = GatewayClient.instance()
    return (gateway.url or "").rstrip("/"), gateway.auth_token or ""
