"""Nodes that only pretend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_sandbox import Sandbox


@pytest.fixture(scope="module")
def sandbox(control_plane: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """Thirty nodes that run nothing."""
    state_dir = tmp_path_factory.mktemp("simulated") / "state"
    with Sandbox.up(state_dir, nodes=30, gpus_per_node=8, simulate=True, attached=True) as running:
        yield running


def job(name: str, pods: int, seconds: str | None) -> dict[str, Any]:
    annotations = {} if seconds is None else {"sandbox.finetune.dev/run-seconds": seconds}
    container = {"name": "main", "image": "none", "resources": {"limits": {"nvidia.com/gpu": "8"}}}
    template = {
        "metadata": {"annotations": annotations},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }
    spec = {"completions": pods, "parallelism": pods, "backoffLimit": 0, "template": template}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


def test_pods_succeed_after_the_time_they_say(space: Any) -> None:
    space.apply(job("j", 25, "0.5"))
    status = space.until("job", "j", lambda found: found["status"].get("succeeded") == 25)["status"]
    assert "failed" not in status
    nodes = {item["spec"]["nodeName"] for item in space.get("pods", "-l=job-name=j")["items"]}
    assert 1 < len(nodes) <= 25


def test_pods_run_until_they_are_deleted(space: Any) -> None:
    space.apply(job("j", 3, None))
    space.until("job", "j", lambda found: found["status"].get("ready") == 3)
    space.run("delete", "job", "j", "--cascade=foreground")
    assert space.get("pods", "-l=job-name=j")["items"] == []
