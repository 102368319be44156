"""Manifests are read as kubectl reads them."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_cli.errors import InvalidManifestError, UsageError
from finetune_cli.manifests import as_yaml, load_documents, select_jobs

JOB = "apiVersion: finetune.dev/v1alpha1\nkind: FineTuneJob\nmetadata: {name: a}\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 0.0002),
        ("1e3", 1000),
        ("3.0", 3),
        (".5", 0.5),
        ("-7", -7),
        ("1_000", 1000),
        ("017", 15),
        ("0o17", 15),
        ("0x1F", 31),
        ("1:30", "1:30"),
        ("2024-01-02", "2024-01-02"),
        ("1.2.3", "1.2.3"),
        ("yes", True),
        ("y", True),
        ("off", False),
        ("'yes'", "yes"),
        ("'0.1'", "0.1"),
        ("null", None),
        ("~", None),
        ("", None),
        ("nullable", "nullable"),
        ("s3://bucket/key", "s3://bucket/key"),
    ],
)
def test_scalars_have_the_types_that_kubectl_gives_them(text: str, value: Any) -> None:
    [document] = load_documents(f"field: {text}\n")

    assert document == {"field": value}
    assert type(document["field"]) is type(value)


def test_keys_become_text_as_in_json() -> None:
    assert load_documents("1: a\ntrue: b\n0x1F: c\n") == [{"1": "a", "true": "b", "31": "c"}]


def test_merge_keys_are_followed() -> None:
    [document] = load_documents("base: &b {x: 1}\nchild: {<<: *b, z: 2}\n")

    assert document["child"] == {"x": 1, "z": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 'not readable as YAML: line 3: key "a" already set in map'),
        ("a: [1\n", "not readable as YAML: line 2: expected ',' or ']', but got '<stream end>'"),
        ("a: !!python/object/apply:os.system [ls]\n", "line 1: could not determine a constructor for the tag"),
        ("a: &a [*a]\n", "nested too deep, or an alias contains itself"),
    ],
)
def test_unreadable_yaml_is_a_usage_error_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_documents(text)

    assert message in str(caught.value)


def test_aliases_cannot_fill_the_memory() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
    )

    with pytest.raises(UsageError, match="more than 100000 values"):
        load_documents(bomb)


def test_other_resources_are_left_out_with_a_note() -> None:
    found = select_jobs(load_documents(f"{JOB}---\napiVersion: v1\nkind: Secret\n---\n{JOB}---\n"))

    assert len(found.jobs) == 2
    assert found.notes == ("document 2 (v1 Secret) is not a FineTuneJob and was left out",)


def test_a_list_is_read_as_its_items() -> None:
    found = select_jobs([{"apiVersion": "v1", "kind": "List", "items": load_documents(JOB)}])

    assert [job["metadata"]["name"] for job in found.jobs] == ["a"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            JOB.replace("v1alpha1", "v1"),
            '* apiVersion: Invalid value: "finetune.dev/v1": must be finetune.dev/v1alpha1',
        ),
        (JOB.replace("FineTuneJob", "FinetuneJob"), '* kind: Invalid value: "FinetuneJob": must be FineTuneJob'),
        (
            JOB.replace("apiVersion: finetune.dev/v1alpha1\n", ""),
            "* apiVersion: Invalid value: null: must be finetune.dev/v1alpha1",
        ),
    ],
)
def test_another_version_or_kind_is_named(text: str, error: str) -> None:
    with pytest.raises(InvalidManifestError) as caught:
        select_jobs(load_documents(text))

    assert str(caught.value).splitlines() == ["document 1 is no finetune.dev/v1alpha1 FineTuneJob", error]


@pytest.mark.parametrize("text", ["", "---\n", "apiVersion: v1\nkind: Pod\n", "just text", "- 1\n"])
def test_a_file_without_a_job_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        select_jobs(load_documents(text))


@pytest.mark.parametrize(
    "value", ["2e-4", "0.1", "yes", "1:30", "2024-01-02", "null", "", "017", "text", True, 3, None]
)
def test_what_is_written_is_read_back_as_it_was(value: Any) -> None:
    document = {"field": value, "list": [value, value]}

    assert load_documents(as_yaml(document)) == [document]


def test_text_that_kubectl_would_take_for_a_number_is_quoted() -> None:
    assert as_yaml({"learningRate": "2e-4"}) == "learningRate: '2e-4'\n"
