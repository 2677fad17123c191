"""Who a request is for: the kernels that its token opens, and nothing else of this gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tornado.httputil import HTTPServerRequest

from gateway.auth import check_token
from gateway.kernels import Compute, Kernels


@dataclass(frozen=True)
class Tenant:
    """One user's part of the gateway: `kernels`, and what runs them; `name` is not another's."""

    name: str
    kernels: Kernels
    compute: Compute


Tenants = Callable[[HTTPServerRequest], Awaitable[Tenant]]
"""The tenant whose token a request carries. Raises `Forbidden`, and other `GatewayError`s."""


def only(tenant: Tenant, token: str) -> Tenants:
    """All requests with this token are for this tenant, and there are no others."""

    async def find(request: HTTPServerRequest) -> Tenant:
        check_token(request, token)
        return tenant

    return find
