"""`/healthz`, `/readyz` and `/metrics`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from tornado import web

from gateway.access import Access, check_origin
from gateway.metrics import REGISTRY

LEAST_FREE = 64 << 20
"""Bytes that the journals' disk must have: one large message of a kernel."""


@dataclass
class Readiness:
    """Whether the gateway can serve.

    `reasons`: why it cannot, topic → words; `notes`: what else is wrong, though it can. A gateway
    without nodes is ready: requests wait in the journal, and nodes must be able to reach it.
    """

    reasons: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        return not self.reasons


def journal_readiness(directory: Path) -> Readiness:
    """Whether there is room for what kernels say."""
    try:
        free = shutil.disk_usage(directory).free
    except OSError as error:
        return Readiness({"journal": f"its directory cannot be read: {error.strerror}"})
    if free < LEAST_FREE:
        return Readiness({"journal": f"its disk has {free >> 20} MiB left"})
    return Readiness()


class HealthHandler(web.RequestHandler):
    """Says that the process answers. Without token: what asks has none."""

    def get(self) -> None:
        self.finish({"status": "ok"})


class ReadyHandler(web.RequestHandler):
    """Says whether it can serve, and why not; 503 if it cannot. Without token."""

    def get(self) -> None:
        find: Callable[[], Readiness] = self.settings["readiness"]
        found = find()
        self.set_status(200 if found.ready else 503)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"ready": found.ready, **asdict(found)}))


class MetricsHandler(Access, web.RequestHandler):
    """What Prometheus reads, of all tenants: behind the operator's token, which it sends as
    `Authorization: Bearer`.
    """

    async def prepare(self) -> None:
        check_origin(self.request, self.chosen.allow_origin)
        if self.request.method != "OPTIONS":
            self.settings["operator"](self.request)

    def get(self) -> None:
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.write(generate_latest(REGISTRY))
        self.write(generate_latest(self.settings["collector"]))
        self.finish()
