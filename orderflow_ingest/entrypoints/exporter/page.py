"""The metrics page: the counts of all processes and the gauges of all parts, as prometheus_client's metric families.

It is ready within TIMEOUT seconds, whatever hangs. Values that cannot be read are absent and not zero: a count that
is lower than before looks like a restarted one, and everything would be counted twice.
"""

import time
from collections.abc import Iterator

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from orderflow_ingest import __version__
from orderflow_ingest.app import App
from orderflow_ingest.domain.outcomes import Outcome
from orderflow_ingest.observability import metrics
from orderflow_ingest.observability.logs import WARNING, error_location, event
from orderflow_ingest.observability.metric_files import Key
from orderflow_ingest.observability.metrics import COUNTERS, HISTOGRAMS, read_counts

from .background_probe import BackgroundProbe
from .gauges import BUILD, GAUGES, MEASURE_SECONDS, PROBES, UP, Sample

TIMEOUT = 4.0  # seconds; Prometheus waits for 10 unless told otherwise
MAX_AGE = 5.0  # seconds
BACKENDS = ("archive", "database", "queue")
# Where an organization need not be known. Prometheus sees an increase only from a count that it has seen before, so
# that the first failure of its kind would be missed, if there were no zero.
_INITIAL_LABELS: dict[metrics.Counter, list[tuple[str, ...]]] = {
    metrics.DELIVERIES: [("", outcome.name) for outcome in Outcome],
    metrics.REFUSALS: [(outcome.name,) for outcome in Outcome],
    metrics.BACKEND_ERRORS: [(backend,) for backend in BACKENDS],
}


class Page(Collector):
    """The metrics of a deployment."""

    def __init__(self, app: App, timeout: float = TIMEOUT, max_age: float = MAX_AGE):
        self._app, self._timeout = app, timeout
        self._probes = [
            BackgroundProbe(name, lambda measure=measure: list(measure(app)), max_age)  # type: ignore[misc]
            for name, measure in PROBES.items()
        ]

    def text(self) -> bytes:
        """Return the page in Prometheus's text format."""
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """Measure, and yield the metric families."""
        until = time.monotonic() + self._timeout
        for part in self._probes:
            part.start()
        began = time.monotonic()
        counts = self._counts()
        samples = [
            Sample(BUILD, 1, (__version__,)),
            *_probe_samples("counts", time.monotonic() - began, is_up=counts is not None),
        ]
        for part in self._probes:
            result = part.result(until)
            samples += [
                *_probe_samples(part.name, result.seconds, is_up=result.samples is not None),
                *(result.samples or ()),
            ]
        yield from _gauge_families(samples)
        if counts is not None:
            yield from _counter_families(counts)
            yield from _histogram_families(counts)

    def _counts(self) -> dict[Key, list[float]] | None:
        try:
            return read_counts(self._app.settings.metrics_dir)
        except OSError as error:
            event("metrics", "The counts could not be read.", WARNING, reason=error_location(error))
            return None


def _probe_samples(part: str, seconds: float, *, is_up: bool) -> tuple[Sample, Sample]:
    return Sample(UP, is_up, (part,)), Sample(MEASURE_SECONDS, seconds, (part,))


def _gauge_families(samples: list[Sample]) -> Iterator[Metric]:
    for gauge in GAUGES:
        family = GaugeMetricFamily(gauge.name, gauge.meaning, labels=gauge.labels)
        for sample in samples:
            if sample.gauge is gauge:
                family.add_metric(sample.labels, sample.value)
        if family.samples:
            yield family


def _counter_families(counts: dict[Key, list[float]]) -> Iterator[Metric]:
    for counter in COUNTERS:
        found = dict.fromkeys(_INITIAL_LABELS.get(counter, ()), 0.0)
        for (key, size), numbers in counts.items():
            name, *labels = key.split()
            if (name, size, len(labels)) == (counter.name, counter.size, len(counter.labels)):
                found[tuple("" if label == "-" else label for label in labels)] = numbers[0]
        family = CounterMetricFamily(counter.name, counter.meaning, labels=counter.labels)
        for values, number in sorted(found.items()):
            family.add_metric(values, number)
        yield family


def _histogram_families(counts: dict[Key, list[float]]) -> Iterator[Metric]:
    for histogram in HISTOGRAMS:
        numbers = counts.get((histogram.name, histogram.size), [0.0] * histogram.size)
        buckets, below = [], 0.0
        for bound, number in zip((*map(str, histogram.bounds), "+Inf"), numbers, strict=False):
            below += number
            buckets.append((bound, below))
        yield HistogramMetricFamily(histogram.name, histogram.meaning, buckets=buckets, sum_value=numbers[-1])
