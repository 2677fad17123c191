"""Kernels and notebook sessions as the gateway knows them.

The stock gateway classes remember in memory which kernels they started and know no others, and
they end all of them when the server stops. Here the gateway is asked each time, so that a new UI
server sees what the old one did; while the gateway is away, its last answer is given.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import json
from typing import Any

from jupyter_server.gateway.gateway_client import gateway_request
from jupyter_server.gateway.managers import (
    GatewayKernelManager,
    GatewayKernelSpecManager,
    GatewayMappingKernelManager,
    GatewaySessionManager,
)
from jupyter_server.utils import url_escape, url_path_join
from tornado import web
from tornado.httpclient import HTTPClientError
from traitlets import default

__all__ = ["NotebookSessions", "SessionKernel", "SessionKernelSpecs", "SessionKernels"]

Model = dict[str, Any]

_AWAY = (502, 503, 504, 599)


async def _ask(method: str, url: str, body: Model | None = None) -> Any:
    """The gateway's JSON answer, or None. Raises `web.HTTPError`; 503 when it is away."""
    request: dict[str, Any] = {"method": method}
    if body is not None:
        request["headers"] = {"Content-Type": "application/json"}
        request["body"] = json.dumps(body)
    try:
        response = await gateway_request(url, **request)
    except web.HTTPError as error:
        if error.status_code in _AWAY:
            raise web.HTTPError(503, f"The gateway does not answer: {error.log_message}") from error
        raise
    except (OSError, HTTPClientError) as error:
        raise web.HTTPError(503, f"The gateway does not answer: {error}") from error
    return json.loads(response.body) if response.body else None


class SessionKernel(GatewayKernelManager):
    """One kernel at the gateway, whoever started it."""

    def adopt(self, kernel_id: str, model: Model | None = None) -> None:
        """Stand for the kernel `kernel_id`, whose REST model is `model` where it is known."""
        self.kernel_id = kernel_id
        self.kernel_url = url_path_join(self.kernels_url, url_escape(kernel_id))
        self.kernel = model or self.kernel or {"id": kernel_id}
        if model is not None:
            self.execution_state = model.get("execution_state", "unknown")

    async def start_kernel(self, **kwargs: Any) -> None:  # type: ignore[override]
        """Start a kernel `kernel_name` in the workspace directory `path`, or adopt `kernel_id`."""
        kernel_id = kwargs.get("kernel_id")
        if kernel_id is not None:
            url = url_path_join(self.kernels_url, url_escape(kernel_id))
            self.adopt(kernel_id, await _ask("GET", url))
            return
        body = {
            "name": kwargs.get("kernel_name") or "python3",
            "path": kwargs.get("path") or "",
            "env": kwargs.get("env") or {},
        }
        model = await _ask("POST", self.kernels_url, body)
        self.adopt(model["id"], model)


class SessionKernels(GatewayMappingKernelManager):
    """All kernels of the session. They outlive this process."""

    @default("kernel_manager_class")
    def _default_kernel_manager_class(self) -> str:
        return "sessionkeeper.ui.kernels.SessionKernel"

    def get_kernel(self, kernel_id: str) -> SessionKernel:
        """The kernel of that id; whether there is one, the gateway says when it is used."""
        kernel: Any = self._kernels.get(kernel_id)
        if kernel is None:
            kernel = self.kernel_manager_factory(parent=self, log=self.log)
            kernel.adopt(kernel_id)
        return kernel  # type: ignore[no-any-return]

    async def start_kernel(  # type: ignore[override]
        self, *, kernel_id: str | None = None, **kwargs: Any
    ) -> str:
        kernel = self.kernel_manager_factory(parent=self, log=self.log)
        await kernel.start_kernel(kernel_id=kernel_id, **kwargs)
        self._kernels[kernel.kernel_id] = kernel
        return str(kernel.kernel_id)

    async def list_kernels(self, **kwargs: Any) -> list[Model]:
        try:
            models = await _ask("GET", self.kernels_url)
        except web.HTTPError as error:
            known = [dict(kernel.kernel or {}) for kernel in self._kernels.values()]
            if error.status_code == 503 and known:
                return known
            raise
        for gone in self._kernels.keys() - {model["id"] for model in models}:
            del self._kernels[gone]
        for model in models:
            self._learn(model)
        return list(models)

    async def kernel_model(self, kernel_id: str) -> Model:
        known = self._kernels.get(kernel_id)
        url = url_path_join(self.kernels_url, url_escape(kernel_id))
        try:
            model: Model = await _ask("GET", url)
        except web.HTTPError as error:
            if error.status_code == 503 and known is not None:
                return dict(known.kernel or {})
            if error.status_code == 404:
                self._kernels.pop(kernel_id, None)
                raise web.HTTPError(404, f"Kernel does not exist: {kernel_id}") from error
            raise
        self._learn(model)
        return model

    def _learn(self, model: Model) -> None:
        kernel = self.get_kernel(model["id"])
        kernel.adopt(model["id"], model)
        self._kernels[model["id"]] = kernel

    async def shutdown_all(self, now: bool = False) -> None:  # type: ignore[override]
        """Nothing: called when this server stops, and kernels go on without it."""
        self._kernels.clear()


class SessionKernelSpecs(GatewayKernelSpecManager):
    """The gateway's kernel specs; its last answer while it is away."""

    _known: Model | None = None

    async def list_kernel_specs(self) -> Model:
        try:
            specs: Model = await super().list_kernel_specs()
        except (web.HTTPError, OSError, HTTPClientError) as error:
            if self._known is None:
                raise web.HTTPError(503, f"The gateway does not answer: {error}") from error
            return self._known
        self._known = specs
        return specs


class NotebookSessions(GatewaySessionManager):
    """Which notebook has which kernel. Kept in a file: another UI server finds them again."""

    def get_kernel_env(self, path: str | None, name: str | None = None) -> dict[str, str]:
        """Nothing of this process's environment goes to a kernel."""
        return {"JPY_SESSION_NAME": path or ""}

    async def kernel_culled(self, kernel_id: str) -> bool:
        """True only if the gateway says so: one that is away keeps its kernels."""
        try:
            await self.kernel_manager.kernel_model(kernel_id)
        except web.HTTPError as error:
            return bool(error.status_code == 404)
        return False
