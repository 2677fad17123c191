"""Tokens at the HTTP boundary: where clients may put them, and that they are never logged."""

from __future__ import annotations

import hmac
import json
import logging
import re
import traceback
from http.client import responses
from typing import Any
from urllib.parse import unquote

from tornado import httputil, web

from gateway.errors import GatewayError, Unauthorized, http_status

TOKEN_SUBPROTOCOL = "v1.token.websocket.jupyter.org"  # noqa: S105
_TOKEN_IN_URL = re.compile(r"((?:^|[?&])(?:token|auth_token)=)[^&#\s]*", re.IGNORECASE)
access_log = logging.getLogger("gateway.access")


def redact(url: str) -> str:
    """A URL fit for a log."""
    return _TOKEN_IN_URL.sub(r"\1[secret]", url)


def token_of(request: httputil.HTTPServerRequest) -> str | None:
    """The token of a request: query, header or WebSocket subprotocol.

    The query wins over the header, as in the stock kernel gateway and Jupyter Server. The
    subprotocol is that of https://github.com/jupyter/enhancement-proposals/pull/121.
    """
    for argument in request.query_arguments.get("token", []):
        return argument.decode(errors="replace")
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() in ("token", "bearer") and value.strip():
        return value.strip()
    for offered in subprotocols(request):
        if offered.startswith(TOKEN_SUBPROTOCOL + "."):
            return unquote(offered.removeprefix(TOKEN_SUBPROTOCOL + "."))
    return None


def subprotocols(request: httputil.HTTPServerRequest) -> list[str]:
    """What a WebSocket client offers."""
    offered = request.headers.get("Sec-WebSocket-Protocol", "")
    return [name.strip() for name in offered.split(",") if name.strip()]


def check_token(request: httputil.HTTPServerRequest, token: str) -> None:
    """Raises `Unauthorized` unless the request carries the token."""
    given = token_of(request)
    if given is None:
        raise Unauthorized("No token was sent.")
    if not hmac.compare_digest(given.encode(), token.encode()):
        raise Unauthorized("The token is wrong.")


def log_request(handler: web.RequestHandler) -> None:
    """Access log without tokens (the `log_function` of the application)."""
    request, status = handler.request, handler.get_status()
    level = logging.INFO if status < 500 else logging.WARNING
    milliseconds = 1000 * request.request_time()
    access_log.log(
        level, "%d %s %s %.1f ms", status, request.method, redact(request.uri or ""), milliseconds
    )


class ErrorsInWords:
    """Mixed into request handlers: any error becomes `{"message", "code", "hint", "retryable"}`,
    with `reason` (the status in words) and, from 500 on, `traceback`, as in the stock gateway.
    """

    def write_error(self: Any, status_code: int, **kwargs: Any) -> None:
        error: Any = (kwargs.get("exc_info") or (None, None, None))[1]
        if hasattr(error, "code") and hasattr(error, "hint"):
            self.set_status(http_status(error))
            body = {
                "message": str(error),
                "code": error.code,
                "hint": error.hint,
                "retryable": bool(getattr(error, "retryable", False)),
            }
        else:
            message = getattr(error, "log_message", None) or self._reason
            body = {"message": message, "code": "http_error", "hint": "", "retryable": False}
        status = self.get_status()
        # Jupyter Server repeats it in a status line, which takes no other words.
        body["reason"] = responses.get(status, "Unknown HTTP Error")
        if status == 500 and error is not None:
            body["traceback"] = redact("".join(traceback.format_exception(error)))
        if status == 401:
            self.set_header("WWW-Authenticate", "Bearer")
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(body))

    def log_exception(self: Any, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, GatewayError) or hasattr(error, "hint"):
            access_log.info("%s: %s", self._request_summary(), error)
        elif isinstance(error, web.HTTPError) and error.status_code < 500:
            access_log.info("%s: %s", self._request_summary(), error.log_message or error)
        else:
            access_log.error("%s failed", self._request_summary(), exc_info=(kind, error, trace))

    def _request_summary(self: Any) -> str:
        return f"{self.request.method} {redact(self.request.uri or '')} ({self.request.remote_ip})"
