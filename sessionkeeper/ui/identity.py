"""Who may use the UI server: whoever has the token.

As jupyter_server does it, except that a refused API request is told why.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

from jupyter_server.auth.identity import PasswordIdentityProvider, User
from jupyter_server.base.handlers import APIHandler, JupyterHandler
from tornado import web
from tornado.websocket import WebSocketHandler

__all__ = ["TokenIdentity"]

REFUSAL = (
    "This server needs its token, and got {got}. Open the URL that `sessionkeeper up` printed, "
    "or send the header `Authorization: token <token>`."
)


class TokenIdentity(PasswordIdentityProvider):
    """Token authentication. Pages lead to the login page; APIs answer 403 with words."""

    async def get_user(self, handler: web.RequestHandler) -> User | None:
        assert isinstance(handler, JupyterHandler)
        found = super().get_user(handler)
        user = found if found is None or isinstance(found, User) else await found
        if user is None and isinstance(handler, APIHandler | WebSocketHandler):
            method = getattr(handler, (handler.request.method or "GET").lower())
            if not getattr(method, "__allow_unauthenticated", False):
                got = "a wrong one" if self.get_token(handler) else "none"
                raise web.HTTPError(403, REFUSAL.format(got=got))
        return user
