"""A local run against a real S3-compatible store, with credentials of the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest

from support.local_store import JOB, Ended, Store, run_command
from support.object_store import CREDENTIALS, make_bucket, object_store

# Each run starts processes that import torch and DeepSpeed.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def endpoint(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 store whose bucket holds what the folder store's bucket holds."""
    with object_store(tmp_path_factory.mktemp("s3")) as url:
        make_bucket(url, "finetune")
        for file in (path for path in store.bucket.rglob("*") if path.is_file()):
            client(url).upload_file(str(file), "finetune", str(file.relative_to(store.bucket)))
        yield url


def client(endpoint: str) -> Any:
    keys = {name.lower(): value for name, value in CREDENTIALS.items()}
    return boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)


def run(manifest: Path, environment: Mapping[str, str], *options: str) -> Ended:
    """Runs a manifest with the given AWS variables and no others."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return run_command(manifest, *options, environment=inherited | environment)


def test_a_run_on_s3_publishes_there(store: Store, endpoint: str) -> None:
    manifest = store.manifest(resources={"nodes": 1})

    result = run(manifest, CREDENTIALS, "--store", endpoint)

    assert result.code == 0, result.stderr
    prefix = result.status["artifact"]["uri"].removeprefix("s3://finetune/")
    listed = client(endpoint).list_objects_v2(Bucket="finetune", Prefix=f"{prefix}/")["Contents"]
    assert {item["Key"].removeprefix(f"{prefix}/") for item in listed} >= {"manifest.json", "adapter_model.safetensors"}


def test_the_endpoint_may_come_from_the_environment(store: Store, endpoint: str) -> None:
    manifest = store.manifest(dataset={"train": [{"source": "s3://finetune/no-such-rows.jsonl"}]})

    result = run(manifest, CREDENTIALS | {"AWS_ENDPOINT_URL": endpoint})

    assert result.code == 10
    assert "no-such-rows.jsonl" in result.status["failure"]["message"]


def test_the_endpoint_may_come_from_the_manifest(store: Store, endpoint: str) -> None:
    output = JOB["spec"]["output"] | {"s3": {"endpointURL": endpoint}}
    manifest = store.manifest(output=output, dataset={"train": [{"source": "s3://finetune/no-such-rows.jsonl"}]})

    result = run(manifest, CREDENTIALS)

    assert result.code == 10
    assert "no-such-rows.jsonl" in result.status["failure"]["message"]


def test_wrong_credentials_fail_before_training(store: Store, endpoint: str) -> None:
    guess = "not-the-secret-key"
    result = run(store.manifest(), CREDENTIALS | {"AWS_SECRET_ACCESS_KEY": guess}, "--store", endpoint)

    assert result.code == 10
    assert result.condition("Failed")["reason"] == "PrepareFailed"
    assert result.status["attempts"] == []
    assert "wrong credentials" in result.status["failure"]["message"]
    assert guess not in result.stdout + result.stderr


def test_secrets_of_the_manifest_are_named_as_not_read(store: Store, endpoint: str) -> None:
    output = JOB["spec"]["output"] | {"s3": {"credentialsSecretRef": {"name": "s3-credentials"}}}
    manifest = store.manifest(output=output, dataset={"train": [{"source": "s3://finetune/no-such-rows.jsonl"}]})

    result = run(manifest, CREDENTIALS, "--store", endpoint)

    assert "Secrets (s3-credentials) cannot be read without a cluster" in result.stderr
    assert "no-such-rows.jsonl" in result.status["failure"]["message"]
