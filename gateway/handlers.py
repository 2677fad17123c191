"""REST of the Jupyter kernel gateway.

jupyter_server's and the kernel gateway's handlers were looked at and not built upon: they answer
from a kernel manager that owns processes and their ports, which die with the gateway, and they
bring identity providers, authorizers and traitlets for what is a page of code here. What clients
rely on is the shape of the answers; that is kept (jupyter_server/services/api/api.yaml), and the
kernel gateway's own tests are run against this one. The WebSocket is in `gateway.websocket`.
"""

from __future__ import annotations

import asyncio
import json
import mimetypes
from typing import Any
from urllib.parse import quote

from tornado import web

from gateway.access import Access
from gateway.errors import BadRequest, Forbidden, KernelspecNotFound
from gateway.health import HealthHandler, MetricsHandler, ReadyHandler
from gateway.interrupts import settling
from gateway.notebook_sessions import NotebookSessions
from gateway.openapi import document
from gateway.starting import default_spec, start_kernel

__all__ = ["ROUTES", "Handler", "NotFoundHandler"]

API_VERSION = "2.17.0"  # of Jupyter Server's REST API


class Handler(Access, web.RequestHandler):
    """Base of REST handlers."""

    def body(self) -> dict[str, Any]:
        """The JSON object of the request, `{}` if there is none. Raises `BadRequest`."""
        if not self.request.body.strip():
            return {}
        try:
            value = json.loads(self.request.body)
        except ValueError:
            raise BadRequest("The body is not JSON.") from None
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise BadRequest("The body is not a JSON object.")
        return value

    def answer(self, value: Any, status: int = 200) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(value))

    def created(self, kind: str, name: str, model: dict[str, Any]) -> None:
        """Answer with what was created, and where it is."""
        self.set_header("Location", f"{self.chosen.base_url}api/{kind}/{name}")
        self.answer(model, 201)

    def check_listing(self) -> None:
        """Raises `Forbidden` where the operator allows no lists of kernels."""
        if not self.chosen.list_kernels:
            raise Forbidden(
                "Kernels may not be listed here.",
                hint="The gateway's operator allows it with KG_LIST_KERNELS=True.",
            )

    async def start_kernel(self, wish: dict[str, Any], notebook: str = "") -> str:
        """Start a kernel of `{name, env, path, kernel_id}`; its id."""
        return await start_kernel(self.kernels, self.compute, self.chosen, wish, notebook)


class ApiHandler(Handler):
    def get(self) -> None:
        self.answer({"version": API_VERSION})


class DocumentHandler(Handler):
    """The OpenAPI document, at both paths of the stock gateway: JSON is YAML as well."""

    def get(self, ending: str) -> None:
        kind = "application/json" if ending == "json" else "text/x-yaml"
        self.set_header("Content-Type", kind)
        self.finish(json.dumps(document(self.chosen.base_url, API_VERSION), indent=1))


