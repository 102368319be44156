"""Artifacts in a real S3-compatible store, with the user's own credentials."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from support.command_line import CommandLine
from support.object_store import ACCESS_KEY, CREDENTIALS, SECRET_KEY, make_bucket, object_store
from support.published import BUCKET, Published, publish


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with object_store(tmp_path_factory.mktemp("store")) as address:
        make_bucket(address, BUCKET)
        yield address


@pytest.fixture(scope="module")
def published(endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """An artifact, copied into the store."""
    made = publish(tmp_path_factory.mktemp("published"))
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )
    bucket = made.root / BUCKET
    for path in (path for path in bucket.rglob("*") if path.is_file()):
        client.put_object(Bucket=BUCKET, Key=path.relative_to(bucket).as_posix(), Body=path.read_bytes())
    return made


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": endpoint}).items():
        monkeypatch.setenv(name, value)


def test_an_artifact_is_verified_and_downloaded(cli: CommandLine, published: Published, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "adapter_model.safetensors.partial").write_bytes(published.files["adapter_model.safetensors"][:4096])

    assert cli("artifacts", "verify", published.job_uri).out.startswith(f"{published.uri} is intact")
    assert cli("artifacts", "download", published.uri, "-o", str(here)).code == 0

    found = {path.relative_to(here).as_posix(): path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert found == published.files | {"manifest.json": published.manifest}


def test_plot_reads_the_store(cli: CommandLine, published: Published) -> None:
    assert "Held-out loss" in cli("plot", published.uri).out


@pytest.mark.parametrize(
    ("changes", "reference", "text"),
    [
        ({}, f"s3://{BUCKET}/team-b/nothing", "nothing is published at"),
        ({}, "s3://no-such-bucket/a", "there is no bucket 'no-such-bucket'"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, f"s3://{BUCKET}/team-a/support-bot", "your credentials may not read"),
        ({"AWS_PROFILE": "no-such"}, f"s3://{BUCKET}/a", "the object store cannot be used: The config profile"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, f"s3://{BUCKET}/a", "http://127.0.0.1:9 does not answer"),
        ({"AWS_ENDPOINT_URL": "not a url"}, f"s3://{BUCKET}/a", "the object store cannot be used: Invalid endpoint"),
    ],
)
def test_a_store_that_cannot_be_read(
    cli: CommandLine,
    published: Published,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    reference: str,
    text: str,
) -> None:
    for name, value in changes.items():
        monkeypatch.setenv(name, value)

    ended = cli("artifacts", "list", reference)

    assert (ended.code, ended.out) == (14, "")
    assert text in ended.err
    assert "Traceback" not in ended.err


def test_without_credentials(cli: CommandLine, published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")

    ended = cli("artifacts", "list", published.uri)

    assert ended.code == 14
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE" in ended.err
