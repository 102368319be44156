"""One cluster, store and operator for all cluster tests; a fresh namespace for each."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_sandbox.installation import OperatorProcess
from support.clusters import Cluster
from support.operated import Platform, eventually
from support.tiny_model import write_chat_rows, write_tiny_model

# How long a job waits for a Secret, and for pods of a gang that cannot be placed. Tests make what is missing meanwhile:
# on a busy machine a command of kubectl takes seconds.
GRACES = ["--secret-grace-seconds", "15", "--gang-grace-seconds", "3"]


def _store(cluster: Cluster) -> dict[str, str]:
    """The object store beside the cluster: the sandbox's own, or the one that the environment names."""
    return cluster.sandbox.environment() if cluster.sandbox else dict(os.environ)


@pytest.fixture(scope="session")
def platform(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("platform")
    operator = OperatorProcess.start(cluster.kubeconfig, folder / "operator", GRACES)
    store = _store(cluster)
    prefix = f"tests-{uuid.uuid4().hex[:8]}"
    made = Platform(cluster.kubeconfig, store, store["FINETUNE_SANDBOX_BUCKET"], prefix, operator)
    try:
        made.upload_folder("models/tiny", write_tiny_model(folder / "tiny"))
        made.upload("data/train.jsonl", write_chat_rows(folder / "train.jsonl", 40).read_bytes())
        yield made
    finally:
        operator.stop()


@pytest.fixture
def namespace(platform: Platform) -> Iterator[str]:
    name = platform.new_namespace()
    yield name
    platform.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def garbage_collector(platform: Platform) -> None:
    """Returns when the garbage collector knows the kind.

    It looks for new kinds every 30 s: what belonged to a job that came and went sooner is collected up to a minute
    after the CRD was installed.
    """
    namespace = platform.new_namespace()
    manifest = platform.submit(namespace, "probe", suspend=True)
    uid = platform.job(namespace, "probe")["metadata"]["uid"]
    owner = {key: manifest[key] for key in ("apiVersion", "kind")} | {"name": "probe", "uid": uid}
    labels = {"finetune.dev/job": "probe"}
    metadata = {"name": "probe", "namespace": namespace, "labels": labels, "ownerReferences": [owner]}
    platform.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    platform.kubectl("delete", "ftj", "probe", "-n", namespace)
    eventually(lambda: not platform.children("configmaps", namespace, "probe"), 120)
    platform.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture
def running_operator(platform: Platform) -> Iterator[OperatorProcess]:
    """The operator, for a test that kills it: it runs again afterwards, whatever happened."""
    yield platform.operator
    if platform.operator.process is None:
        platform.operator.launch()


@pytest.fixture
def operator_log(platform: Platform) -> Path:
    return platform.operator.log
