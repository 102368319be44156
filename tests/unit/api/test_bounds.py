"""Bounds: one case for each way out of them, and that everything wrong is named at once."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.bounds import below, out_of_bounds, too_many_steps, within_deadline
from finetune_api.spec import FineTuneJobSpec
from support.builders import spec
from support.profiles import profile_spec

NAMESPACE = "team-a"
HUB = {"model": {"source": "hf://org/small"}}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def violations(bounds: dict[str, Any], **changes: Any) -> list[str]:
    given = FineTuneJobSpec.model_validate(spec(**changes))
    return [str(item) for item in out_of_bounds(given, profile_spec(bounds=bounds), NAMESPACE)]


# What a profile bounds, a job that stays inside, one that does not, and what is said of that.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    "model": (
        {"models": [{"source": "s3://models/*"}]},
        {},
        {"model": {"source": "s3://other/tiny"}},
        "spec.model.source: s3://other/tiny: the profile allows s3://models/*; name one of these models",
    ),
    "revision": (
        {"models": [{"source": "hf://org/*", "revisions": ["v1", "v2.*"]}]},
        {"model": {"source": "hf://org/small", "revision": "v2.3"}},
        HUB,
        "spec.model.revision: main: the profile asks for v1, v2.*; set spec.model.revision",
    ),
    "pinned revision": (
        {"models": [{"source": "hf://org/*", "pinned": True}]},
        {"model": {"source": "hf://org/small", "revision": COMMIT}},
        {"model": {"source": "hf://org/small", "revision": "v1"}},
        "spec.model.revision: v1: the profile asks for a full commit; set spec.model.revision",
    ),
    "initial adapter": (
        {"models": [{"source": "s3://models/*"}]},
        {"method": {"lora": {"initialAdapter": {"source": "s3://models/adapter"}}}},
        {"method": {"lora": {"initialAdapter": {"source": "s3://elsewhere/adapter"}}}},
        "spec.method.lora.initialAdapter.source: s3://elsewhere/adapter: the profile allows s3://models/*; name one of "
        "these models",
    ),
    "data": (
        {"data": ["s3://data/{namespace}", "s3://public"]},
        {"dataset": {"train": [{"source": "s3://data/team-a/x.jsonl"}, {"source": "s3://public/y"}]}},
        {"dataset": {"train": [{"source": "s3://data/team-b/x.jsonl"}]}},
        "spec.dataset.train[0].source: s3://data/team-b/x.jsonl: the profile allows s3://data/team-a, s3://public; "
        "read data below one of these",
    ),
    "held-out data": (
        {"data": ["s3://data"]},
        {},
        {"dataset": {"validation": {"sources": [{"source": "pvc://claim/x.jsonl"}]}}},
        "spec.dataset.validation.sources[0].source: pvc://claim/x.jsonl: the profile allows s3://data; read data "
        "below one of these",
    ),
    "destination": (
        {"destinations": ["s3://results/team", "s3://results/{namespace}/"]},
        {},
        {"output": {"destination": "s3://results/team-b"}},
        "spec.output.destination: s3://results/team-b: the profile allows s3://results/team, s3://results/team-a/ for "
        "s3://results/team-b/team-a; publish below one of these",
    ),
    "folder of the namespace": (
        {"destinations": ["s3://results/{namespace}"]},
        {"output": {"destination": "s3://results"}},
        {"output": {"destination": "s3://results/team-b/"}},
        "spec.output.destination: s3://results/team-b/: the profile allows s3://results/team-a for "
        "s3://results/team-b/team-a; publish below one of these",
    ),
    "endpoint": (
        {"endpoints": ["https://store.example"]},
        {"output": {"s3": {"endpointURL": "https://store.example/"}}},
        {"output": {"s3": {"endpointURL": "https://elsewhere.example"}}},
        "spec.output.s3.endpointURL: https://elsewhere.example: the profile allows https://store.example; set it to "
        "one of these",
    ),
    "no endpoint": (
        {"endpoints": ["https://store.example"]},
        {"output": {"s3": {"endpointURL": "https://store.example"}}},
        {},
        "spec.output.s3.endpointURL: is not set: the profile allows https://store.example; set it to one of these",
    ),
    "queue": (
        {"queues": ["team-a", "batch-*"]},
        {"queueName": "batch-low"},
        {"queueName": "team-b"},
        "spec.queueName: team-b: the profile allows team-a, batch-*; set it to one of these",
    ),
    "no queue": (
        {"queues": ["team-a"]},
        {"queueName": "team-a"},
        {},
        "spec.queueName: is not set: the profile allows team-a; set it to one of these",
    ),
    "priority": (
        {"priorityClasses": ["low"]},
        {},
        {"priorityClassName": "system-node-critical"},
        "spec.priorityClassName: system-node-critical: the profile allows low; set it to one of these or remove it",
    ),
    "no priority at all": (
        {"priorityClasses": []},
        {},
        {"priorityClassName": "low"},
        "spec.priorityClassName: low: the profile allows none; remove it",
    ),
    "account": (
        {"serviceAccounts": ["trainer-*"]},
        {"output": {"serviceAccountName": "trainer-a"}},
        {"output": {"serviceAccountName": "admin"}},
        "spec.output.serviceAccountName: admin: the profile allows trainer-*; set it to one of these or remove it",
    ),
    "objective": (
        {"objectives": ["sft"]},
        {},
        {"method": {"objective": "dpo"}},
        "spec.method.objective: dpo: the profile allows sft; set it to one of these",
    ),
    "tuning": (
        {"tunings": ["lora", "qlora"]},
        {},
        {"method": {"tuning": "full"}},
        "spec.method.tuning: full: the profile allows lora, qlora; set it to one of these",
    ),
    "deadline": (
        {"limits": {"activeDeadlineSeconds": {"max": 3600}}},
        {"activeDeadlineSeconds": 3600},
        {"activeDeadlineSeconds": 3601},
        "spec.activeDeadlineSeconds: 3601: the profile allows at most 3600; lower it",
    ),
    "no deadline": (
        {"limits": {"activeDeadlineSeconds": {"max": 3600}}},
        {"activeDeadlineSeconds": 60},
        {},
        "spec.activeDeadlineSeconds: is not set: the profile lets a job train for 3600 s; set it to at most 3600",
    ),
    "GPUs of all nodes": (
        {"limits": {"gpus": {"max": 16}}},
        {"resources": {"nodes": 2, "gpusPerNode": 8}},
        {"resources": {"nodes": 3, "gpusPerNode": 8}},
        "spec.resources.nodes times gpusPerNode: 24: the profile allows at most 16; lower it",
    ),
}
# Of each range: the limit, the field, a value inside 2 to 8, one below and one above.
RANGES = {
    "rank": ("method.lora.rank", 8, 1, 9),
    "learningRate": ("hyperparameters.learningRate", "5", "1.99", "8.1"),
    "epochs": ("hyperparameters.epochs", 2, 1, 9),
    "maxSteps": ("hyperparameters.maxSteps", 8, 1, 9),
    "globalBatchSize": ("hyperparameters.globalBatchSize", 8, 1, 16),
    "microBatchSize": ("deepspeed.microBatchSize", 2, 1, 16),
    "maxSequenceLength": ("hyperparameters.maxSequenceLength", 8, None, 16),
    "nodes": ("resources.nodes", 2, 1, 9),
    "gpusPerNode": ("resources.gpusPerNode", 8, 0, 9),
    "cpu": ("resources.cpu", "2000m", "1999m", "9"),
    "memory": ("resources.memory", "4", "1500m", "1Ki"),
}


def _nested(path: str, value: object) -> dict[str, Any]:
    *parents, last = path.split(".")
    document: dict[str, Any] = {last: value}
    for name in reversed(parents):
        document = {name: document}
    return document


@pytest.mark.parametrize("case", CASES)
def test_a_job_inside_the_bounds_passes(case: str) -> None:
    bounds, inside, _, _ = CASES[case]
    assert violations(bounds, **inside) == []


@pytest.mark.parametrize("case", CASES)
def test_a_job_outside_is_told_field_value_bound_and_remedy(case: str) -> None:
    bounds, _, outside, words = CASES[case]
    assert violations(bounds, **outside) == [words]


@pytest.mark.parametrize("limit", RANGES)
def test_ranges(limit: str) -> None:
    path, inside, below_it, above = RANGES[limit]
    decimal = {"min": "2", "max": "8"} if limit in ("learningRate", "cpu", "memory") else {"min": 2, "max": 8}
    bounds = {"limits": {limit: decimal}}
    assert violations(bounds, **_nested(path, inside)) == []
    assert violations(bounds, **_nested(path, above)) == [
        f"spec.{path}: {above}: the profile allows at most 8; lower it"
    ]
    if below_it is not None:
        assert violations(bounds, **_nested(path, below_it)) == [
            f"spec.{path}: {below_it}: the profile asks for at least 2; raise it"
        ]


def test_a_field_that_plays_no_part_is_not_bounded() -> None:
    bounds = {"limits": {"rank": {"max": 1}, "epochs": {"max": 1}, "maxSteps": {"max": 5}}}
    assert violations(bounds, method={"tuning": "full"}, hyperparameters={"maxSteps": 5}) == []


def test_the_default_counts_where_nothing_is_written() -> None:
    assert violations({"limits": {"rank": {"max": 8}}}) == [
        "spec.method.lora.rank: 16: the profile allows at most 8; lower it"
    ]


def test_a_job_of_another_job_passes_by_that_ones_bounds() -> None:
    assert violations({"models": [{"source": "hf://org/*"}]}, model={"source": "job://first"}) == []


def test_nothing_is_bounded_without_bounds() -> None:
    given = FineTuneJobSpec.model_validate(spec(resources={"nodes": 999}))
    assert out_of_bounds(given, profile_spec(), NAMESPACE) == ()


def test_what_no_node_can_hold_and_a_selector_against_the_profile() -> None:
    given = FineTuneJobSpec.model_validate(
        spec(resources={"cpu": "9", "memory": "2Gi", "gpusPerNode": 4, "nodeSelector": {"pool": "b", "zone": "z"}})
    )
    shape = {"cpu": "8", "memory": "1Gi", "gpus": 2}
    held = profile_spec(node=shape, scheduling={"nodeSelector": {"pool": "a"}})
    assert [str(item) for item in out_of_bounds(given, held, NAMESPACE)] == [
        "spec.resources.cpu: 9: a node of the profile has 8; lower it",
        "spec.resources.memory: 2Gi: a node of the profile has 1Gi; lower it",
        "spec.resources.gpusPerNode: 4: a node of the profile has 2; lower it",
        "spec.resources.nodeSelector[pool]: b: the profile places pods on nodes with a; remove it",
    ]


def test_every_violation_is_named_at_once() -> None:
    bounds = {
        "models": [],
        "data": [],
        "destinations": [],
        "objectives": ["dpo"],
        "tunings": ["full"],
        "limits": {"rank": {"max": 1}, "nodes": {"max": 1}},
    }
    found = violations(bounds, resources={"nodes": 2})
    assert [text.partition(": ")[0] for text in found] == [
        "spec.model.source",
        "spec.dataset.train[0].source",
        "spec.output.destination",
        "spec.method.objective",
        "spec.method.tuning",
        "spec.method.lora.rank",
        "spec.resources.nodes",
    ]


@pytest.mark.parametrize(
    ("uri", "prefix", "inside"),
    [
        ("s3://b/team", "s3://b/team", True),
        ("s3://b/team/x", "s3://b/team", True),
        ("s3://b/team/x", "s3://b/team/", True),
        ("s3://b/team-2/x", "s3://b/team", False),
        ("s3://b/team/../other", "s3://b/team", False),
        ("s3://b-2/x", "s3://b", False),
        ("hf://org/name", "hf://", True),
        ("pvc://claim/x", "s3://", False),
    ],
)
def test_prefixes_end_at_a_segment(uri: str, prefix: str, inside: bool) -> None:
    assert below(uri, prefix) is inside


def test_epochs_that_come_to_too_many_steps() -> None:
    bounded = profile_spec(bounds={"limits": {"maxSteps": {"max": 100}}})
    assert too_many_steps(bounded, 100) is None
    assert too_many_steps(profile_spec(), 10**6) is None
    assert str(too_many_steps(bounded, 101)) == (
        "spec.hyperparameters.epochs: 101 optimizer steps: at most 100; set spec.hyperparameters.maxSteps to at most "
        "100, or fewer epochs"
    )


@pytest.mark.parametrize(("seconds", "counts"), [(None, 60), (30, 30), (60, 60), (61, 60)])
def test_a_deadline_that_was_raised_later(seconds: int | None, counts: int) -> None:
    bounded = profile_spec(bounds={"limits": {"activeDeadlineSeconds": {"max": 60}}})
    given = FineTuneJobSpec.model_validate(spec(**({"activeDeadlineSeconds": seconds} if seconds else {})))
    assert within_deadline(given, bounded).active_deadline_seconds == counts
    assert within_deadline(given, profile_spec()).active_deadline_seconds == seconds
