"""What is said offline is what the API server says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_api.effective import broken_rules
from finetune_api.job import FineTuneJob
from support.clusters import Cluster
from support.job_manifests import ACCEPTED, REFUSED, REFUSED_AS_EFFECTIVE, edited


@pytest.mark.parametrize(("changes", "expected"), REFUSED)
def test_the_api_server_refuses_in_the_same_words(cluster: Cluster, changes: dict[str, Any], expected: str) -> None:
    result = cluster.run("create", "--dry-run=server", "-f", "-", stdin=json.dumps(edited(changes)))

    assert result.returncode != 0
    assert expected in result.stderr


@pytest.mark.parametrize(("changes", "expected"), REFUSED_AS_EFFECTIVE)
def test_the_operator_refuses_in_the_same_words(cluster: Cluster, changes: dict[str, Any], expected: str) -> None:
    created = cluster.run("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(edited(changes)))

    found = broken_rules(FineTuneJob.from_manifest(json.loads(created.stdout)).spec)
    assert [words.replace(": ", ": Invalid value: ", 1) for words in found] == [expected]


@pytest.mark.parametrize("changes", ACCEPTED)
def test_the_api_server_accepts_it_too(cluster: Cluster, changes: dict[str, Any]) -> None:
    result = cluster.run("create", "--dry-run=server", "-f", "-", stdin=json.dumps(edited(changes)))

    assert result.returncode == 0, result.stderr
