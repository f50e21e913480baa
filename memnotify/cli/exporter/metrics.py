# SPDX-License-Identifier: MIT
"""The metrics of a status."""

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from memnotify.client import PAGE_SIZE


def up(*, answers: bool) -> Metric:
    """Return the metric that is 0 while no daemon answers."""
    return GaugeMetricFamily("memnotify_up", "Whether the daemon answers at its status socket.", int(answers))


def families(status: dict[str, Any]) -> Iterator[Metric]:
    """Yield the metrics of a status."""
    yield _info("build", "The daemon's version.", version=status["version"])
    yield _info("device", "The device.", path=status["path"], transport=status["transport"])
    yield GaugeMetricFamily(
        "memnotify_start_time_seconds", "When the daemon began, in seconds since the epoch.", status["since"]
    )
    yield GaugeMetricFamily(
        "memnotify_injection_active",
        "Whether figures are made up, by memnotify inject.",
        int(status["injection"] is not None),
    )
    for figure in status["figures"]:
        name = figure["name"]
        yield GaugeMetricFamily(
            f"memnotify_memory_{name}_bytes", f"The figure {name}.", figure["pages"] * PAGE_SIZE
        )
    yield from _observers(status)
    yield from _sampler(status["sampler"])
    yield CounterMetricFamily(
        "memnotify_failed_readings", "Readings of the memory figures that failed.", status["failed_readings"]
    )


def _info(name: str, text: str, **labels: str) -> Metric:
    family = GaugeMetricFamily(f"memnotify_{name}_info", f"{text} The value is 1.", labels=list(labels))
    family.add_metric(list(labels.values()), 1)
    return family


def _observers(status: dict[str, Any]) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "memnotify_observers", "Open files of the device and connections.", status["observer_count"]
    )
    yield CounterMetricFamily("memnotify_events", "Events of all observers.", status["events"])
    yield CounterMetricFamily(
        "memnotify_refused_writes", "Writes of thresholds that were refused.", status["refused_writes"]
    )
    labels = ["figure", "side"]
    thresholds = GaugeMetricFamily(
        "memnotify_thresholds", "Thresholds whose figure is on this side of them.", labels=labels
    )
    crossings = CounterMetricFamily(
        "memnotify_crossings", "How often a figure came to this side of a threshold.", labels=labels
    )
    for each in status["thresholds"]:
        values = [each["name"], "above" if each["above"] else "below"]
        thresholds.add_metric(values, each["count"])
        crossings.add_metric(values, each["crossings"])
    yield thresholds
    yield crossings


def _sampler(sampler: dict[str, Any]) -> Iterator[Metric]:
    yield CounterMetricFamily("memnotify_samples", "Samples of memory.", sampler["samples"])
    yield CounterMetricFamily("memnotify_wakeups", "Wake-ups of the sampler.", sampler["wakeups"])
    if sampler["watching"]:
        yield GaugeMetricFamily(
            "memnotify_sampling_interval_seconds",
            "How long after a sample the timer causes the next one; absent without thresholds.",
            sampler["interval"],
        )
    latencies = sampler["wake_latencies"]
    buckets, count = [], 0
    for each in latencies["classes"]:
        count += each["count"]
        bound_s = each["up_to"]
        buckets.append(("+Inf" if bound_s is None else str(bound_s), count))
    yield HistogramMetricFamily(
        "memnotify_wake_latency_seconds",
        "From the beginning of a reading until all observers that crossed with it were notified.",
        buckets=buckets,
        sum_value=latencies["sum"],
    )
