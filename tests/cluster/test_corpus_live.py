"""Every manifest of the bad corpus that the API server takes, before an operator with its own defaults.

Shown by ``pytest -s tests/cluster/test_corpus_live.py``: how long each took.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from kubernetes import client, config

from finetune_api import GROUP, PLURAL, VERSION
from support.builders import NAMESPACE
from support.manifest_corpus import FOLDER, Case, read
from support.operated import Object, Platform, condition, eventually, is_true

CASES = {f"bad-{index}": case for index, case in enumerate(read("bad.yaml")) if case.by != "schema"}
# Somebody has to make or to mend something else than the job.
MISSING = {"SecretNotFound", "ClaimNotFound", "ProfileNotFound", "JobNotFound"}


def answer(job: Object) -> str:
    """What stops a job, with the remedy; empty while nothing is told."""
    if is_true(job, "Failed"):
        return str(condition(job, "Failed")["message"])
    prepared = condition(job, "Prepared")
    return str(prepared["message"]) if prepared.get("reason") in MISSING else ""


@pytest.fixture(scope="module")
def as_installed(platform: Platform) -> Iterator[None]:
    """The operator with the settings that it has where nobody sets any."""
    operator = platform.operator
    assert operator
    usual = operator.options
    operator.stop()
    operator.options = ()
    operator.launch()
    yield
    operator.stop()
    operator.options = usual
    operator.launch()


@pytest.fixture(scope="module")
def team(platform: Platform) -> Iterator[str]:
    """A namespace with the profiles of the corpus, which are for it alone."""
    name = platform.new_namespace()
    platform.kubectl("label", "namespace", name, "corpus=live")
    known = yaml.safe_load(FOLDER.joinpath("profiles.yaml").read_text().replace("{namespace}", NAMESPACE))
    for profile, spec in known.items():
        # Of the defaults nobody asks: none may meet the jobs that name no profile.
        chosen = {"namespaceSelector": {"matchLabels": {"corpus": "elsewhere" if profile == "foreign" else "live"}}}
        platform.apply(_object("FineTuneProfile", {"name": profile}, spec | chosen | {"default": False}))
    yield name
    platform.kubectl("delete", "ftp", *known)
    platform.kubectl("delete", "namespace", name, "--wait=false")


def _object(kind: str, metadata: Object, spec: Object) -> Object:
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": kind, "metadata": metadata, "spec": spec}


def _submitted(objects: Any, case: Case, namespace: str, name: str) -> float:
    """Creates one job and returns when that was, in seconds of the monotonic clock."""
    metadata = {key: value for key, value in case.manifest["metadata"].items() if key in ("labels", "annotations")}
    document = _object("FineTuneJob", metadata | {"name": name}, case.manifest["spec"])
    began = time.monotonic()
    objects.create_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, document)
    return began


@pytest.mark.usefixtures("as_installed")
def test_each_is_answered_with_a_remedy_and_none_gets_a_training_pod(platform: Platform, team: str) -> None:
    objects = client.CustomObjectsApi(config.new_client_from_config(str(platform.kubeconfig)))
    began = {name: _submitted(objects, case, team, name) for name, case in CASES.items()}
    took: dict[str, float] = {}
    told: dict[str, str] = {}

    def look() -> bool:
        for job in json.loads(platform.kubectl("get", "ftj", "-n", team, "-o", "json"))["items"]:
            name = job["metadata"]["name"]
            if name not in told and (words := answer(job)):
                told[name], took[name] = words, time.monotonic() - began[name]
        return len(told) == len(CASES)

    eventually(look, 120, lambda: f"no answer to {[CASES[name].name for name in CASES.keys() - told.keys()]}")
    slowest = sorted(took, key=took.__getitem__)[-8:]
    print(f"\n{len(told)} manifests at once, answered within {max(took.values()):.1f} s; the slowest:")
    print("\n".join(f"{took[name]:5.1f} s  {CASES[name].by:8}  {CASES[name].name}: {told[name]}" for name in slowest))
    assert _training_jobs(platform, team) == []


def _training_jobs(platform: Platform, namespace: str) -> list[str]:
    jobs = platform.kubectl("get", "jobs", "-n", namespace, "-l", "finetune.dev/stage=train", "-o", "name")
    return jobs.split()
