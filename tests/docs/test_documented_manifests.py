"""Every manifest of the documentation is what the API server takes: whole ones as they stand, parts within a job."""

from __future__ import annotations

import json
from collections.abc import Iterator
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from finetune_api import KIND
from finetune_cli.validation import validate
from support import gitops_kinds
from support.clusters import PROJECT, Cluster
from support.documents import Block, all_blocks
from support.job_manifests import MANIFEST
from support.operated import merged

Object = dict[str, Any]
BLOCKS = all_blocks("yaml")
EXAMPLES = sorted((PROJECT / "examples").rglob("*.yaml"))


def documents(block: Block) -> list[Object]:
    return [document for document in yaml.safe_load_all(block.text) if document]


def is_whole(document: Object) -> bool:
    return "apiVersion" in document and "kind" in document


def job_with(part: Object) -> Object:
    """A valid job with a part of a spec, or a spec, merged into it."""
    spec = part.get("spec", part)
    return merged(MANIFEST, {"spec": spec})


def jobs() -> list[tuple[str, Object]]:
    """Every FineTuneJob of the pages, whole or made whole, with its place."""
    found = []
    for block in BLOCKS:
        for document in documents(block):
            if not is_whole(document):
                found.append((block.place, job_with(document)))
            elif document["kind"] == KIND:
                found.append((block.place, document))
    return found


@pytest.mark.parametrize(("place", "manifest"), jobs(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_documented_job_is_valid(place: str, manifest: Object) -> None:
    assert [str(error) for error in validate(manifest).errors] == []


def test_there_are_manifests() -> None:
    assert len(jobs()) > 12


def whole_documents() -> list[Object]:
    """Every object of the pages and the examples, of whatever kind."""
    pages = (document for block in BLOCKS for document in documents(block) if is_whole(document))
    files = (document for file in EXAMPLES for document in yaml.safe_load_all(file.read_text()) if document)
    return [*pages, *files]


def group(document: Object) -> str:
    """The API group of an object; empty for Kubernetes' first ones."""
    return str(document["apiVersion"]).rpartition("/")[0]


# Kustomize reads them on the client; Kueue's have webhooks, and tests/cluster/test_kueue.py applies them.
ELSEWHERE = {"kustomize.config.k8s.io", "kueue.x-k8s.io"}


@pytest.fixture(scope="module")
def with_gitops(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, with the kinds of Argo CD and Flux."""
    with gitops_kinds.served(cluster):
        yield cluster


def asked(cluster: Cluster, *items: Object) -> CompletedProcess[str]:
    """Objects for the API server to look at strictly, in one request, in a namespace that exists."""
    placed = [merged(item, {"metadata": {"namespace": None}}) for item in items]
    everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": placed})
    flags = ("--server-side", "--dry-run=server", "--validate=strict", "-o", "name")
    return cluster.run("apply", *flags, "-f", "-", stdin=everything)


def test_the_api_server_takes_all_of_them(with_gitops: Cluster) -> None:
    items = [merged(manifest, {"metadata": {"name": f"page-{number}"}}) for number, (_, manifest) in enumerate(jobs())]
    items += [document for document in whole_documents() if group(document) not in ELSEWHERE]
    answer = asked(with_gitops, *items)
    assert answer.returncode == 0, answer.stderr
    assert len(answer.stdout.splitlines()) == len(items)
    assert {group(item) for item in items} >= gitops_kinds.groups()


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("argocd/application.yaml", {"syncPolicy": {"automated": {"purne": True}}}, "unknown field"),
        ("argocd/application.yaml", {"project": None}, "project"),
        ("flux/kustomization.yaml", {"healthCheckExprs": [{"apiVersion": "v1", "kind": "Pod"}]}, "healthCheckExprs"),
        ("flux/repository.yaml", {"url": "git.example.com/team"}, "spec.url"),
    ],
)
def test_a_mistake_in_an_object_of_argo_cd_or_flux_is_found(
    with_gitops: Cluster, file: str, change: Object, words: str
) -> None:
    document = yaml.safe_load((PROJECT / "examples" / "gitops" / file).read_text())
    answer = asked(with_gitops, merged(document, {"spec": change}))
    assert answer.returncode != 0
    assert words in answer.stderr
