"""FineTuneProfiles on a real API server: defaults, bounds, snapshot, selector, and one that comes later."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from support.clusters import Cluster
from support.operated import SECRET, Object, Platform, condition, eventually, finished

TOLERATION = {"key": "training", "operator": "Exists", "effect": "NoSchedule"}
OTHER = json.dumps({"spec": {"profileRef": {"name": "another"}}})
ProfileMaker = Callable[..., str]


@pytest.fixture
def make_profile(platform: Platform) -> Iterator[ProfileMaker]:
    """Creates profiles for one namespace each, and removes them."""
    made: list[str] = []

    def make(namespace: str, name: str = "", **spec: Any) -> str:
        name = name or f"profile-{uuid4().hex[:8]}"
        made.append(name)
        selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
        platform.apply(
            {
                "apiVersion": "finetune.dev/v1alpha1",
                "kind": "FineTuneProfile",
                "metadata": {"name": name},
                "spec": {"namespaceSelector": selector} | spec,
            }
        )
        return name

    yield make
    platform.kubectl("delete", "ftp", "--ignore-not-found", *made)


def ended(platform: Platform, namespace: str, name: str) -> Object:
    """The job once it is Complete or Failed."""

    def look() -> Object | None:
        job = platform.job(namespace, name)
        return job if finished(job) else None

    found = eventually(look, 120)
    assert found
    return dict(found)


def test_a_running_job_keeps_its_profile_and_the_next_one_meets_its_change(
    platform: Platform, namespace: str, make_profile: ProfileMaker
) -> None:
    output = {"destination": platform.uri("artifacts/{namespace}"), "s3": {"credentialsSecretRef": {"name": SECRET}}}
    defaults = {"method": {"lora": {"rank": 2}}, "output": output, "hyperparameters": {"learningRate": "2e-3"}}
    name = make_profile(namespace, default=True, defaults=defaults, scheduling={"tolerations": [TOLERATION]})
    platform.submit(namespace, "first", output=None, method=None, hyperparameters={"learningRate": None})
    platform.wait(namespace, "first", lambda job: "plan" in (job.get("status") or {}))
    bounds = {"models": [], "tunings": ["full"], "limits": {"maxSteps": {"max": 2}}}
    make_profile(namespace, name, default=True, defaults={"method": {"lora": {"rank": 9}}}, bounds=bounds)

    first = ended(platform, namespace, "first")
    assert first["status"]["state"] == "Complete", platform.story(namespace, first)
    plan = first["status"]["plan"]
    assert plan["profile"]["name"] == name
    fields = {item["path"]: (item["value"], item["origin"]) for item in plan["fields"]}
    assert fields["spec.method.lora.rank"] == ("2", "Profile")
    assert fields["spec.hyperparameters.learningRate"] == ("2e-3", "Profile")
    assert fields["spec.hyperparameters.maxSteps"] == ("3", "Manifest")
    assert fields["spec.hyperparameters.seed"] == ("42", "Default")
    assert first["status"]["artifact"]["uri"].startswith(platform.uri(f"artifacts/{namespace}/"))
    assert "output" not in first["spec"]
    [pod] = platform.children("pods", namespace, "first", "train")
    assert TOLERATION in pod["spec"]["tolerations"]

    platform.submit(namespace, "second")
    second = ended(platform, namespace, "second")
    assert condition(second, "Failed")["reason"] == "OutOfBounds"
    told = [line.partition(": ")[0] for line in second["status"]["failure"]["message"].splitlines()]
    assert told == ["- spec.model.source", "- spec.method.tuning", "- spec.hyperparameters.maxSteps"]
    assert platform.children("pods,jobs,configmaps,services", namespace, "second") == []


def test_a_profile_that_comes_later_and_is_for_others(
    platform: Platform, cluster: Cluster, namespace: str, make_profile: ProfileMaker
) -> None:
    name = f"profile-{uuid4().hex[:8]}"
    platform.submit(namespace, "waiting", profileRef={"name": name}, suspend=True)
    stalled = platform.wait(namespace, "waiting", lambda job: condition(job, "Stalled").get("status") == "True")
    assert condition(stalled, "Stalled")["reason"] == "ProfileNotFound"
    assert condition(stalled, "Failed")["status"] == "False"
    refused = cluster.run("patch", "ftj", "waiting", "-n", namespace, "--type=merge", "-p", OTHER)
    assert "spec.profileRef is immutable" in refused.stderr
    make_profile(namespace, name)
    platform.wait(namespace, "waiting", lambda job: condition(job, "Suspended").get("status") == "True")

    others = make_profile("somewhere-else")
    platform.submit(namespace, "stranger", profileRef={"name": others})
    message = ended(platform, namespace, "stranger")["status"]["failure"]["message"]
    assert message.startswith(f"spec.profileRef.name: {others}: the profile is not for this namespace")
