"""Who may use the API, in one place: origin, token, and the headers of CORS.

Cookies give no access, so there is nothing that a foreign page could make a browser send along:
requests need no XSRF token, as those with a token do in Jupyter Server, and `_xsrf` cookies and
`X-XSRFToken` headers of clients that send them are not looked at. Pages of other origins are
refused all the same unless the operator allows them, token or not, as in the stock gateway.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from tornado import httputil

from gateway.auth import ErrorsInWords
from gateway.errors import CrossOrigin
from gateway.kernels import Compute, Kernels
from gateway.options import Options
from gateway.tenants import Tenant

_CORS = {
    "allow_credentials": "Access-Control-Allow-Credentials",
    "allow_headers": "Access-Control-Allow-Headers",
    "allow_methods": "Access-Control-Allow-Methods",
    "allow_origin": "Access-Control-Allow-Origin",
    "expose_headers": "Access-Control-Expose-Headers",
    "max_age": "Access-Control-Max-Age",
}


def check_origin(request: httputil.HTTPServerRequest, allowed: str) -> None:
    """Raises `CrossOrigin` for a page of another host than ours, and than `allowed` (an origin, or
    "*"). Who sends no `Origin` is no page.
    """
    origin, host = request.headers.get("Origin"), request.headers.get("Host")
    if origin is None or host is None or allowed == "*":
        return
    if urlsplit(origin.lower()).netloc == host.lower() or origin.lower() == allowed.lower():
        return
    raise CrossOrigin(origin)


class Access(ErrorsInWords):
    """Mixed into the handlers of the API: nothing is done for who may not ask."""

    settings: dict[str, Any]
    request: httputil.HTTPServerRequest
    tenant: Tenant
    """Whose token the request has."""

    @property
    def chosen(self) -> Options:
        """The operator's options."""
        options: Options = self.settings["options"]
        return options

    @property
    def kernels(self) -> Kernels:
        """The kernels that this request may see."""
        return self.tenant.kernels

    @property
    def compute(self) -> Compute:
        """What runs those."""
        return self.tenant.compute

    def set_default_headers(self: Any) -> None:
        for option, header in _CORS.items():
            value = getattr(self.chosen, option)
            if value:
                self.set_header(header, value)

    async def prepare(self) -> None:
        check_origin(self.request, self.chosen.allow_origin)
        if self.request.method != "OPTIONS":  # a preflight: browsers send no token with it
            self.tenant = await self.settings["tenants"](self.request)

    def options(self: Any, *args: str) -> None:
        self.finish()
