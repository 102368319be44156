"""Every manifest of the documentation is what the API server takes: whole ones as they stand, parts within a job."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from finetune_api import KIND
from finetune_cli.validation import validate
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


def test_the_api_server_takes_all_of_them(cluster: Cluster) -> None:
    """One request for all, by server-side dry-run, with the kinds that this cluster knows."""
    kinds = {line.split()[-1] for line in cluster.kubectl("api-resources", "--no-headers").splitlines()}
    assert KIND in kinds
    items = [merged(manifest, {"metadata": {"name": f"page-{number}"}}) for number, (_, manifest) in enumerate(jobs())]
    whole = [document for block in BLOCKS for document in documents(block) if is_whole(document)]
    whole += [document for file in EXAMPLES for document in yaml.safe_load_all(file.read_text()) if document]
    items += [document for document in whole if document["kind"] in kinds]
    everything = json.dumps(
        {
            "apiVersion": "v1",
            "kind": "List",
            "items": [merged(item, {"metadata": {"namespace": None}}) for item in items],
        }
    )
    answer = cluster.run(
        "apply", "--server-side", "--dry-run=server", "--validate=strict", "-o", "name", "-f", "-", stdin=everything
    )
    assert answer.returncode == 0, answer.stderr
    assert len(answer.stdout.splitlines()) == len(items)
