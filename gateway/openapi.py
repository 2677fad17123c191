"""The OpenAPI document of the kernel gateway API, in version 2.0 as the stock gateway's is.

Paths are those of `gateway.handlers.ROUTES` and the WebSocket; a test holds the two together.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def _ref(name: str) -> Json:
    return {"$ref": f"#/definitions/{name}"}


def _list_of(name: str) -> Json:
    return {"type": "array", "items": _ref(name)}


def _object(properties: Json, required: tuple[str, ...] = ()) -> Json:
    found: Json = {"type": "object", "properties": properties}
    return found | ({"required": list(required)} if required else {})


def _text(about: str) -> Json:
    return {"type": "string", "description": about}


def _path(name: str, about: str) -> Json:
    return {"name": name, "in": "path", "required": True, "type": "string", "description": about}


def _body(schema: Json, required: bool = False) -> Json:
    return {"name": "wish", "in": "body", "required": required, "schema": schema}


def _query(name: str, about: str) -> Json:
    return {"name": name, "in": "query", "required": False, "type": "string", "description": about}


def _does(summary: str, tag: str, answers: dict[int, tuple[str, Json | None]], **more: Any) -> Json:
    """One operation. `answers`: status → (words, schema of the body or None for none)."""
    errors: Json = {"default": {"description": "In words", "schema": _ref("Error")}}
    for status, (words, schema) in answers.items():
        errors[str(status)] = {"description": words} | ({"schema": schema} if schema else {})
    return {"summary": summary, "tags": [tag], "responses": errors, **more}


_KERNEL = _path("kernel_id", "id of the kernel, a UUID")
_SESSION = _path("session_id", "id of the notebook session")
_SPEC = _path("name", "name of the kernelspec")
_OPEN: Json = {"security": []}

_DEFINITIONS: Json = {
    "Error": _object(
        {
            "message": _text("what was wrong"),
            "reason": _text("the status in words"),
            "code": _text("stable, for programs"),
            "hint": _text("what to do"),
            "retryable": {"type": "boolean"},
            "traceback": _text("with status 500"),
        },
        ("message", "reason"),
    ),
    "Version": _object({"version": _text("of Jupyter Server's REST API")}, ("version",)),
    "KernelSpecFile": _object(
        {
            "language": _text("the kernel's language"),
            "argv": {"type": "array", "items": {"type": "string"}},
            "display_name": _text("for people"),
            "env": {"type": "object", "additionalProperties": {"type": "string"}},
        }
    ),
    "KernelSpec": _object(
        {
            "name": _text("its name"),
            "spec": _ref("KernelSpecFile"),
            "resources": {
                "type": "object",
                "description": "name of a resource → its path",
                "additionalProperties": {"type": "string"},
            },
        }
    ),
    "KernelSpecs": _object(
        {
            "default": _text("the one a kernel gets that is asked for without a name"),
            "kernelspecs": {"type": "object", "additionalProperties": _ref("KernelSpec")},
        }
    ),
    "Kernel": _object(
        {
            "id": {"type": "string", "format": "uuid"},
            "name": _text("of its kernelspec"),
            "last_activity": {"type": "string", "format": "date-time"},
            "execution_state": _text("starting, idle, busy, restarting or dead"),
            "connections": {"type": "integer", "description": "clients attached"},
        },
        ("id", "name"),
    ),
    "NewKernel": _object(
        {
            "name": _text("of a kernelspec; the default one if there is none"),
            "env": {
                "type": "object",
                "description": "KERNEL_* and what the operator allows",
                "additionalProperties": {"type": "string"},
            },
            "path": _text("working directory, below the workspace"),
            "kernel_id": {"type": "string", "format": "uuid", "description": "a new one's id"},
        }
    ),
    "NotebookSession": _object(
        {
            "id": _text("its id"),
            "path": _text("of the notebook"),
            "name": _text("of the notebook"),
            "type": _text("notebook, console …"),
            "kernel": _ref("Kernel"),
            "notebook": _object({"path": _text("as above"), "name": _text("as above")}),
        }
    ),
    "NewNotebookSession": _object(
        {
            "path": _text("of the notebook; `notebook.path` is understood as well"),
            "name": _text("of the notebook"),
            "type": _text("notebook, console …"),
            "kernel": _object({"id": _text("of a kernel there is"), "name": _text("kernelspec")}),
        }
    ),
    "Readiness": _object(
        {
            "ready": {"type": "boolean"},
            "reasons": {
                "type": "object",
                "description": "why it is not ready: topic → words",
                "additionalProperties": {"type": "string"},
            },
            "notes": {
                "type": "object",
                "description": "what is wrong though it is ready: topic → words",
                "additionalProperties": {"type": "string"},
            },
        }
    ),
}

_NOT_THERE = ("There is none", _ref("Error"))

_CHANNELS_WORDS = (
    "The subprotocol v1.kernel.websocket.jupyter.org, or the legacy JSON one if none is asked for; "
    "v1.sessionkeeper resumes by cursor. A token may be sent as the subprotocols "
    "v1.token.websocket.jupyter.org and v1.token.websocket.jupyter.org.{token}."
)

_PATHS: Json = {
    "/api": {
        "get": _does("Version of the API", "api", {200: ("The version", _ref("Version"))}),
    },
    "/api/swagger.json": {
        "get": _does("This document", "api", {200: ("As JSON", {"type": "object"})}),
    },
    "/api/swagger.yaml": {
        "get": _does(
            "This document",
            "api",
            {200: ("As YAML", {"type": "string"})},
            produces=["text/x-yaml"],
        ),
    },
    "/api/kernelspecs": {
        "get": _does(
            "Kernelspecs there are", "kernelspecs", {200: ("All of them", _ref("KernelSpecs"))}
        ),
    },
    "/api/kernelspecs/{name}": {
        "parameters": [_SPEC],
        "get": _does(
            "One kernelspec", "kernelspecs", {200: ("It", _ref("KernelSpec")), 404: _NOT_THERE}
        ),
    },
    "/kernelspecs/{name}/{file}": {
        "parameters": [_SPEC, _path("file", "of the kernelspec: a logo, say")],
        "get": _does(
            "A file of a kernelspec",
            "kernelspecs",
            {200: ("Its content", {"type": "string", "format": "binary"}), 404: _NOT_THERE},
            produces=["image/png", "image/svg+xml", "application/octet-stream"],
        ),
    },
    "/api/kernels": {
        "get": _does(
            "Kernels there are",
            "kernels",
            {200: ("All of them", _list_of("Kernel")), 403: ("Not allowed", _ref("Error"))},
        ),
        "post": _does(
            "Start a kernel",
            "kernels",
            {
                201: ("It; its place is in the header Location", _ref("Kernel")),
                403: ("There may be no more", _ref("Error")),
                404: ("No such kernelspec", _ref("Error")),
            },
            parameters=[_body(_ref("NewKernel"))],
        ),
    },
    "/api/kernels/{kernel_id}": {
        "parameters": [_KERNEL],
        "get": _does("One kernel", "kernels", {200: ("It", _ref("Kernel")), 404: _NOT_THERE}),
        "delete": _does("End a kernel for good", "kernels", {204: ("Done", None), 404: _NOT_THERE}),
    },
    "/api/kernels/{kernel_id}/interrupt": {
        "parameters": [_KERNEL],
        "post": _does("Interrupt it", "kernels", {204: ("Done", None), 404: _NOT_THERE}),
    },
    "/api/kernels/{kernel_id}/restart": {
        "parameters": [_KERNEL],
        "post": _does(
            "Restart it, under its id", "kernels", {200: ("It", _ref("Kernel")), 404: _NOT_THERE}
        ),
    },
    "/api/kernels/{kernel_id}/channels": {
        "parameters": [
            _KERNEL,
            _query("session_id", "Jupyter's session of the client"),
            _query("cursor", "v1.sessionkeeper: the last message that the client has"),
            _query("journal", "v1.sessionkeeper: the journal that the cursor is of"),
        ],
        "get": _does(
            "WebSocket to the kernel's channels",
            "channels",
            {101: ("The connection is upgraded", None), 404: _NOT_THERE},
            description=_CHANNELS_WORDS,
        ),
    },
    "/api/sessions": {
        "get": _does(
            "Notebook sessions there are",
            "sessions",
            {
                200: ("All of them", _list_of("NotebookSession")),
                403: ("Not allowed", _ref("Error")),
            },
        ),
        "post": _does(
            "Open a notebook session, with a new kernel or one there is; that of the path if there "
            "is one",
            "sessions",
            {201: ("It", _ref("NotebookSession"))},
            parameters=[_body(_ref("NewNotebookSession"), required=True)],
        ),
    },
    "/api/sessions/{session_id}": {
        "parameters": [_SESSION],
        "get": _does(
            "One notebook session",
            "sessions",
            {200: ("It", _ref("NotebookSession")), 404: _NOT_THERE},
        ),
        "patch": _does(
            "Rename it, or give it another kernel",
            "sessions",
            {200: ("It", _ref("NotebookSession")), 404: _NOT_THERE},
            parameters=[_body(_ref("NewNotebookSession"), required=True)],
        ),
        "delete": _does(
            "End it, and its kernel", "sessions", {204: ("Done", None), 404: _NOT_THERE}
        ),
    },
    "/metrics": {
        "get": _does(
            "Metrics for Prometheus",
            "operations",
            {200: ("In its text format", {"type": "string"})},
            produces=["text/plain"],
        ),
    },
    "/healthz": {
        "get": _does(
            "Whether the process answers",
            "operations",
            {200: ("It does", {"type": "object"})},
            **_OPEN,
        ),
    },
    "/readyz": {
        "get": _does(
            "Whether it can serve, and why not",
            "operations",
            {200: ("It can", _ref("Readiness")), 503: ("It cannot", _ref("Readiness"))},
            **_OPEN,
        ),
    },
}


def document(base_url: str = "/", version: str = "") -> Json:
    """The document, for a gateway below `base_url` that speaks `version` of the API."""
    return {
        "swagger": "2.0",
        "info": {
            "title": "Jupyter Kernel Gateway API",
            "description": "As sessionkeeper serves it: kernels outlive gateway and node.",
            "version": version,
        },
        "basePath": base_url.rstrip("/") or "/",
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "securityDefinitions": {
            "tokenHeader": {
                "type": "apiKey",
                "name": "Authorization",
                "in": "header",
                "description": "token {token}, or Bearer {token}",
            },
            "tokenParam": {"type": "apiKey", "name": "token", "in": "query"},
        },
        "security": [{"tokenHeader": []}, {"tokenParam": []}],
        "paths": _PATHS,
        "definitions": _DEFINITIONS,
    }
