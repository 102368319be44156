"""Metrics for Prometheus, each explained in docs/metrics.md. Labels have few values: states, classes, kinds, and the
namespaces that have jobs; never a job's name."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from importlib.metadata import version
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from finetune_operator.errors import KubeError
from finetune_operator.inventory import Change, Inventory
from finetune_operator.sight import Sight

K = TypeVar("K")
R = TypeVar("R")

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The instruments of one operator, in a registry of their own."""

    def __init__(self) -> None:
        # A second series for each, with the time at which it was made.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.inventory = Inventory(self._count)
        self.sight = Sight()
        own = self.registry
        Info("finetune_build", "Version of the operator.", registry=own).info({"version": version("finetune-operator")})
        self._finished = Counter("finetune_jobs_finished", "Jobs that ended.", ["namespace", "outcome"], registry=own)
        self._attempts = Counter("finetune_attempts_ended", "Ended attempts.", ["namespace", "outcome"], registry=own)
        self._gpu_seconds = Counter("finetune_gpu_seconds", "Used by ended attempts.", ["namespace"], registry=own)
        self._wasted = Counter(
            "finetune_gpu_seconds_wasted", "Of those, what led to nothing.", ["namespace", "reason"], registry=own
        )
        self._reconciles = Histogram(
            "finetune_reconcile_seconds", "One look at one job.", ["outcome"], buckets=_SECONDS, registry=own
        )
        self._errors = Counter("finetune_reconcile_errors", "Looks that failed.", ["reason"], registry=own)
        self._requests = Histogram(
            "finetune_api_request_seconds",
            "Requests to the API server.",
            ["method", "resource", "code"],
            buckets=_SECONDS,
            registry=own,
        )
        self.reports = Counter("finetune_progress_reports", "Reports of training pods.", ["outcome"], registry=own)
        self.events = Counter("finetune_watch_events", "Events that watches told.", ["resource"], registry=own)
        self.watch_restarts = Counter("finetune_watch_restarts", "Restarts of all watches.", registry=own)
        self.registry.register(_Levels(self))
        self._queue = Gauge("finetune_queue_jobs", "Jobs in the work queue.", ["state"], registry=own)

    def watch_queue(self, state: str, size: Callable[[], int]) -> None:
        """Has a size of the work queue read whenever metrics are."""
        self._queue.labels(state).set_function(size)

    def timed(self, work: Callable[[K], Awaitable[R]]) -> Callable[[K], Awaitable[R]]:
        """The same work, measured."""

        async def measured(key: K) -> R:
            started, outcome = time.monotonic(), "error"
            try:
                result = await work(key)
                outcome = "ok"
                return result
            except Exception as error:
                reason = error.reason if isinstance(error, KubeError) else ""
                self._errors.labels(reason or type(error).__name__).inc()
                raise
            finally:
                self._reconciles.labels(outcome).observe(time.monotonic() - started)

        return measured

    def requested(self, method: str, resource: str, code: int, seconds: float) -> None:
        """A request to the API server ended; code 0 is no answer."""
        self._requests.labels(method, resource, str(code)).observe(seconds)

    def _count(self, change: Change) -> None:
        if change.outcome:
            self._finished.labels(change.namespace, change.outcome).inc()
        for outcome in change.attempts:
            self._attempts.labels(change.namespace, outcome).inc()
        if change.gpu_seconds:
            self._gpu_seconds.labels(change.namespace).inc(change.gpu_seconds)
        for reason, seconds in change.wasted:
            self._wasted.labels(change.namespace, reason).inc(seconds)


class _Levels(Collector):
    """Gauges that are computed when they are read, so that no series outlives its namespace or state."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[GaugeMetricFamily]:
        inventory = self._metrics.inventory
        jobs = GaugeMetricFamily("finetune_jobs", "FineTuneJobs by state.", labels=["namespace", "state"])
        for labels, count in inventory.states().items():
            jobs.add_metric(labels, count)
        asked = GaugeMetricFamily("finetune_gpus_requested", "GPUs of unfinished jobs.", labels=["namespace"])
        used = GaugeMetricFamily("finetune_gpus_training", "GPUs of jobs that train.", labels=["namespace"])
        for namespace, (requested, training) in inventory.gpus().items():
            asked.add_metric([namespace], requested)
            used.add_metric([namespace], training)
        blind = GaugeMetricFamily(
            "finetune_watch_blind_seconds",
            "For how long a change has been known that the watch has not told of.",
            labels=["resource"],
        )
        for resource, seconds in self._metrics.sight.blind_seconds().items():
            blind.add_metric([resource], seconds)
        yield from (jobs, asked, used, blind)
