"""Every key that a job writes is below ``<destination>/<namespace>/``: no field leads out of it."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.errors import InvalidSource
from finetune_api.layout import checkpoints_prefix, data_prefix, job_prefix, run_prefix
from finetune_api.uris import parse_data_source, parse_destination, parse_source
from support.builders import digest, manifest
from support.clusters import Cluster

REFUSED = {
    "up and over": "s3://results/team-a/../team-b",
    "up at the end": "s3://results/team-a/..",
    "up at the beginning": "s3://results/../other-bucket",
    "here": "s3://results/./team-b",
    "here at the end": "s3://results/team-a/.",
    "an empty segment": "s3://results/team-a//team-b",
    "an empty segment at the beginning": "s3://results//team-b",
    "two slashes at the end": "s3://results/team-a//",
    "encoded dots": "s3://results/team-a/%2e%2e/team-b",
    "encoded slash": "s3://results/team-a%2f..%2fteam-b",
    "encoded twice": "s3://results/team-a/%252e%252e/team-b",
    "backslashes": r"s3://results/team-a\..\team-b",
}
TAKEN = ("s3://results", "s3://results/team", "s3://results/team/", "s3://results/a..b/.hidden/...x")


def job_manifest(**changes: Any) -> dict[str, Any]:
    return manifest(namespace="default", **changes)


@pytest.mark.parametrize("case", REFUSED)
def test_the_api_server_refuses_it(cluster: Cluster, case: str) -> None:
    manifest = job_manifest(output={"destination": REFUSED[case]})
    refusal = " ".join(cluster.refusal(manifest, "--dry-run=server").split())
    assert "spec.output.destination must not lead elsewhere" in refusal


@pytest.mark.parametrize("destination", TAKEN)
def test_the_api_server_takes_others(cluster: Cluster, destination: str) -> None:
    stored = cluster.apply(job_manifest(output={"destination": destination}), "--dry-run=server")
    assert stored["spec"]["output"]["destination"] == destination


@pytest.mark.parametrize("case", REFUSED)
def test_no_layout_is_made_of_it(case: str) -> None:
    """Whatever let it pass, such as an older schema."""
    with pytest.raises(InvalidSource):
        parse_destination(REFUSED[case])


@pytest.mark.parametrize("destination", TAKEN)
def test_every_prefix_is_below_the_namespace(destination: str) -> None:
    root = f"{destination.rstrip('/')}/team-a/"
    prefixes = (
        job_prefix(destination, "team-a", "job"),
        run_prefix(destination, "team-a", "job", "r-0123456789abcdef0123"),
        checkpoints_prefix(destination, "team-a", "job", "r-0123456789abcdef0123"),
        data_prefix(destination, "team-a", digest("a")),
    )
    assert all(str(prefix).startswith(root) for prefix in prefixes)


@pytest.mark.parametrize(
    "source",
    [
        "job://team-b/job",
        "job://team-b.job",
        "job://../team-b/job",
        "job://job?namespace=team-b",
        "job://team-b%2fjob",
        "job://*",
        "file:///etc/passwd",
    ],
)
def test_a_job_of_another_namespace_cannot_be_named(cluster: Cluster, source: str) -> None:
    refusal = cluster.refusal(job_manifest(model={"source": source}), "--dry-run=server")
    assert "spec.model.source in body should match" in refusal


@pytest.mark.parametrize("scheme", ["s3://bucket", "pvc://claim"])
@pytest.mark.parametrize("path", ["../other", "a/../../other", "a/./b", "a//b", "/a", "..", "a//"])
def test_a_source_that_leaves_its_root_is_not_read(scheme: str, path: str) -> None:
    for parse in (parse_source, parse_data_source):
        with pytest.raises(InvalidSource, match="must not contain"):
            parse(f"{scheme}/{path}")


@pytest.mark.parametrize(
    "name", ["../secret", "team-b/keys", "a b", "keys;x", "Keys", "$(KEYS)"], ids=lambda name: f"named {name}"
)
def test_references_are_plain_names(cluster: Cluster, name: str) -> None:
    access = {"credentialsSecretRef": {"name": name}}
    assert "should match" in cluster.refusal(job_manifest(output={"s3": access}), "--dry-run=server")
    claim = {"source": "hf://org/model", "huggingFace": {"cacheClaim": name}}
    assert "should match" in cluster.refusal(job_manifest(model=claim), "--dry-run=server")


@pytest.mark.parametrize("field", ["namespace", "key"])
def test_references_have_no_namespace(cluster: Cluster, field: str) -> None:
    access = {"credentialsSecretRef": {"name": "keys", field: "team-b"}}
    assert "not declared in schema" in cluster.refusal(job_manifest(output={"s3": access}), "--dry-run=server")


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://user:word@s3.example.com",
        "https://token@s3.example.com",
        "https://s3.example.com?token=word",
        "https://s3.example.com/#word",
        "https://s3.example.com@other.example.com",
    ],
)
def test_endpoints_hold_no_credentials(cluster: Cluster, endpoint: str) -> None:
    for changes in (
        {"output": {"s3": {"endpointURL": endpoint}}},
        {"model": {"source": "hf://org/model", "huggingFace": {"endpointURL": endpoint}}},
        {"dataset": {"train": [{"source": f"{endpoint}/rows.jsonl", "sha256": "0" * 64}]}},
    ):
        refusal = cluster.refusal(job_manifest(**changes), "--dry-run=server")
        assert "should match" in refusal, changes
