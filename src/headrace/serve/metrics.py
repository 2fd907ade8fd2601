"""What a server tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric

from headrace.serve.freshness import BUCKETS_S, DelaySummary

LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
Reading = tuple[str, str, list[tuple[dict[str, str], float]]]


class ServeMetrics:
    """Counters and histograms of one server, in a registry of their own.

    Attributes:
        requests: Requests by endpoint and status.
        rows: Rows scored.
        latency: Seconds from the last byte of a request to the first of its answer, by endpoint.
        feedback: Actions by outcome, `accepted` or `duplicate`.

    Args:
        gauges: Called at every scrape; returns (name, help, [(labels, value)]) of what is only read then.
        delays: Called at every scrape; returns histograms by name.
    """

    def __init__(self, gauges: Callable[[], Iterable[Reading]], delays: Callable[[], dict[str, DelaySummary]]) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter("headrace_requests", "Requests.", ("endpoint", "status"), registry=self._registry)
        self.rows = Counter("headrace_rows_scored", "Rows scored.", registry=self._registry)
        self.latency = Histogram("headrace_latency_seconds", "From the whole request to its answer.", ("endpoint",),
                                 buckets=LATENCY_BUCKETS_S, registry=self._registry)  # fmt: skip
        self.feedback = Counter("headrace_feedback", "Actions received.", ("outcome",), registry=self._registry)
        for outcome in ("accepted", "duplicate"):
            self.feedback.labels(outcome)
        self._registry.register(_Readings(gauges, delays))

    def text(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return bytes(generate_latest(self._registry))


class _Readings:
    """Reads gauges and delay histograms when it is asked."""

    def __init__(self, gauges: Callable[[], Iterable[Reading]], delays: Callable[[], dict[str, DelaySummary]]) -> None:
        self._gauges, self._delays = gauges, delays

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        for name, text, values in self._gauges():
            labels = list(values[0][0]) if values else []
            family: Any = GaugeMetricFamily(name, text, labels=labels)
            for pairs, value in values:
                family.add_metric(list(pairs.values()), value)
            yield family
        for name, summary in self._delays().items():
            histogram: Any = HistogramMetricFamily(name, "From acceptance until a version that learned it is served.")
            counts = [(str(bound), float(n)) for bound, n in zip(BUCKETS_S, summary.buckets, strict=True)]
            histogram.add_metric([], [*counts, ("+Inf", float(summary.count))], sum_value=summary.sum_s)
            yield histogram
