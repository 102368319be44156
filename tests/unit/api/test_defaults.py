"""Built-in defaults that a job began with: what is kept of them, and how they are laid under what was said."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.defaults import filled, known_to, left_out, remembered_defaults
from finetune_api.effective import built_in, effective_fields, effective_job, given_by, remembered_job
from finetune_api.runid import training_definition
from finetune_api.spec import FineTuneJobSpec
from finetune_api.upstream import Upstream
from support.builders import NAMESPACE, digest, manifest, merged, spec
from support.manifest_corpus import Case, profile_of, read
from support.newer_version import newer_version
from support.profiles import profile_spec

# An effective document, what was said of it, and what is left.
LEFT: list[tuple[Any, Any, Any]] = [
    ({"a": 1}, {}, {"a": 1}),
    ({"a": 1}, {"a": 2}, None),
    ({"a": 1}, {"a": None}, {"a": 1}),
    ({"a": {"b": 1, "c": 2}}, {"a": {"c": 2}}, {"a": {"b": 1}}),
    ({"a": {"b": 1}}, {"a": {"b": 1}}, None),
    ({"a": {}}, {}, None),
    ({"a": [1, 2]}, {"a": [3]}, None),
    ({"a": [{"b": 1, "c": 2}, {"b": 3, "c": 4}]}, {"a": [{"b": 1, "c": 2}, {"b": 3}]}, {"a": [{}, {"c": 4}]}),
    ({"a": [{"b": 1}]}, {"a": [{"b": 1}]}, None),
    ({"a": [1]}, {}, {"a": [1]}),
]


@pytest.mark.parametrize(("effective", "said", "left"), LEFT, ids=str)
def test_what_nobody_said(effective: Any, said: Any, left: Any) -> None:
    assert left_out(effective, said) == left


FILLED: list[tuple[Any, Any, Any]] = [
    ({}, {"a": 1}, {"a": 1}),
    ({"a": 2}, {"a": 1}, {"a": 2}),
    ({"a": None}, {"a": 1}, {"a": 1}),
    ({"a": {"b": 2}}, {"a": {"b": 1, "c": 1}}, {"a": {"b": 2, "c": 1}}),
    ({"a": [{"b": 1}, {"b": 2}]}, {"a": [{}, {"c": 3}]}, {"a": [{"b": 1}, {"b": 2, "c": 3}]}),
    ({"a": [{"b": 1}, {"b": 2}]}, {"a": [{"c": 3}]}, {"a": [{"b": 1, "c": 3}, {"b": 2}]}),
    ({"a": "x"}, {"a": {"b": 1}}, {"a": "x"}),
]


@pytest.mark.parametrize(("document", "defaults", "whole"), FILLED, ids=str)
def test_what_was_said_lies_over_the_defaults(document: Any, defaults: Any, whole: Any) -> None:
    assert filled(document, defaults) == whole


def test_a_field_that_the_version_no_longer_has_is_passed_over() -> None:
    item = {"properties": {"b": {}}}
    schema = {"properties": {"a": {}, "list": {"items": item}, "map": {"additionalProperties": {}}}}
    document = {"a": 1, "gone": 2, "list": [{"b": 1, "gone": 3}], "map": {"x": "y"}}
    assert known_to(schema, document) == {"a": 1, "list": [{"b": 1}], "map": {"x": "y"}}


@pytest.mark.parametrize("status", [None, {}, {"plan": None}, {"plan": {}}, {"plan": {"defaults": "many"}}], ids=str)
def test_a_job_of_an_older_version_remembers_none(status: Any) -> None:
    assert remembered_defaults({"status": status}) == {}


def test_only_what_neither_manifest_nor_profile_says_is_kept() -> None:
    profile = profile_spec(defaults={"hyperparameters": {"seed": 2}, "method": {"lora": {"alpha": 8}}})
    written = spec(method={"lora": {"rank": 4}}, resources={"cpu": 2})
    given = given_by(profile, written, NAMESPACE)
    kept = built_in(written, given, effective_job(manifest(**written), profile).spec)
    assert kept["dataset"]["train"] == [{"format": "chat", "weight": "1"}]
    assert kept["method"]["lora"] == {
        "dropout": "0",
        "targetModules": ["all-linear"],
        "rankStabilized": False,
        "dora": False,
    }
    assert not {"seed", "epochs"} & set(kept["hyperparameters"])
    assert "cpu" not in kept["resources"]
    assert "model" not in kept


def _definition(asked: FineTuneJobSpec) -> dict[str, Any]:
    return training_definition(asked, digest("a"), digest("b"), digest("c"))


@pytest.mark.parametrize("case", read("good.yaml"), ids=lambda case: case.name)
def test_a_job_is_the_same_by_the_defaults_that_it_began_with(case: Case) -> None:
    """Of the same run ID above all: results that are published must be found again."""
    found = profile_of(case)
    profile = profile_spec(**found["spec"]) if found else None
    job = effective_job(case.manifest, profile)
    written, namespace = case.manifest["spec"], case.manifest["metadata"]["namespace"]
    given = given_by(profile, written, namespace)
    kept, definition = built_in(written, given, job.spec), _definition(job.spec)
    with newer_version():
        again = effective_job(case.manifest, profile, kept)
        assert _definition(again.spec) == definition
        assert again.spec.resources.world_size == job.spec.resources.world_size
        assert built_in(written, given, again.spec) == kept, "and what is kept stays the same"


@pytest.mark.parametrize("case", read("good.yaml"), ids=lambda case: case.name)
def test_fields_are_told_in_one_order(case: Case) -> None:
    """Or a plan would change from the first look at a job to the next, and differ from that of a local run."""
    found = profile_of(case)
    profile = profile_spec(**found["spec"]) if found else None
    written, job = case.manifest["spec"], effective_job(case.manifest, profile)
    given = given_by(profile, written, case.manifest["metadata"]["namespace"])
    again = effective_job(case.manifest, profile, built_in(written, given, job.spec))
    first, second = ([field.path for field in effective_fields(written, given, seen.spec)] for seen in (job, again))
    assert first == second


def test_another_version_is_another_run_without_them() -> None:
    definition = _definition(effective_job(manifest(), None).spec)
    with newer_version():
        assert _definition(effective_job(manifest(), None).spec) != definition
    assert _definition(effective_job(manifest(), None).spec) == definition


def test_a_remembered_job_has_the_defaults_that_it_began_with() -> None:
    kept = {"hyperparameters": {"seed": 5}, "gone": 1, "backoffLimit": 9}
    plan = {"attempt": 1, "worldSize": 1, "gradientAccumulationSteps": 8, "defaults": kept}
    job = remembered_job(merged(manifest(backoffLimit=2), {"status": {"plan": plan}}))
    assert (job.spec.hyperparameters.seed, job.spec.backoff_limit) == (5, 2)


@pytest.mark.parametrize(("kind", "kept"), [("model", True), ("adapter", False)])
def test_options_of_an_adapter_are_kept_unless_another_jobs_is_continued(kind: str, kept: bool) -> None:
    written = spec(model={"source": "job://sft"})
    asked = effective_job(manifest(**written), None).spec
    upstream = Upstream(
        job="sft",
        run_id="r-0123456789abcdef0123",
        uri="s3://x/y",
        kind=kind,
        manifest_digest=digest("d"),
        s3=asked.output.s3,
        model=effective_job(manifest(), None).spec.model,
    )
    assert "lora" not in built_in(written, {}, asked)["method"]
    assert ("lora" in built_in(written, {}, asked, upstream)["method"]) is kept
