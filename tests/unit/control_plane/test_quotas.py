"""Whether a gang fits into the quotas of its namespace."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.outcomes import Stage
from finetune_operator.objects import PREPARE_RESOURCES, training_resources
from finetune_operator.observation import observe
from finetune_operator.quotas import demand_of, shortage, worth_reading
from support.builders import RUN_ID, at, batch_job, job, pod, resource_quota, stored
from support.decisions import PREPARE_DONE, PREPARE_POD, TRAIN_OBJECTS, Case, check, started

GPUS = {"resources": {"nodes": 2, "gpusPerNode": 2, "cpu": "1500m", "memory": "4Gi"}}
TWO = {"resources": {"nodes": 2}}
DEMAND = demand_of(training_resources(job(hyperparameters={"globalBatchSize": 8}, **GPUS).spec.resources), 2)
SIX = {"requests.nvidia.com/gpu": "6"}


def test_what_a_gang_takes() -> None:
    assert {name: str(value) for name, value in DEMAND.items()} == {
        "pods": "2",
        "count/pods": "2",
        "requests.cpu": "3.000",
        "cpu": "3.000",
        "requests.memory": "8589934592",
        "memory": "8589934592",
        "requests.nvidia.com/gpu": "4",
        "limits.memory": "8589934592",
        "limits.nvidia.com/gpu": "4",
    }


def scoped(operator: str, *values: str) -> dict[str, Any]:
    expression = {"scopeName": "PriorityClass", "operator": operator, "values": list(values)}
    return {"scopeSelector": {"matchExpressions": [expression]}}


@pytest.mark.parametrize(
    ("quota", "words"),
    [
        (resource_quota(SIX, {"requests.nvidia.com/gpu": "2"}), None),
        (
            resource_quota(SIX, {"requests.nvidia.com/gpu": "4"}),
            "ResourceQuota gpus has no room for all pods: they ask for 4 of requests.nvidia.com/gpu, of which 2 is",
        ),
        (resource_quota({"requests.cpu": "4"}, {"requests.cpu": "1500m"}), "3 of requests.cpu, of which 2.5 is left"),
        (resource_quota({"memory": "10Gi"}, {"memory": "4Gi"}), "8589934592 of memory, of which 6442450944 is left"),
        (resource_quota({"pods": "5"}, {"pods": "5"}), "2 of pods, of which 0 is left"),
        (resource_quota({"pods": "5"}, {"pods": "7"}), "2 of pods, of which 0 is left"),
        (resource_quota({"count/jobs.batch": "1"}, {"count/jobs.batch": "1"}), None),
        (resource_quota({"pods": "1"}, {}, scopes=["BestEffort"]), None),
        (resource_quota({"pods": "1"}, {}, scopes=["Terminating"]), None),
        (resource_quota({"pods": "1"}, {}, scopes=["NotTerminating", "NotBestEffort"]), "2 of pods"),
        (resource_quota({"pods": "1"}, {}, **scoped("In", "high")), "2 of pods"),
        (resource_quota({"pods": "1"}, {}, **scoped("In", "low")), None),
        (resource_quota({"pods": "1"}, {}, **scoped("NotIn", "low")), "2 of pods"),
        (resource_quota({"pods": "1"}, {}, **scoped("Exists")), "2 of pods"),
        (resource_quota({"pods": "1"}, {}, **scoped("DoesNotExist")), None),
        (resource_quota({"pods": "what"}, {}), None),
        ({"metadata": {"name": "new"}, "spec": {"hard": {"pods": "1"}}}, None),
    ],
)
def test_shortage(quota: Any, words: str | None) -> None:
    found = shortage([quota], DEMAND, "high")
    assert (words or "") in (found or "")
    assert (found is None) is (words is None)


def test_no_pods_fit_anywhere() -> None:
    assert shortage([resource_quota({"pods": "1"}, {"pods": "1"})], demand_of(PREPARE_RESOURCES, 0), None) is None


@pytest.mark.parametrize(
    ("status", "jobs", "pods", "expected"),
    [
        (None, (), (), True),
        (None, (batch_job(Stage.PREPARE),), (pod(Stage.PREPARE),), False),
        (None, (PREPARE_DONE,), (PREPARE_POD,), True),
        (started(**TWO).to_wire(), (), (pod(),), True),
        (started(**TWO).to_wire(), (), (pod(), pod(index=1)), False),
        ({"completionTime": "2026-03-01T12:00:00Z"}, (), (), False),
    ],
)
def test_when_quotas_are_read(status: Any, jobs: Any, pods: Any, expected: bool) -> None:
    assert worth_reading(observe(stored(1, status, **TWO), jobs, pods, None, at(9))) is expected


def test_pods_that_a_profile_asks_for_count() -> None:
    profile = {"name": "small", "generation": 1, "spec": {"defaults": TWO}}
    known = observe(stored(1, {"runID": RUN_ID, "plan": {"profile": profile}}), (), (pod(),), None, at(9))
    assert worth_reading(known)
    assert not worth_reading(observe(stored(1, {"plan": {"profile": profile}}), (), (pod(),), None, at(9)))
    assert not worth_reading(observe(stored(1, {"runID": RUN_ID, "plan": {}}), (), (pod(),), None, at(9)))


FULL = resource_quota({"pods": "3"}, {"pods": "2"})
CASES: dict[str, Case] = {
    "the gang does not fit": Case(
        "Queued",
        "ResourceQuota gpus has no room for all pods: they ask for 2 of pods, of which 1 is left",
        None,
        (PREPARE_DONE,),
        (PREPARE_POD,),
        quotas=(FULL,),
        changes=TWO,
        again=15,
    ),
    "it fits": Case(
        "Starting",
        "",
        None,
        (PREPARE_DONE,),
        (PREPARE_POD,),
        quotas=(resource_quota({"pods": "3"}, {"pods": "1"}),),
        changes=TWO,
        creates=TRAIN_OBJECTS,
        outcomes=(None,),
    ),
    "Kueue counts first": Case(
        "Starting",
        "",
        None,
        (PREPARE_DONE,),
        (PREPARE_POD,),
        quotas=(FULL,),
        changes=TWO | {"queueName": "team"},
        creates=TRAIN_OBJECTS,
        outcomes=(None,),
    ),
    "prepare does not fit": Case(
        "Preparing",
        "1 of pods, of which 0 is left",
        None,
        (batch_job(Stage.PREPARE),),
        quotas=(resource_quota({"pods": "3"}, {"pods": "3"}),),
        changes=TWO,
        again=15,
    ),
    "somebody was quicker, and half of it fits": Case(
        "Starting",
        "1 of pods, of which 0 is left",
        started(**TWO),
        (batch_job(),),
        (pod(scheduled=90, created=90),),
        quotas=(resource_quota({"pods": "3"}, {"pods": "3"}),),
        changes=TWO,
        again=326.790632,
        outcomes=(None,),
    ),
    "half of it has waited long enough": Case(
        "Starting",
        "some pods could not be made for 5",
        started(**TWO),
        (batch_job(),),
        (pod(scheduled=90, created=90),),
        quotas=(resource_quota({"pods": "3"}, {"pods": "3"}),),
        now=800,
        changes=TWO,
        again=0,
        outcomes=("Unschedulable",),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_decision(name: str) -> None:
    check(CASES[name])
