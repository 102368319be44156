"""What Argo CD and Flux make of a job in each of its states, by the code that they run."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import celpy
import pytest
import yaml

from finetune_api.conditions import Phase, conditions
from finetune_api.status import Reason, State
from support.go_programs import build

PROJECT = Path(__file__).parents[2]
HEALTH = PROJECT / "examples" / "gitops" / "argocd" / "health.lua"
NOW = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)

# State, reason, message; what Argo CD shows; what kstatus computes.
Verdict = tuple[str, str, str]
CASES: list[tuple[Phase, Verdict]] = [
    (Phase(State.PENDING, Reason.PENDING, "queued"), ("Progressing", "Pending: queued", "InProgress")),
    (
        Phase(State.PREPARING, Reason.PREPARING, "reading rows"),
        ("Progressing", "Preparing: reading rows", "InProgress"),
    ),
    (
        Phase(State.PREPARING, Reason.SECRET_NOT_FOUND, "Secret storage is missing"),
        ("Progressing", "Preparing: Secret storage is missing", "InProgress"),
    ),
    (
        Phase(State.QUEUED, Reason.QUEUED, "waits in queue team", prepared=True),
        ("Progressing", "Queued: waits in queue team", "InProgress"),
    ),
    (
        Phase(State.STARTING, Reason.PODS_PENDING, "0 of 2 pods run", prepared=True),
        ("Progressing", "Starting: 0 of 2 pods run", "InProgress"),
    ),
    (
        Phase(State.STARTING, Reason.RETRYING, "a pod was deleted", prepared=True),
        ("Progressing", "Starting: a pod was deleted", "InProgress"),
    ),
    (Phase(State.TRAINING, Reason.TRAINING, "", prepared=True), ("Progressing", "Training", "Current")),
    (Phase(State.EVALUATING, Reason.TRAINING, "", prepared=True), ("Progressing", "Evaluating", "Current")),
    (Phase(State.PUBLISHING, Reason.TRAINING, "", prepared=True), ("Progressing", "Publishing", "Current")),
    (
        Phase(State.SUSPENDED, Reason.SUSPENDED, "pods are ending", settling=True),
        ("Progressing", "Suspended: pods are ending", "InProgress"),
    ),
    (
        Phase(State.SUSPENDED, Reason.SUSPENDED, "spec.suspend is true"),
        ("Suspended", "spec.suspend is true", "Current"),
    ),
    (Phase(State.COMPLETE, Reason.PUBLISHED, "published", prepared=True), ("Healthy", "published", "Current")),
    (Phase(State.COMPLETE, Reason.ADOPTED, "was published", prepared=True), ("Healthy", "was published", "Current")),
    (
        Phase(State.PENDING, Reason.JOB_FAILED, "the job it needs has failed"),
        ("Degraded", "the job it needs has failed", "Failed"),
    ),
    (
        Phase(State.PENDING, Reason.PROFILE_NOT_FOUND, "there is no profile"),
        ("Degraded", "there is no profile", "Failed"),
    ),
    (
        Phase(State.FAILED, Reason.RUN_FAILED, "loss is NaN; lower it", prepared=True),
        ("Degraded", "loss is NaN; lower it", "Failed"),
    ),
    (
        Phase(State.FAILED, Reason.PREPARE_FAILED, "line 17 is no JSON"),
        ("Degraded", "line 17 is no JSON", "Failed"),
    ),
]


def manifest(phase: Phase, generation: int = 3, observed: int = 3, **status: Any) -> dict[str, Any]:
    found = [entry.to_wire() for entry in conditions(phase, (), observed, NOW)]
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "tuned", "namespace": "team", "generation": generation},
        "spec": {"suspend": phase.state is State.SUSPENDED},
        "status": {"observedGeneration": observed, "state": phase.state.value, "conditions": found, **status},
    }


@pytest.fixture(scope="module")
def program() -> Path:
    return build(Path(__file__).parent / "assess")


def assess(program: Path, *manifests: dict[str, Any]) -> list[Verdict]:
    lines = "".join(json.dumps(document) + "\n" for document in manifests)
    done = subprocess.run([program, HEALTH], input=lines, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    return [(verdict["argo"], verdict["argoMessage"], verdict["kstatus"]) for verdict in verdicts]


def test_every_state_is_in_the_table() -> None:
    assert {phase.state for phase, _ in CASES} == set(State)


@pytest.mark.parametrize(("phase", "expected"), CASES, ids=lambda value: getattr(value, "reason", None))
def test_states(program: Path, phase: Phase, expected: Verdict) -> None:
    assert assess(program, manifest(phase)) == [expected]


def test_progress_is_shown_while_training(program: Path) -> None:
    progress = {"step": 12, "totalSteps": 40, "percent": 30}
    training = manifest(Phase(State.TRAINING, Reason.TRAINING, "", prepared=True), progress=progress)
    assert assess(program, training) == [("Progressing", "Training: step 12 of 40", "Current")]


def test_a_job_that_nobody_has_seen_is_in_progress(program: Path) -> None:
    new = manifest(CASES[0][0])
    del new["status"]
    argo, message, _ = assess(program, new)[0]
    assert (argo, message) == ("Progressing", "Waiting for the operator")


def test_a_status_of_an_older_manifest_counts_only_when_it_is_final(program: Path) -> None:
    suspended, complete, failed = (
        manifest(Phase(state, Reason.SUSPENDED, "then"), generation=4, observed=3)
        for state in (State.SUSPENDED, State.COMPLETE, State.FAILED)
    )
    assert assess(program, suspended, complete, failed) == [
        ("Progressing", "Waiting for the operator to see the newest manifest", "InProgress"),
        ("Healthy", "then", "InProgress"),
        ("Degraded", "then", "InProgress"),
    ]


def test_a_deleted_job_is_terminating(program: Path) -> None:
    deleted = manifest(Phase(State.TRAINING, Reason.TRAINING, "", prepared=True))
    deleted["metadata"] |= {"deletionTimestamp": "2026-11-22T09:31:00Z"}
    assert assess(program, deleted)[0][2] == "Terminating"


def test_argo_cds_configuration_holds_the_same_script() -> None:
    configuration = yaml.safe_load((HEALTH.parent / "argocd-cm.yaml").read_text())
    assert configuration["data"]["resource.customizations.health.finetune.dev_FineTuneJob"] == HEALTH.read_text()


def evaluate(expression: str, job: dict[str, Any]) -> bool:
    environment = celpy.Environment()
    compiled = environment.program(environment.compile(expression))
    return bool(compiled.evaluate({"status": celpy.json_to_cel(job.get("status", {}))}))


def test_fluxs_expressions_wait_for_the_artifact() -> None:
    document = yaml.safe_load((HEALTH.parents[1] / "flux" / "kustomization.yaml").read_text())
    rules = document["spec"]["healthCheckExprs"][0]
    assert (rules["apiVersion"], rules["kind"]) == ("finetune.dev/v1alpha1", "FineTuneJob")
    for phase, _ in CASES:
        job = manifest(phase)
        assert evaluate(rules["current"], job) == (phase.state is State.COMPLETE)
        assert evaluate(rules["failed"], job) == (phase.state is State.FAILED)
    assert not evaluate(rules["current"], {"status": {}})
    assert not evaluate(rules["failed"], {"status": {}})


def test_flux_syncs_from_the_repository_of_the_example() -> None:
    source, synced = (
        yaml.safe_load((HEALTH.parents[1] / "flux" / f"{name}.yaml").read_text())
        for name in ("repository", "kustomization")
    )
    reference = synced["spec"]["sourceRef"]
    assert reference == {"kind": source["kind"], "name": source["metadata"]["name"]}
    assert source["metadata"]["namespace"] == synced["metadata"]["namespace"]


@pytest.mark.parametrize(
    ("file", "path"), [("argocd/application.yaml", "source.path"), ("flux/kustomization.yaml", "path")]
)
def test_the_examples_sync_a_folder_that_is_there(file: str, path: str) -> None:
    value = yaml.safe_load((HEALTH.parents[1] / file).read_text())["spec"]
    for part in path.split("."):
        value = value[part]
    assert (PROJECT / value / "kustomization.yaml").is_file()
