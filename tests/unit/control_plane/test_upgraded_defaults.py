"""An operator is replaced by one of a version with other built-in defaults, while a job runs."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import pytest

from finetune_api.outcomes import Stage
from finetune_api.plan import PLAN_FILE, RunPlan
from finetune_api.runid import training_definition
from support.builders import NAME, digest
from support.newer_version import newer_version
from support.world import Object, World

# Both say some of what the other version gives otherwise.
SPECS: dict[str, Object] = {
    "nothing said": {},
    "some of it said": {"method": {"lora": {"rank": 4}}, "hyperparameters": {"seed": 1}},
}


def _live(upgraded_after: int, **spec: Any) -> World:
    """A job that loses one attempt and ends well; after so many looks the operator is of another version."""
    world = World(nodes=1, backoff_limit=2, **spec)
    for look in range(30):
        if look == upgraded_after:
            world.start_operator()
        with newer_version() if look >= upgraded_after else nullcontext():
            world.reconcile()
            _everybody_else(world)
    assert world.status.state == "Complete"
    return world


def _everybody_else(world: World) -> None:
    world.seconds += 60
    world.control_jobs()
    world.start_pods()
    for job in world.kube.of("jobs"):
        if job["metadata"]["name"].endswith("-train-1"):
            for pod in world.pods(job):
                world.fail(pod, 137)
        else:
            world.succeed(job)
    world.control_jobs()


def _made(world: World) -> dict[str, Object]:
    """What every pod was made by, by the name of its Job: the Job's template and the run plan."""
    jobs = {job["metadata"]["name"]: job["spec"]["template"] for job in world.kube.of("jobs")}
    plans = {item["metadata"]["name"]: item["data"][PLAN_FILE] for item in world.kube.of("configmaps")}
    assert (
        set(jobs) == set(plans) == {f"{NAME}-{stage}-{number}" for stage in ("prepare", "train") for number in (1, 2)}
    )
    return {name: {"template": jobs[name], "plan": json.loads(plans[name])} for name in jobs}


def _definition(plan: Object) -> Object:
    return training_definition(RunPlan.model_validate(plan).spec, digest("a"), digest("b"), None)


@pytest.mark.parametrize("said", SPECS)
@pytest.mark.parametrize("looks", [1, 2, 4, 6])
def test_a_job_goes_on_as_it_began(looks: int, said: str) -> None:
    usual, upgraded = _live(99, **SPECS[said]), _live(looks, **SPECS[said])
    made = _made(upgraded)
    assert made == _made(usual)
    assert _definition(made[f"{NAME}-prepare-2"]["plan"]) == _definition(made[f"{NAME}-prepare-1"]["plan"])
    assert upgraded.status == usual.status


def test_a_job_that_begins_later_has_the_other_defaults() -> None:
    spec = _made(_live(0))[f"{NAME}-train-1"]["plan"]["spec"]
    assert spec["method"]["lora"]["rank"] == 8
    assert spec["dataset"]["train"][0]["weight"] == "3"


def test_a_job_of_a_version_that_wrote_none_down_gets_those_of_the_operator() -> None:
    world = World(nodes=1)
    world.reconcile()
    del world.kube.job()["status"]["plan"]["defaults"]
    with newer_version():
        world.reconcile()
    (plan,) = (json.loads(item["data"][PLAN_FILE]) for item in world.kube.of("configmaps"))
    assert plan["spec"]["hyperparameters"]["seed"] == 7
    assert [job["metadata"]["name"] for job in world.jobs(Stage.PREPARE)] == [f"{NAME}-prepare-1"]
