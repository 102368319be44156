"""Under which profile a job runs: chosen once, remembered, and refused or waited for with a remedy."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_api.outcomes import Stage
from finetune_api.plan import PLAN_FILE
from finetune_api.status import ConditionType, FineTuneJobStatus, Origin, Reason, State
from finetune_operator.decide import Decision, decide
from finetune_operator.inventory import facts_of
from finetune_operator.observation import observe
from finetune_operator.placement import Placement, placed, placement_of
from support.builders import NAMESPACE, NOW, POLICY, RUN_ID, Object, batch_job, merged, pod, prepare_outcome, stored
from support.profiles import IMAGE, profile, profile_spec

SELECTED = {"namespaceSelector": {"matchLabels": {"team": "a"}}}


def look(document: Object, *profiles: Object, labels: dict[str, str] | None = None, **seen: Any) -> Decision:
    jobs, pods = seen.get("jobs", ()), seen.get("pods", ())
    return decide(observe(document, jobs, pods, None, NOW, profiles=profiles, namespace_labels=labels), POLICY)


def status_of(decision: Decision) -> FineTuneJobStatus:
    assert decision.status is not None
    return decision.status


def condition(status: FineTuneJobStatus, kind: ConditionType) -> tuple[str, Reason, str]:
    [found] = [item for item in status.conditions if item.type is kind]
    return found.status.value, found.reason, found.message


def remembered(document: Object, decision: Decision) -> Object:
    """The job once a decision's status is written."""
    return document | {"status": status_of(decision).to_wire()}


def test_the_profile_is_written_down_before_anything_is_made() -> None:
    given = profile(default=True, defaults={"hyperparameters": {"seed": 7}})
    decision = look(stored(), given)
    assert decision.create == ()
    plan = status_of(decision).plan
    assert plan is not None
    assert plan.profile is not None
    assert (plan.profile.name, plan.profile.generation) == ("standard", 3)
    assert plan.profile.spec == {"default": True, "defaults": {"hyperparameters": {"seed": 7}}}
    origins = {item.path: (item.value, item.origin) for item in plan.fields or ()}
    assert origins["spec.hyperparameters.seed"] == ("7", Origin.PROFILE)
    assert origins["spec.model.source"][1] is Origin.MANIFEST
    assert origins["spec.backoffLimit"] == ("3", Origin.DEFAULT)


def test_then_the_pods_are_made_by_the_snapshot_whatever_becomes_of_the_profile() -> None:
    given = profile(default=True, trainerImage=IMAGE, defaults={"hyperparameters": {"seed": 7}})
    document = remembered(stored(), look(stored(), given))
    for now in ((), (profile(default=True, defaults={"hyperparameters": {"seed": 8}}),)):
        plan, _, job = _made(look(document, *now))
        assert json.loads(plan["data"][PLAN_FILE])["spec"]["hyperparameters"]["seed"] == 7
        assert job["spec"]["template"]["spec"]["containers"][0]["image"] == IMAGE


def _made(decision: Decision) -> tuple[Object, Object | None, Object]:
    kinds = {manifest["kind"]: manifest for manifest in decision.create}
    return kinds["ConfigMap"], kinds.get("Service"), kinds["Job"]


def test_a_job_that_has_begun_without_a_profile_stays_without() -> None:
    decision = look(stored(), profile(default=True, bounds={"models": []}), jobs=[batch_job(Stage.PREPARE)])
    assert status_of(decision).state is State.PREPARING
    assert status_of(decision).plan is None


def test_a_job_outside_the_bounds_is_refused_with_everything_that_is_wrong() -> None:
    bounds = {"models": [{"source": "hf://org/*"}], "limits": {"rank": {"max": 4}}}
    status = status_of(look(stored(deepspeed={"zeroStage": 0}), profile(default=True, bounds=bounds)))
    assert status.state is State.FAILED
    assert status.failure is not None
    assert [line.partition(": ")[0] for line in status.failure.message.splitlines()] == [
        "- spec.model.source",
        "- spec.method.lora.rank",
        "- spec",
    ]
    assert condition(status, ConditionType.VALIDATED)[:2] == ("False", Reason.OUT_OF_BOUNDS)
    assert condition(status, ConditionType.STALLED)[:2] == ("True", Reason.OUT_OF_BOUNDS)


def test_a_refused_job_stays_refused_whatever_becomes_of_the_profile() -> None:
    document = stored(profileRef={"name": "small"})
    failed = remembered(document, look(document, profile("small", bounds={"models": []})))
    for profiles in ((), (profile("small"),)):
        assert status_of(look(failed, *profiles)).to_wire() == failed["status"]


def test_a_suspended_job_is_refused_as_well() -> None:
    status = status_of(look(stored(suspend=True), profile(default=True, bounds={"models": []})))
    assert status.state is State.FAILED


def test_a_missing_profile_is_waited_for() -> None:
    document = stored(profileRef={"name": "big"})
    decision = look(document)
    status = status_of(decision)
    assert decision.requeue_after is not None
    stalled, reason, message = condition(status, ConditionType.STALLED)
    assert (stalled, reason) == ("True", Reason.PROFILE_NOT_FOUND)
    assert message.startswith("there is no FineTuneProfile 'big'. Create it")
    assert condition(status, ConditionType.FAILED)[0] == "False"
    again = look(remembered(document, decision), profile("big"))
    assert condition(status_of(again), ConditionType.STALLED)[0] == "False"
    plan = status_of(again).plan
    assert plan is not None
    assert plan.profile is not None


def test_two_defaults_of_one_namespace_are_ambiguous() -> None:
    status = status_of(look(stored(), profile("a", default=True), profile("b", default=True)))
    assert condition(status, ConditionType.STALLED)[1] is Reason.PROFILES_AMBIGUOUS
    assert "a, b" in condition(status, ConditionType.STALLED)[2]


