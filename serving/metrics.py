"""Counters, in the text format that Prometheus reads."""

import threading
from collections import Counter, defaultdict
from collections.abc import Mapping

#: Of the newest run of the model in the mean of the time that a window takes.
_WEIGHT = 0.1
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """What the server has done since it started; can be used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: Counter[tuple[str, int]] = Counter()
        self._buckets = [0] * (len(_SECONDS) + 1)
        self._sums: defaultdict[str, float] = defaultdict(float)
        #: Of late, in one thread; before the first was measured, a guess.
        self.seconds_per_window = 0.1

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request.

        Parameters
        ----------
        path : str
            One of the server's own paths; never what a client made up.
        status : int
            Of HTTP.
        seconds : float
            From its head to its answer; counted where the model was asked.
        """
        with self._lock:
            self._answers[path, status] += 1
            if path in ("/recognize", "/invocations"):
                bucket = sum(seconds > edge for edge in _SECONDS)
                self._buckets[bucket] += 1
                self._sums["request_seconds"] += seconds

    def measured(self, windows: int, clips: int, seconds: float) -> None:
        """Count a run of the model.

        Parameters
        ----------
        windows : int
            How many it scored.
        clips : int
            Recordings of which it scored the last window.
        seconds : float
            How long it took.
        """
        with self._lock:
            each = seconds / windows
            is_first = not self._sums["batches"]
            weight = 1.0 if is_first else _WEIGHT
            self.seconds_per_window += weight * (each - self.seconds_per_window)
            self._sums["batches"] += 1
            self._sums["windows"] += windows
            self._sums["clips"] += clips
            self._sums["model_seconds"] += seconds

    def add(self, name: str, value: float = 1.0) -> None:
        """Add to a counter: ``audio_seconds`` or ``log_failures``."""
        with self._lock:
            self._sums[name] += value

    def text(self, gauges: Mapping[str, float]) -> str:
        """Return all of it.

        Parameters
        ----------
        gauges : mapping of str to float
            What is so now, by name.

        Returns
        -------
        str
            In Prometheus' text format, version 0.0.4.
        """
        with self._lock:
            lines = _head("requests_total", "counter", "Requests by path and status.")
            for (path, status), count in sorted(self._answers.items()):
                lines.append(f'serpipe_requests_total{{path="{path}",status="{status}"}} {count}')
            name = "request_seconds"
            lines += _head(name, "histogram", "Time from the head of a request to its answer.")
            below = 0
            for edge, count in zip((*_SECONDS, "+Inf"), self._buckets, strict=True):
                below += count
                lines.append(f'serpipe_{name}_bucket{{le="{edge}"}} {below}')
            lines += [f"serpipe_{name}_sum {self._sums[name]}", f"serpipe_{name}_count {below}"]
            for name, told in (
                ("batches", "Times the model ran."),
                ("windows", "Windows that it scored; a clip without a timeline is one."),
                ("clips", "Clips that it answered."),
                ("model_seconds", "Time that it took, all threads together."),
                ("audio_seconds", "Audio that was answered."),
                ("log_failures", "Answers that could not be logged."),
            ):
                lines += _head(f"{name}_total", "counter", told)
                lines.append(f"serpipe_{name}_total {self._sums[name]}")
            for name, value in gauges.items():
                lines += [*_head(name, "gauge", "At present."), f"serpipe_{name} {value}"]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, told: str) -> list[str]:
    return [f"# HELP serpipe_{name} {told}", f"# TYPE serpipe_{name} {kind}"]
