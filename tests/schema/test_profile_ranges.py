"""Profiles that no job could meet are refused when they are written, by the API server and by the command line."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_cli.errors import InvalidManifestError
from finetune_cli.validation import read_profile
from support.clusters import Cluster
from support.profiles import profile

ORDER = "min is above max, which no job can meet"
VALUES = "In and NotIn need values, Exists and DoesNotExist take none"


def limits(**ranges: Any) -> dict[str, Any]:
    return {"bounds": {"limits": ranges}}


def selector(**requirement: Any) -> dict[str, Any]:
    return {"namespaceSelector": {"matchExpressions": [{"key": "team", **requirement}]}}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "whole numbers the wrong way round": (limits(nodes={"min": 4, "max": 2}), ORDER),
    "decimals the wrong way round": (limits(learningRate={"min": "1e-3", "max": "0.0001"}), ORDER),
    "decimals without quotes": (limits(learningRate={"max": 0.001}), "spec.bounds.limits.learningRate.max"),
    "in no value": (selector(operator="In"), VALUES),
    "in an empty list": (selector(operator="NotIn", values=[]), VALUES),
    "there with a value": (selector(operator="Exists", values=["a"]), VALUES),
    "image by tag": ({"trainerImage": "registry.example/trainer:latest"}, "spec.trainerImage"),
    "prefix of another scheme": ({"bounds": {"data": ["gs://bucket"]}}, "spec.bounds.data"),
}
TAKEN: dict[str, dict[str, Any]] = {
    "one value": limits(nodes={"min": 2, "max": 2}, learningRate={"min": "0.001", "max": "1e-3"}),
    "one end": limits(epochs={"max": 3}, maxSteps={"min": 10}),
    "nothing allowed": {"bounds": {"objectives": [], "queues": []}},
    "selectors": selector(operator="In", values=["a"]),
    "there or not": selector(operator="DoesNotExist"),
    "the namespace": {"defaults": {"output": {"destination": "s3://models/{namespace}"}}},
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused(cluster: Cluster, case: str) -> None:
    spec, said = REFUSED[case]
    document = profile("ranges", **spec)
    assert said in " ".join(cluster.refusal(document, "--dry-run=server").split())
    with pytest.raises(InvalidManifestError) as offline:
        read_profile(document, "profile.yaml")
    assert said in str(offline.value)


@pytest.mark.parametrize("case", TAKEN)
def test_it_is_taken(cluster: Cluster, case: str) -> None:
    document = profile("ranges", **TAKEN[case])
    cluster.apply(document, "--dry-run=server")
    assert read_profile(document, "profile.yaml").spec
