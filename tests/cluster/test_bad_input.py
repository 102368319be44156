"""Bad input that the schema cannot see: each ends before a training pod exists, in a condition with a remedy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from support.operated import SECRET, Object, Platform, condition, is_true

GOOD = {"messages": [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A test."}]}
NO_ANSWER = {"messages": [{"role": "user", "content": "Is anybody there?"}]}


def jsonl(*rows: object) -> bytes:
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows).encode()


def dataset(platform: Platform, name: str, content: bytes) -> Object:
    return {"train": [{"source": platform.upload(f"bad/{name}.jsonl", content)}], "validation": None}


@dataclass(frozen=True)
class Case:
    """One kind of bad input.

    Attributes:
        spec: what is wrong with the manifest, made where it needs something in the store.
        failure: class of the failure.
        message: all of it; {folder}, {endpoint} and {namespace} stand for the test's own.
    """

    spec: Callable[[Platform], Object]
    failure: str
    message: str


def _secret(name: str) -> Object:
    return {"s3": {"credentialsSecretRef": {"name": name}}}


CASES: dict[str, Case] = {
    "broken JSON on line 17": Case(
        lambda platform: {"dataset": dataset(platform, "broken", jsonl(*[GOOD] * 16, '{"messages": [', GOOD))},
        "DataError",
        "1 of 18 rows cannot be used:\n{folder}/bad/broken.jsonl:17: not valid JSON: Expecting value at column 15",
    ),
    "a row without an assistant turn": Case(
        lambda platform: {"dataset": dataset(platform, "silent", jsonl(GOOD, NO_ANSWER))},
        "DataError",
        "1 of 2 rows cannot be used:\n{folder}/bad/silent.jsonl:2: no assistant turn",
    ),
    "an empty dataset": Case(
        lambda platform: {"dataset": dataset(platform, "empty", b"")},
        "DataError",
        "the dataset of spec.dataset.train is empty: {folder}/bad/empty.jsonl has no rows",
    ),
    "a held-out fraction that leaves nothing": Case(
        lambda platform: {"dataset": dataset(platform, "one", jsonl(GOOD)) | {"validation": {"fraction": "0.01"}}},
        "UserError",
        "spec.dataset.validation.fraction '0.01' of 1 rows leaves nothing to hold out",
    ),
    "a file that does not exist": Case(
        lambda platform: {"dataset": {"train": [{"source": platform.uri("data/nowhere.jsonl")}]}},
        "UserError",
        "{folder}/data/nowhere.jsonl of spec.dataset.train[0].source does not exist: there is no such file, and no "
        ".jsonl or .parquet file below it",
    ),
    "a model that is no model": Case(
        lambda platform: {"model": {"source": platform.uri("data")}},
        "UserError",
        "{folder}/data of spec.model.source is no model: it has no config.json",
    ),
    "a bucket that does not exist": Case(
        lambda platform: {"output": {"destination": "s3://no-such-bucket-here/artifacts"}},
        "UserError",
        "the bucket 'no-such-bucket-here' of spec.output.destination does not exist at {endpoint}",
    ),
    "wrong credentials": Case(
        lambda platform: {"output": _secret("wrong")},
        "UserError",
        "wrong credentials for spec.output.destination: the secret key does not belong to the access key "
        "(SignatureDoesNotMatch)",
    ),
    "a Secret that does not exist": Case(
        lambda platform: {"output": _secret("nowhere")},
        "SecretMissing",
        'secret "nowhere" not found in namespace {namespace}',
    ),
    "a row that is too long": Case(
        lambda platform: {"dataset": dataset(platform, "long", jsonl(GOOD, _long())) | {"tooLong": "Refuse"}},
        "DataError",
        "1 of 2 rows cannot be used:\n"
        "{folder}/bad/long.jsonl:2: 8028 tokens, more than spec.hyperparameters.maxSequenceLength 128",
    ),
}


def _long() -> Object:
    return {"messages": [GOOD["messages"][0], {"role": "assistant", "content": "very " * 2000 + "long"}]}


@pytest.fixture(scope="module")
def ended(platform: Platform) -> Iterator[Callable[[str], tuple[str, Object]]]:
    """All the jobs, submitted at once: the operator has to live through them together."""
    namespace = platform.new_namespace()
    _wrong_secret(platform, namespace)
    names = {case: f"bad-{index}" for index, case in enumerate(CASES)}
    for case, name in names.items():
        platform.submit(namespace, name, **CASES[case].spec(platform))
    yield lambda case: (namespace, platform.wait_finished(namespace, names[case]))
    platform.kubectl("delete", "namespace", namespace, "--wait=false")


def _wrong_secret(platform: Platform, namespace: str) -> None:
    data = {key: platform.store[key] for key in ("AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL", "AWS_REGION")}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "wrong", "namespace": namespace},
        "stringData": data | {"AWS_SECRET_ACCESS_KEY": "not-the-key"},
    }
    platform.kubectl("create", "-f", "-", stdin=yaml.safe_dump(secret))


@pytest.mark.parametrize("case", CASES)
def test_it_fails_before_a_training_pod_exists(
    platform: Platform, ended: Callable[[str], tuple[str, Object]], case: str
) -> None:
    namespace, job = ended(case)
    expected = CASES[case]
    assert is_true(job, "Failed"), platform.story(namespace, job)
    failure = job["status"]["failure"]
    assert failure["class"] == expected.failure, failure
    said = {"folder": platform.uri(""), "endpoint": platform.store["AWS_ENDPOINT_URL"], "namespace": namespace}
    assert failure["message"] == expected.message.format_map(said | {"folder": said["folder"].rstrip("/")})
    assert failure["remedy"]
    assert condition(job, "Failed")["message"].startswith(f"{failure['message']}. ")
    assert failure["remedy"].rstrip(".")[1:] in condition(job, "Failed")["message"]
    assert condition(job, "Prepared")["status"] == "False"
    assert platform.children("jobs", namespace, job["metadata"]["name"], "train") == []
    assert not job["status"].get("attempts")


def test_the_operator_lived_through_all_of_it(platform: Platform, ended: Callable[[str], tuple[str, Object]]) -> None:
    process: Any = platform.operator.process
    for case in CASES:
        ended(case)
    assert process.poll() is None
    assert "Traceback" not in platform.operator.log.read_text()


def test_a_row_that_is_too_long_is_cut_and_counted(platform: Platform, namespace: str) -> None:
    data = dataset(platform, "cut", jsonl(*[GOOD] * 7, _long()))
    platform.submit(namespace, "cut", dataset=data)
    job = platform.wait_finished(namespace, "cut")
    assert is_true(job, "Complete"), platform.story(namespace, job)
    assert job["status"]["plan"]["train"]["truncated"] == 1
    prepare = next(stage for stage in job["status"]["stages"] if stage["name"] == "prepare")
    assert "1 truncated" in prepare["message"]


def test_a_secret_that_comes_a_moment_later_is_waited_for(platform: Platform, namespace: str) -> None:
    platform.submit(namespace, "patient", output=_secret("late"))
    platform.wait(namespace, "patient", lambda job: condition(job, "Prepared").get("reason") == "SecretNotFound")
    secret = json.loads(platform.kubectl("get", "secret", SECRET, "-n", namespace, "-o", "json"))
    secret["metadata"] = {"name": "late", "namespace": namespace}
    platform.kubectl("create", "-f", "-", stdin=json.dumps(secret))
    job = platform.wait(namespace, "patient", lambda job: is_true(job, "Prepared"))
    assert job["status"]["runID"]