@pytest.mark.parametrize(("labels", "chosen"), [({"team": "a"}, "own"), ({"team": "b"}, None), ({}, None)], ids=str)
def test_a_default_is_for_the_namespaces_that_it_selects(labels: dict[str, str], chosen: str | None) -> None:
    plan = status_of(look(stored(), profile("own", default=True, **SELECTED), labels=labels)).plan
    assert plan is not None
    assert (plan.profile.name if plan.profile else None) == chosen


def test_a_profile_of_other_namespaces_is_refused() -> None:
    document = stored(profileRef={"name": "own"})
    status = status_of(look(document, profile("own", **SELECTED), labels={"team": "b"}))
    assert status.failure is not None
    assert status.failure.message.startswith("spec.profileRef.name: own: the profile is not for this namespace")
    assert status_of(look(document, profile("own", **SELECTED), labels={"team": "a"})).state is State.PREPARING


@pytest.mark.parametrize(
    ("expression", "labels", "chosen"),
    [
        ({"key": "team", "operator": "In", "values": ["a"]}, {"team": "a"}, True),
        ({"key": "team", "operator": "In", "values": ["a"]}, {}, False),
        ({"key": "team", "operator": "NotIn", "values": ["a"]}, {"team": "a"}, False),
        ({"key": "team", "operator": "NotIn", "values": ["a"]}, {}, True),
        ({"key": "team", "operator": "Exists"}, {"team": "x"}, True),
        ({"key": "team", "operator": "DoesNotExist"}, {"team": "x"}, False),
    ],
)
def test_expressions_of_a_selector(expression: Object, labels: dict[str, str], chosen: bool) -> None:
    given = profile(default=True, namespaceSelector={"matchExpressions": [expression]})
    plan = status_of(look(stored(), given, labels=labels)).plan
    assert plan is not None
    assert bool(plan.profile) is chosen


def test_a_profile_that_cannot_be_read_stalls() -> None:
    status = status_of(look(stored(), profile(default=True, bounds={"models": 3})))
    assert condition(status, ConditionType.STALLED)[1] is Reason.PROFILE_INVALID


def test_epochs_that_come_to_too_many_steps_never_get_a_training_pod() -> None:
    given = profile(default=True, bounds={"limits": {"maxSteps": {"max": 4}}})
    document = remembered(stored(), look(stored(), given))
    ended = batch_job(Stage.PREPARE, ended="Complete")
    outcome = pod(Stage.PREPARE, phase="Succeeded", exit_code=0, outcome=prepare_outcome())
    decision = look(document, jobs=[ended], pods=[outcome])
    assert decision.create == ()
    failure = status_of(decision).failure
    assert failure is not None
    assert failure.message.startswith("spec.hyperparameters.epochs: 5 optimizer steps: at most 4")


@pytest.mark.parametrize("changed", [{"priorityClassName": "system-node-critical"}, {"queueName": "team-b"}])
def test_a_name_that_was_changed_to_one_outside_gets_no_pods(changed: Object) -> None:
    given = profile(default=True, bounds={"queues": ["team-a"], "priorityClasses": ["low"]})
    document = remembered(stored(queueName="team-a"), look(stored(queueName="team-a"), given))
    assert look(document).create
    decision = look(merged(document, {"spec": changed}))
    assert decision.create == ()
    [(field, name)] = changed.items()
    message = condition(status_of(decision), ConditionType.FAILED)[2]
    assert message.startswith(f"spec.{field}: {name}: the profile allows ")


def test_the_fields_tell_of_every_job_what_prepare_found_room_for() -> None:
    ended = batch_job(Stage.PREPARE, ended="Complete")
    outcome = pod(Stage.PREPARE, phase="Succeeded", exit_code=0, outcome=prepare_outcome())
    status = status_of(look(stored(), jobs=[ended], pods=[outcome]))
    assert status.run_id == RUN_ID
    assert status.plan is not None
    assert {item.origin for item in status.plan.fields or ()} == {Origin.MANIFEST, Origin.DEFAULT}


def test_gpus_of_a_profile_are_counted() -> None:
    given = profile(default=True, defaults={"resources": {"gpusPerNode": 4}}, node={"gpus": 4})
    document = remembered(stored(hyperparameters={"globalBatchSize": 8}), look(stored(), given))
    assert facts_of(merged(document, {"spec": {"resources": {"nodes": 2}}})).gpus == 8


PLACED = profile_spec(
    gpu={"type": "NVIDIA-A100", "memory": "40Gi"},
    scheduling={
        "nodeSelector": {"pool": "train"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    },
)


def test_placement_of_gpu_jobs() -> None:
    assert placed(placement_of(PLACED, with_gpus=True), {"zone": "z"}, ["bad-node"]) == {
        "nodeSelector": {"zone": "z", "pool": "train"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {
                            "matchExpressions": [
                                {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-A100"]},
                                {"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": ["40959"]},
                            ],
                            "matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["bad-node"]}],
                        }
                    ]
                }
            }
        },
    }


def test_placement_of_cpu_jobs_and_of_none() -> None:
    assert "affinity" not in placed(placement_of(PLACED, with_gpus=False), None, [])
    assert placed(Placement(), None, []) == {}


def test_the_namespace_of_a_default_destination_is_the_jobs() -> None:
    given = profile(default=True, defaults={"output": {"destination": "s3://out/{namespace}"}})
    document = remembered(stored(output=None), look(stored(output=None), given))
    plan, _, _ = _made(look(document))
    assert json.loads(plan["data"][PLAN_FILE])["spec"]["output"]["destination"] == f"s3://out/{NAMESPACE}"
