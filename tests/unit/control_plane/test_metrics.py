"""What is measured, that each metric is documented, and the server that shows it."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from aiohttp.test_utils import TestClient, TestServer

from finetune_operator import health
from finetune_operator.errors import KubeError
from finetune_operator.metrics import Metrics
from support.clusters import PROJECT

DOCUMENT = PROJECT / "docs" / "metrics.md"
ROW = re.compile(r"^\| `([a-z_]+)` \| (counter|gauge|histogram|info) \| ([^|]*)\| [^|]+ \|$", re.MULTILINE)


async def _succeed(_: str) -> timedelta | None:
    return timedelta(seconds=3)


async def _forbidden(_: str) -> None:
    raise KubeError(403, "Forbidden", "no")


async def _broken(_: str) -> None:
    raise ValueError("a defect")


def _job(**status: object) -> dict[str, object]:
    metadata = {"uid": "u", "namespace": "team", "name": "secret-name"}
    return {"metadata": metadata, "spec": {"resources": {"gpusPerNode": 8}}, "status": status}


@pytest.fixture
async def used() -> Metrics:
    """Metrics of an operator to which everything has happened once."""
    metrics = Metrics()
    metrics.watch_queue("waiting", lambda: 4)
    assert await metrics.timed(_succeed)("key") == timedelta(seconds=3)
    with pytest.raises(KubeError):
        await metrics.timed(_forbidden)("key")
    with pytest.raises(ValueError, match="defect"):
        await metrics.timed(_broken)("key")
    metrics.requested("GET", "pods", 200, 0.02)
    metrics.reports.labels("accepted").inc()
    metrics.events.labels("pods").inc()
    metrics.watch_restarts.inc()
    metrics.sight.listed("pods", {"a": "1"})
    metrics.inventory.see(_job(state="Training", conditions=[{"type": "Running", "status": "True"}]))
    attempts = [{"number": 1, "outcome": "Hung"}]
    failure, usage = {"class": "Hung"}, {"gpuSeconds": 80, "startupSeconds": 2, "lostSeconds": 5}
    metrics.inventory.see(_job(state="Failed", failure=failure, attempts=attempts, usage=usage))
    return metrics


def _value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


async def test_values(used: Metrics) -> None:
    assert _value(used, "finetune_jobs", namespace="team", state="Failed") == 1
    assert _value(used, "finetune_jobs", namespace="team", state="Training") is None
    assert _value(used, "finetune_jobs_finished_total", namespace="team", outcome="Hung") == 1
    assert _value(used, "finetune_attempts_ended_total", namespace="team", outcome="Hung") == 1
    assert _value(used, "finetune_gpu_seconds_total", namespace="team") == 80
    assert _value(used, "finetune_gpu_seconds_wasted_total", namespace="team", reason="startup") == 16
    assert _value(used, "finetune_gpu_seconds_wasted_total", namespace="team", reason="failure") == 40
    assert _value(used, "finetune_reconcile_seconds_count", outcome="ok") == 1
    assert _value(used, "finetune_reconcile_seconds_count", outcome="error") == 2
    assert _value(used, "finetune_reconcile_errors_total", reason="Forbidden") == 1
    assert _value(used, "finetune_reconcile_errors_total", reason="ValueError") == 1
    assert _value(used, "finetune_queue_jobs", state="waiting") == 4
    assert _value(used, "finetune_api_request_seconds_count", method="GET", resource="pods", code="200") == 1


async def test_every_metric_is_documented_with_its_labels(used: Metrics) -> None:
    exposed = {}
    for family in used.registry.collect():
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        exposed[family.name + suffix] = (family.type, labels)
    told = {
        name: (kind, set(re.findall(r"`([a-z]+)`", labels))) for name, kind, labels in ROW.findall(DOCUMENT.read_text())
    }
    assert told == exposed


async def test_no_label_has_a_jobs_name(used: Metrics) -> None:
    async with TestClient(TestServer(health.application(used.registry, lambda: None, lambda: None))) as client:
        answer = await client.get("/metrics")
        text = await answer.text()
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert 'finetune_jobs{namespace="team",state="Failed"} 1.0' in text
    assert "secret-name" not in text


@pytest.mark.parametrize(("path", "broken"), [("/healthz", 0), ("/readyz", 1)])
async def test_probes_say_what_is_wrong(path: str, broken: int) -> None:
    problems: list[str | None] = [None, None]
    app = health.application(Metrics().registry, lambda: problems[0], lambda: problems[1])
    async with TestClient(TestServer(app)) as client:
        assert (await client.get(path)).status == 200
        problems[broken] = "the watch of pods is blind"
        answer = await client.get(path)
        assert (answer.status, await answer.text()) == (503, "the watch of pods is blind\n")
        other = ("/readyz", "/healthz")[broken]
        assert (await client.get(other)).status == 200
