"""The corpus of manifests against the real API server, and with the operator's judgement the counts of both.

Shown by ``pytest -s tests/schema/test_corpus.py``.
"""

from __future__ import annotations

from collections import Counter

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from finetune_api import GROUP, PLURAL, VERSION
from support.clusters import Cluster
from support.manifest_corpus import Case, judged, read


@pytest.fixture(scope="module")
def objects(cluster: Cluster) -> client.CustomObjectsApi:
    """One connection for some 270 questions."""
    return client.CustomObjectsApi(config.new_client_from_config(str(cluster.kubeconfig)))


def _taken(objects: client.CustomObjectsApi, case: Case) -> bool:
    """Whether the API server takes a manifest, as kubectl asks it to look: strictly."""
    document = case.manifest | {"metadata": case.manifest["metadata"] | {"namespace": "default"}}
    try:
        objects.create_namespaced_custom_object(
            GROUP, VERSION, "default", PLURAL, document, dry_run="All", field_validation="Strict"
        )
    except ApiException as error:
        if error.status not in (400, 422):
            raise
        return False
    return True


def test_the_bad_are_refused_before_a_training_pod_and_the_good_are_not(objects: client.CustomObjectsApi) -> None:
    bad, good = read("bad.yaml"), read("good.yaml")
    refused = {case.name: "schema" if not _taken(objects, case) else judged(case) or "prepare" for case in bad}
    stopped = [case.name for case in good if not _taken(objects, case) or judged(case)]

    counts = Counter(refused.values())
    at_once = len(bad) - counts["prepare"]
    print(f"\nbad: {len(bad)}, refused before any pod: {at_once} ({dict(counts)})")
    print(f"good: {len(good)}, refused: {len(stopped)}")
    assert refused == {case.name: case.by for case in bad}
    assert at_once >= 0.9 * len(bad)
    assert stopped == []
