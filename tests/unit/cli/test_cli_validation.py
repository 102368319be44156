"""Offline validation: what the API server would refuse is refused, in its words, all at once."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_cli.errors import InvalidManifestError
from finetune_cli.validation import read_job, validate
from support.job_manifests import ACCEPTED, MANIFEST, REFUSED, REFUSED_AS_EFFECTIVE, REMOVED, edited
from support.manifest_corpus import Case, profile_of, read
from support.profiles import profile_spec


def messages(changes: dict[str, Any]) -> list[str]:
    return [str(error) for error in validate(edited(changes)).errors]


def test_the_base_of_these_tests_is_valid() -> None:
    assert messages({}) == []


@pytest.mark.parametrize(("changes", "expected"), [*REFUSED, *REFUSED_AS_EFFECTIVE])
def test_one_mistake_gives_one_message_in_the_words_of_the_api_server(changes: dict[str, Any], expected: str) -> None:
    assert messages(changes) == [expected]


@pytest.mark.parametrize("changes", ACCEPTED)
def test_what_the_api_server_accepts_is_accepted(changes: dict[str, Any]) -> None:
    assert messages(changes) == []


def test_all_mistakes_are_reported_at_once() -> None:
    changes = {
        "metadata/name": "y" * 60,
        "spec/model": REMOVED,
        "spec/typo": 1,
        "spec/deepspeed/zeroStage": 9,
        "spec/hyperparameters": {"epochs": 1, "maxSteps": 1, "seed": "1"},
    }

    found = messages(changes)

    assert [message.partition(": ")[0] for message in found] == [
        'unknown field "spec.typo"',
        "spec.deepspeed.zeroStage",
        "spec.hyperparameters.seed",
        "spec.model",
        "<nil>",
        "spec.hyperparameters",
    ]


def test_a_namespace_must_be_a_dns_label() -> None:
    [message] = messages({"metadata/namespace": "Team_A"})

    assert message.startswith('metadata.namespace: Invalid value: "Team_A": a lowercase RFC 1123 label must consist of')


def test_a_sent_status_must_at_least_have_known_fields() -> None:
    assert messages({"status": {"state": 3, "nonsense": True}}) == ['unknown field "status.nonsense"']


def test_rules_that_read_a_broken_field_stay_silent() -> None:
    found = messages({"spec/deepspeed/microBatchSize": "two", "spec/hyperparameters/globalBatchSize": 7})

    assert found == [
        'spec.deepspeed.microBatchSize: Invalid value: "string": spec.deepspeed.microBatchSize in body must be of type '
        'integer: "string"'
    ]


def test_a_job_is_read_with_the_schemas_defaults() -> None:
    job = read_job(edited({}), "job.yaml")

    assert job.spec.hyperparameters.learning_rate == "2e-4"
    assert job.spec.deepspeed.zero_stage == 2
    assert job.metadata.namespace == "default"


def test_validation_leaves_the_manifest_as_it_was() -> None:
    manifest = edited({})

    validate(manifest)

    assert manifest == MANIFEST


def test_reading_a_bad_job_names_file_job_and_every_mistake() -> None:
    with pytest.raises(InvalidManifestError) as caught:
        read_job(edited({"spec/foo": 1, "spec/deepspeed/zeroStage": 4}), "job.yaml")

    assert str(caught.value) == (
        'job.yaml: FineTuneJob.finetune.dev "tiny" is invalid:\n'
        '* unknown field "spec.foo"\n'
        "* spec.deepspeed.zeroStage: Invalid value: 4: spec.deepspeed.zeroStage in body should be less than or "
        "equal to 3"
    )
    assert caught.value.exit_code == 10


def offline(case: Case) -> list[str]:
    """What the command line says of a manifest of the corpus, under its profile."""
    under = profile_of(case)
    found = validate(case.manifest, profile_spec(**under["spec"]) if under else None)
    return [str(error) for error in found.errors]


def test_the_corpus_is_judged_as_the_api_server_and_the_operator_do() -> None:
    """But for what is known to a cluster alone."""
    bad = [case for case in read("bad.yaml") if case.by in ("schema", "operator") and case.profile != "foreign"]
    assert [case.name for case in bad if not offline(case)] == []
    assert {case.name: said for case in read("good.yaml") if (said := offline(case))} == {}
