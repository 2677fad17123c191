"""Kernels and notebook sessions as the gateway knows them.

The stock gateway classes remember in memory which kernels they started and know no others, keep
notebook sessions in a database of their own, and end all kernels when the server stops. Here
the gateway is asked each time, so that a new UI server sees what the old one did; while the
gateway is away, lists are what it said last.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from jupyter_client.kernelspec import NoSuchKernel
from jupyter_server.gateway.managers import (
    GatewayKernelManager,
    GatewayKernelSpecManager,
    GatewayMappingKernelManager,
    GatewaySessionManager,
)
from jupyter_server.utils import url_escape
from tornado import web
from traitlets import default

from sessionkeeper.ui.rest import ask, gateway_is_away

__all__ = [
    "NotebookSessions",
    "SessionKernel",
    "SessionKernelSpecs",
    "SessionKernels",
    "latest_activity",
]

Model = dict[str, Any]


def _of(collection: str, name: str, action: str = "") -> str:
    return f"{collection}/{url_escape(name)}" + (f"/{action}" if action else "")


def latest_activity(models: Iterable[Model], now: datetime) -> datetime | None:
    """When any of the kernels did something last: `now`, while one computes, even in silence."""
    return max(
        (
            now
            if one["execution_state"] == "busy"
            else datetime.fromisoformat(one["last_activity"])
            for one in models
        ),
        default=None,
    )


class SessionKernel(GatewayKernelManager):
    """One kernel at the gateway, whoever started it."""

    def adopt(self, kernel_id: str, model: Model | None = None) -> None:
        """Stand for the kernel `kernel_id`, whose REST model is `model` where it is known."""
        self.kernel_id = kernel_id
        self.kernel = model or self.kernel or {"id": kernel_id}
        if model is not None:
            self.execution_state = model.get("execution_state", "unknown")


class SessionKernels(GatewayMappingKernelManager):
    """All kernels of the session. They outlive this process."""

    _listed: list[Model] | None = None

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
        self, *, kernel_id: str | None = None, path: str | None = None, **kwargs: Any
    ) -> str:
        """Start a kernel `kernel_name` in the workspace directory `path`; its id."""
        name = kwargs.get("kernel_name") or self.default_kernel_name
        wish: Model = {"name": name, "path": path or "", "env": kwargs.get("env") or {}}
        if kernel_id is not None:
            wish["kernel_id"] = kernel_id
        model = await ask("POST", "kernels", wish)
        self._learn(model)
        return str(model["id"])

    async def list_kernels(self, **kwargs: Any) -> list[Model]:
        try:
            models: list[Model] = await ask("GET", "kernels")
        except web.HTTPError as error:
            if gateway_is_away(error) and self._listed is not None:
                return self._listed
            raise
        for gone in self._kernels.keys() - {model["id"] for model in models}:
            del self._kernels[gone]
        for model in models:
            self._learn(model)
        self._listed = models
        return models

    async def look_for_activity(self) -> None:
        """Have `last_kernel_activity` say what the gateway knows: messages do not come by here
        unless a page is open. Raises `tornado.web.HTTPError` when it is away.
        """
        models: list[Model] = await ask("GET", "kernels")
        found = latest_activity(models, datetime.now(UTC))
        if found is not None:
            self.last_kernel_activity = max(found, self.last_kernel_activity)

    async def kernel_model(self, kernel_id: str) -> Model:
        known = self._kernels.get(kernel_id)
        try:
            model: Model = await ask("GET", _of("kernels", kernel_id))
        except web.HTTPError as error:
            if gateway_is_away(error) and known is not None:
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

    async def shutdown_kernel(  # type: ignore[override]
        self, kernel_id: str, now: bool = False, restart: bool = False
    ) -> None:
        try:
            await ask("DELETE", _of("kernels", kernel_id))
        except web.HTTPError as error:
            if error.status_code != 404:  # as good as done
                raise
        self._kernels.pop(kernel_id, None)

    async def interrupt_kernel(  # type: ignore[override]
        self, kernel_id: str, **kwargs: Any
    ) -> None:
        await ask("POST", _of("kernels", kernel_id, "interrupt"), {})

    async def restart_kernel(  # type: ignore[override]
        self, kernel_id: str, now: bool = False, **kwargs: Any
    ) -> None:
        await ask("POST", _of("kernels", kernel_id, "restart"), {})

    async def shutdown_all(self, now: bool = False) -> None:  # type: ignore[override]
        """Nothing: called when this server stops, and kernels go on without it."""
        self._kernels.clear()


class SessionKernelSpecs(GatewayKernelSpecManager):
    """The gateway's kernel specs; its last answer while it is away."""

    _known: Model | None = None

    async def list_kernel_specs(self) -> Model:
        try:
            specs = await ask("GET", "kernelspecs")
        except web.HTTPError as error:
            if gateway_is_away(error) and self._known is not None:
                return self._known
            raise
        self._known = self._replace_path_kernelspec_resources(specs)
        return self._known


class NotebookSessions(GatewaySessionManager):
    """Which notebook has which kernel: the gateway's `/api/sessions`."""

    _known: list[Model] | None = None

    async def list_sessions(self) -> list[Model]:
        try:
            self._known = await ask("GET", "sessions")
        except web.HTTPError as error:
            if not gateway_is_away(error) or self._known is None:
                raise
        return self._known or []

    async def session_exists(self, path: str) -> bool:
        return any(session["path"] == path for session in await ask("GET", "sessions"))

    async def get_session(self, **kwargs: Any) -> Model:
        """The one with that `session_id`, or that `path`."""
        if "session_id" in kwargs:
            found: Model = await ask("GET", _of("sessions", kwargs["session_id"]))
            return found
        for session in await ask("GET", "sessions"):
            if session["path"] == kwargs["path"]:
                return dict(session)
        raise web.HTTPError(404, f"Session not found: path={kwargs['path']!r}")

    async def create_session(
        self,
        path: str | None = None,
        name: str | None = None,
        type: str | None = None,
        kernel_name: str | None = None,
        kernel_id: str | None = None,
    ) -> Model:
        if kernel_id is not None:
            kernel = {"id": kernel_id}
        else:
            kernel = {"name": kernel_name or self.kernel_manager.default_kernel_name}
        wish = {"path": path, "name": name or "", "type": type, "kernel": kernel}
        try:
            created: Model = await ask("POST", "sessions", wish)
        except web.HTTPError as error:
            if error.status_code == 404 and kernel_name:
                raise NoSuchKernel(kernel_name) from error
            raise
        return created

    async def update_session(self, session_id: str, **kwargs: Any) -> None:
        kernel_id = kwargs.pop("kernel_id", None)
        if kernel_id is not None:
            kwargs["kernel"] = {"id": kernel_id}
        if kwargs:
            await ask("PATCH", _of("sessions", session_id), kwargs)

    async def delete_session(self, session_id: str) -> None:
        await ask("DELETE", _of("sessions", session_id))

    def get_kernel_env(self, path: str | None, name: str | None = None) -> dict[str, str]:
        """Nothing of this process's environment goes to a kernel."""
        return {"JPY_SESSION_NAME": path or ""}
