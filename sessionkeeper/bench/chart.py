"""`chart_s`: how long it takes to render the chart and to validate what comes of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sessionkeeper.bench.errors import RunFailed, StackFailed

__all__ = ["CHART", "chart_seconds", "rendered", "validate"]

CHART = Path(__file__).parents[2] / "charts" / "sessionkeeper"
VERSION = "1.36"
CUSTOM = {"ServiceMonitor"}
"""Kinds that others define: Kubernetes has no schema of them."""


def chart_seconds(values: Path | None = None) -> float:
    """Return the seconds from the chart's files to validated objects, with a file of values.

    Raises :class:`StackFailed` where the tools are not installed, :class:`RunFailed` when an object
    is not valid.
    """
    chosen = yaml.safe_load(values.read_text()) if values is not None else {}
    _tools()
    began = time.perf_counter()
    for one in rendered(chosen):
        validate(one)
    return time.perf_counter() - began


def rendered(values: dict[str, Any], name: str = "binder") -> Iterator[dict[str, Any]]:
    """Yield the objects that the chart makes of these values. Raises what `helm_python` raises."""
    helm, _ = _tools()
    with helm.Chart.load(str(CHART)) as chart:
        found = chart.render(values, name=name, namespace="binder")
    for file, text in sorted(found.items()):
        if file.endswith(".yaml"):
            yield from filter(None, yaml.safe_load_all(text))


def validate(one: dict[str, Any], version: str = VERSION) -> None:
    """Raises :class:`RunFailed` unless that version of the API takes the object, each field of
    it.
    """
    _, schemas = _tools()
    if one["kind"] in CUSTOM:
        return
    try:
        schemas.validate(one, version, strict=True)
    except schemas.ValidationError as error:
        name = f"{one['kind']} {one['metadata']['name']}"
        raise RunFailed(f"{name} is not valid: {error.message}") from None


def _tools() -> tuple[Any, Any]:
    try:
        import helm_python
        import kubernetes_validate
    except ModuleNotFoundError as error:
        hint = "pip install helm-python-sdk kubernetes-validate"
        raise StackFailed(f"{error.name} is not installed", hint=hint) from None
    return helm_python, kubernetes_validate
