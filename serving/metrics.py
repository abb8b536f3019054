"""Counters for Prometheus."""

import threading
from collections.abc import Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

#: Weight of the latest run of the model in the mean time per window.
_WEIGHT = 0.1
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_COUNTERS = {
    "batches": "Runs of the model.",
    "windows": "Windows that it scored; a clip without a timeline is one.",
    "clips": "Clips that it answered.",
    "model_seconds": "Time that it took, summed over all threads.",
    "audio_seconds": "Audio that was answered.",
    "log_failures": "Answers that could not be logged.",
}


class Metrics:
    """What the server has done since it started; may be used by several threads."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # one series per counter
        self._registry = CollectorRegistry()
        self._lock = threading.Lock()
        self.requests = Counter(
            "serpipe_requests",
            "Requests by path and status.",
            ["path", "status"],
            registry=self._registry,
        )
        self._request_seconds = Histogram(
            "serpipe_request_seconds",
            "Time from the head of a request to its answer.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._counters = {
            name: Counter(f"serpipe_{name}", text, registry=self._registry)
            for name, text in _COUNTERS.items()
        }
        self._gauges: dict[str, Gauge] = {}
        self._has_measured = False
        #: Recent mean in one thread; a guess before the first measurement.
        self.seconds_per_window = 0.1

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request, and its time if its path uses the model.

        ``path`` is one of the server's own, never one that a client made up. ``seconds`` are those
        from the head of the request to its answer.
        """
        self.requests.labels(path, status).inc()
        if path in ("/recognize", "/invocations"):
            self._request_seconds.observe(seconds)

    def measured(self, windows: int, clips: int, seconds: float) -> None:
        """Count a run of the model, and the recordings whose last window it scored."""
        with self._lock:
            weight = _WEIGHT if self._has_measured else 1.0
            self.seconds_per_window += weight * (seconds / windows - self.seconds_per_window)
            self._has_measured = True
        for name, value in (("batches", 1), ("windows", windows), ("clips", clips)):
            self.add(name, value)
        self.add("model_seconds", seconds)

    def add(self, name: str, value: float = 1.0) -> None:
        """Add to a counter: ``audio_seconds`` or ``log_failures``."""
        self._counters[name].inc(value)

    def text(self, gauges: Mapping[str, float]) -> bytes:
        """Return all metrics, gauges by name, in the text format of Prometheus, version 0.0.4."""
        for name, value in gauges.items():
            if name not in self._gauges:
                self._gauges[name] = Gauge(
                    f"serpipe_{name}", "Current value.", registry=self._registry
                )
            self._gauges[name].set(value)
        return generate_latest(self._registry)