class KernelspecsHandler(Handler):
    def model(self, name: str, specs: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """A kernelspec as REST clients see it, its resources as URLs."""
        files = specs[name].get("resources") or {}
        place = f"{self.chosen.base_url}kernelspecs/{quote(name)}"
        resources = {key: f"{place}/{quote(file)}" for key, file in files.items()}
        return {"name": name, "spec": specs[name]["spec"], "resources": resources}

    def get(self) -> None:
        specs = self.compute.kernelspecs()
        self.answer(
            {
                "default": default_spec(specs, self.chosen),
                "kernelspecs": {name: self.model(name, specs) for name in sorted(specs)},
            }
        )


class KernelspecHandler(KernelspecsHandler):
    def get(self, name: str) -> None:  # type: ignore[override]
        specs = self.compute.kernelspecs()
        if name not in specs:
            raise KernelspecNotFound(name, list(specs))
        self.answer(self.model(name, specs))


class KernelspecResourceHandler(Handler):
    async def get(self, name: str, file: str) -> None:
        content = await self.compute.kernelspec_resource(name, file)
        if content is None:
            raise web.HTTPError(404, f"Kernelspec {name!r} has no resource {file!r}.")
        kind = mimetypes.guess_type(file)[0] or "application/octet-stream"
        self.set_header("Content-Type", kind)
        self.finish(content)


class KernelsHandler(Handler):
    def get(self) -> None:
        self.check_listing()
        self.answer([self.kernels.model(kernel_id) for kernel_id in self.kernels.records])

    async def post(self) -> None:
        kernel_id = await self.start_kernel(self.body())
        self.created("kernels", kernel_id, self.kernels.model(kernel_id))


class KernelHandler(Handler):
    def get(self, kernel_id: str) -> None:
        self.answer(self.kernels.model(kernel_id))

    async def delete(self, kernel_id: str) -> None:
        await delete_kernel(self, kernel_id)
        self.set_status(204)
        self.finish()


async def delete_kernel(handler: Handler, kernel_id: str) -> None:
    """Stop a kernel for good. Raises `KernelNotFound`."""
    handler.kernels.record(kernel_id)
    async with handler.kernels.lock(kernel_id):
        await handler.compute.stop(kernel_id, final=True)
        handler.kernels.remove(kernel_id)


class KernelActionHandler(Handler):
    async def post(self, kernel_id: str, action: str) -> None:
        self.kernels.record(kernel_id)
        if action == "interrupt":
            channel = self.kernels.channel(kernel_id)
            channel.interrupts.note()
            await asyncio.sleep(settling(channel.last_activity))
            await self.compute.interrupt(kernel_id)
            self.set_status(204)
            self.finish()
        else:
            await self.kernels.restart(kernel_id, self.compute)
            self.answer(self.kernels.model(kernel_id))


class NotebookSessionsHandler(Handler):
    @property
    def sessions(self) -> NotebookSessions:
        return self.kernels.notebooks

    def model(self, session_id: str) -> dict[str, Any]:
        session = self.sessions.get(session_id)
        model = {
            "id": session.id,
            "path": session.path,
            "name": session.name,
            "type": session.type,
            "kernel": self.kernels.model(session.kernel_id),
        }
        if session.type == "notebook":
            model["notebook"] = {"path": session.path, "name": session.name}
        return model

    def get(self) -> None:
        self.check_listing()
        there = [s.id for s in self.sessions.all() if s.kernel_id in self.kernels]
        self.answer([self.model(session_id) for session_id in there])

    async def post(self) -> None:
        wish = self.body()
        path = wish.get("path") or (wish.get("notebook") or {}).get("path")
        if not path:
            raise BadRequest("A notebook session needs a 'path'.")
        session = self.sessions.by_path(path)
        if session is None or session.kernel_id not in self.kernels:
            kernel_id = await self._kernel(wish.get("kernel") or {}, path)
            session = self.sessions.create(
                path, wish.get("name") or "", wish.get("type") or "notebook", kernel_id
            )
        self.created("sessions", session.id, self.model(session.id))

    async def _kernel(self, wish: dict[str, Any], notebook: str) -> str:
        if wish.get("id"):
            return self.kernels.record(wish["id"]).id
        folder = notebook.rpartition("/")[0]
        return await self.start_kernel({"path": folder, **wish}, notebook)


class NotebookSessionHandler(NotebookSessionsHandler):
    def get(self, session_id: str) -> None:  # type: ignore[override]
        self.answer(self.model(session_id))

    async def patch(self, session_id: str) -> None:
        wish = self.body()
        session = self.sessions.get(session_id)
        kernel = wish.get("kernel")
        changes = {k: wish[k] for k in ("path", "name", "type") if wish.get(k) is not None}
        before = session.kernel_id
        if kernel:
            changes["kernel_id"] = await self._kernel(kernel, changes.get("path", session.path))
        self.sessions.update(session_id, **changes)
        if changes.get("kernel_id", before) != before and before in self.kernels:
            await delete_kernel(self, before)
        self.answer(self.model(session_id))

    async def delete(self, session_id: str) -> None:
        session = self.sessions.get(session_id)
        self.sessions.remove(session_id)
        if session.kernel_id in self.kernels:
            await delete_kernel(self, session.kernel_id)
        self.set_status(204)
        self.finish()


class NotFoundHandler(Handler):
    async def prepare(self) -> None:
        await super().prepare()
        raise web.HTTPError(404, f"There is nothing at {self.request.path}.")


_ID = r"([^/]+)"

ROUTES: list[tuple[str, type[web.RequestHandler]]] = [
    (r"/api/?", ApiHandler),
    (r"/api/swagger\.(json|yaml)", DocumentHandler),
    (r"/metrics", MetricsHandler),
    (r"/healthz", HealthHandler),
    (r"/readyz", ReadyHandler),
    (r"/api/kernelspecs/?", KernelspecsHandler),
    (r"/api/kernelspecs/([^/]+)", KernelspecHandler),
    (r"/kernelspecs/([^/]+)/([^/]+)", KernelspecResourceHandler),
    (r"/api/kernels/?", KernelsHandler),
    (rf"/api/kernels/{_ID}", KernelHandler),
    (rf"/api/kernels/{_ID}/(interrupt|restart)", KernelActionHandler),
    (r"/api/sessions/?", NotebookSessionsHandler),
    (rf"/api/sessions/{_ID}", NotebookSessionHandler),
]
