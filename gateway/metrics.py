"""What Prometheus is told of kernels, journals and messages. docs/operations.md explains each.

Counters count where something happens; what *is* is looked at when it is asked for, so that it
costs nothing in between. No label has a value that users make up: a kernel's id is in the log.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, ProcessCollector
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from gateway.kernels import Kernels

STATES = ("starting", "idle", "busy", "restarting", "dead")

REGISTRY = CollectorRegistry()
"""Of the process: every module that counts registers here."""

ProcessCollector(registry=REGISTRY)

TAKEN = Counter(
    "sessionkeeper_messages",
    "Messages written to journals: requests of clients, outputs of kernels",
    ["kind"],
    registry=REGISTRY,
)
DEDUPLICATED = Counter(
    "sessionkeeper_messages_deduplicated",
    "Messages that came once more and were dropped by their id or number",
    ["kind"],
    registry=REGISTRY,
)
RESUMED = Counter(
    "sessionkeeper_messages_resumed",
    "Messages sent after a connection was made anew: outputs to a client, requests to a kernel",
    ["kind"],
    registry=REGISTRY,
)
for _counter in (TAKEN, DEDUPLICATED, RESUMED):
    for _kind in ("request", "output"):
        _counter.labels(_kind)  # zero is told as well


class KernelCollector:
    """What is, of all kernels of the gateway."""

    def __init__(self, all_kernels: Callable[[], Iterable[Kernels]]) -> None:
        """`all_kernels`: those of each tenant."""
        self._all = all_kernels

    def collect(self) -> Iterator[Metric]:
        channels = [kernels.channel(one) for kernels in self._all() for one in kernels.records]
        states = GaugeMetricFamily(
            "sessionkeeper_kernels", "Kernels by what they do", labels=["state"]
        )
        tally = Tally(channel.execution_state for channel in channels)
        for state in dict.fromkeys((*STATES, *tally)):
            states.add_metric([state], tally[state])
        yield states
        yield GaugeMetricFamily(
            "sessionkeeper_clients",
            "Clients attached to kernels",
            sum(len(channel.outlet.feeds) for channel in channels),
        )
        yield GaugeMetricFamily(
            "sessionkeeper_journal_bytes",
            "Bytes of all journals on disk",
            sum(channel.journal.size for channel in channels),
        )
        lag = GaugeMetricFamily(
            "sessionkeeper_journal_lag_messages",
            "Messages in journals that are still to be delivered: outputs to the slowest client of "
            "each kernel, requests to the kernels",
            labels=["kind"],
        )
        lag.add_metric(["output"], sum(channel.outlet.lag for channel in channels))
        lag.add_metric(["request"], sum(channel.kernel_lag for channel in channels))
        yield lag
