"""Whose request it is: that of a session's user, who has its token, or the operator's."""

from __future__ import annotations

import hmac

from tornado.httputil import HTTPServerRequest

from gateway.auth import check_token, token_of
from gateway.errors import Forbidden, Unauthorized
from gateway.tenants import Tenant
from sessionkeeper.addresses import SESSION_HEADER
from sessionkeeper.keeper.kept import KeptSession
from sessionkeeper.keeper.sessions import Sessions


class Access:
    """``token`` is the operator's, ``session`` the one that the gateway was started with."""

    def __init__(self, sessions: Sessions, token: str, session: str) -> None:
        self._sessions = sessions
        self._token = token
        self._session = session

    def check_operator(self, request: HTTPServerRequest) -> None:
        """Raises ``Forbidden`` for a session's user, ``Unauthorized`` for strangers: what is said
        here concerns all sessions.
        """
        if self._sessions.is_token(token_of(request) or ""):
            raise Forbidden("This token is for one session.", hint="Use the operator's token.")
        check_token(request, self._token)

    async def session(self, request: HTTPServerRequest) -> KeptSession:
        """Return the session that a request is about. Raises ``Unauthorized``, and
        ``UnknownSession`` when an operator names one that there is not.
        """
        given = token_of(request)
        if given is None:
            raise Unauthorized("No token was sent.")
        if hmac.compare_digest(given.encode(), self._token.encode()):
            return await self._sessions.have(request.headers.get(SESSION_HEADER, self._session))
        kept = await self._sessions.of_token(given)
        if kept is None:
            raise Unauthorized("The token is wrong.")
        return kept

    async def tenant(self, request: HTTPServerRequest) -> Tenant:
        """The same, for the kernel gateway's API."""
        return (await self.session(request)).tenant
