"""What is read of Kueue's Workloads."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.workloads import Workload, newest_workload, read_workload

PENDING = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": "2 more needed"}
ADMITTED = {"type": "QuotaReserved", "status": "True", "reason": "QuotaReserved", "message": "Quota reserved"}
PREEMPTED = {"type": "Evicted", "status": "True", "reason": "Preempted", "message": "Preempted to accommodate another"}


def manifest(
    *conditions: dict[str, str], name: str = "job-x", created: str = "2026-03-01T12:00:00Z", **spec: Any
) -> Any:
    metadata = {"name": name, "creationTimestamp": created}
    return {"metadata": metadata, "spec": spec, "status": {"conditions": list(conditions)}}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (manifest(), Workload("job-x")),
        (manifest(PENDING, active=True), Workload("job-x", waits_for="2 more needed")),
        (manifest(PENDING | {"message": ""}), Workload("job-x", waits_for="Pending")),
        (manifest(ADMITTED), Workload("job-x")),
        (manifest(PREEMPTED, PENDING), Workload("job-x", waits_for="2 more needed", evicted=PREEMPTED["message"])),
        (manifest(PREEMPTED | {"status": "False"}), Workload("job-x")),
        (manifest(active=False), Workload("job-x", active=False)),
        ({"metadata": {"name": "new"}}, Workload("new")),
    ],
)
def test_what_is_read(found: Any, expected: Workload) -> None:
    assert read_workload(found) == expected


def test_of_several_the_newest_counts() -> None:
    several = [manifest(name=name, created=f"2026-03-01T12:00:0{name}Z") for name in "132"]
    assert newest_workload(several) == Workload("3")
    assert newest_workload([]) is None
