"""What Prometheus is told of a session, its checkpoints and its nodes. docs/operations.md explains
each.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from typing import get_args

from prometheus_client import Counter, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from gateway.metrics import REGISTRY
from sessionkeeper.keeper.node import Node
from sessionkeeper.keeper.status import State, Status
from sessionkeeper.keeper.words import Recovery

NODE_STATES = ("ready", "suspect", "draining", "lost")

RECOVERIES = Counter(
    "sessionkeeper_recoveries",
    "Times that a session ran again after it had left its node, by cause",
    ["cause"],
    registry=REGISTRY,
)
RECOVERY_SECONDS = Histogram(
    "sessionkeeper_recovery_seconds",
    "From when the session left its node until it ran again",
    ["cause"],
    buckets=(0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 300),
    registry=REGISTRY,
)
CHECKPOINT_SECONDS = Histogram(
    "sessionkeeper_checkpoint_seconds",
    "From the decision to take a checkpoint until it was committed",
    buckets=(0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300),
    registry=REGISTRY,
)
PAUSE_SECONDS = Histogram(
    "sessionkeeper_checkpoint_pause_seconds",
    "How long kernels stood still for a checkpoint",
    buckets=(0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 60),
    registry=REGISTRY,
)
STORED_BYTES = Counter(
    "sessionkeeper_checkpoint_stored_bytes",
    "Bytes that checkpoints added to the store",
    registry=REGISTRY,
)
FAILED = Counter(
    "sessionkeeper_checkpoints_failed",
    "Checkpoints that could not be made; each is tried again",
    registry=REGISTRY,
)
CAUSES = ("drain", "rebalance", "node_lost", "kernel_died", "went_back", "started")
for _cause in CAUSES:
    RECOVERIES.labels(_cause)  # zero is told as well


def count(recovery: Recovery | None, *, resumed: bool) -> None:
    """A session runs: after `recovery`, or `resumed` from a checkpoint by a gateway that is new."""
    if recovery is not None:
        RECOVERIES.labels(recovery.cause).inc()
        RECOVERY_SECONDS.labels(recovery.cause).observe(time.monotonic() - recovery.began)
    elif resumed:
        RECOVERIES.labels("started").inc()


class SessionsCollector:
    """What is, of all sessions and the nodes."""

    def __init__(self, statuses: Callable[[], Iterable[Status]], nodes: Iterable[Node]) -> None:
        self._statuses = statuses
        self._nodes = nodes

    def collect(self) -> Iterator[Metric]:
        statuses = list(self._statuses())
        newest = [one.checkpoint for one in statuses if one.checkpoint is not None]
        if newest:
            yield GaugeMetricFamily(
                "sessionkeeper_checkpoint_age_seconds",
                "Since the newest checkpoint was made, of the session whose is the oldest",
                max(0.0, time.time() - min(one.at for one in newest)),
            )
            yield GaugeMetricFamily(
                "sessionkeeper_checkpoint_bytes",
                "Bytes in the store that the newest checkpoints of all sessions need",
                sum(one.total_bytes for one in newest),
            )
        kept = GaugeMetricFamily("sessionkeeper_sessions", "Sessions by state", labels=["state"])
        states = Tally(one.state for one in statuses)
        for state in get_args(State):
            kept.add_metric([state], states[state])
        yield kept
        nodes = GaugeMetricFamily("sessionkeeper_nodes", "Nodes by state", labels=["state"])
        tally = Tally(node.state for node in self._nodes)
        for name in NODE_STATES:
            nodes.add_metric([name], tally[name])
        yield nodes
        yield GaugeMetricFamily(
            "sessionkeeper_warnings",
            "Standing warnings of all sessions; their statuses have the words",
            sum(len(one.warnings) for one in statuses),
        )
