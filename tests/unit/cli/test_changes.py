"""submit, suspend, resume, cancel: what is sent to the API server, and what is said."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from finetune_cli.cluster import watching
from support.answering_server import Answer, Answers, Request, refused
from support.command_line import CommandLine
from support.job_manifests import MANIFEST, edited
from support.shown_jobs import COMPLETE, SUSPENDED, TRAINING, job

TEAM_A = "/apis/finetune.dev/v1alpha1/namespaces/team-a/finetunejobs"
ABSENT = refused(404, "NotFound", "not found", name="tiny", kind="finetunejobs")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    file = tmp_path / "job.json"
    file.write_text(json.dumps(MANIFEST | {"status": {"state": "Complete"}}))
    return file


def stored(generation: int = 1) -> dict[str, Any]:
    document = copy.deepcopy(MANIFEST)
    document["metadata"] |= {"namespace": "team-a", "generation": generation, "uid": "u"}
    return document


def patches(api: Answers) -> list[Request]:
    return [request for request in api.requests if request.method == "PATCH"]


def test_submit_applies_with_an_own_manager(connected: CommandLine, api: Answers, manifest: Path) -> None:
    api.give(f"GET {TEAM_A}/tiny", ABSENT)
    api.give(f"PATCH {TEAM_A}/tiny", Answer(stored(), 201))

    ended = connected("submit", str(manifest))

    assert (ended.code, ended.out) == (0, "finetunejob.finetune.dev/tiny created\n")
    (sent,) = patches(api)
    assert sent.content_type == "application/apply-patch+yaml"
    assert sent.query == "fieldManager=kubectl-finetune&fieldValidation=Strict"
    assert sent.body == MANIFEST | {"metadata": {"name": "tiny", "namespace": "team-a"}}


@pytest.mark.parametrize(("generation", "word"), [(1, "unchanged"), (2, "configured")])
def test_submit_says_what_it_changed(
    connected: CommandLine, api: Answers, manifest: Path, generation: int, word: str
) -> None:
    api.give(f"GET {TEAM_A}/tiny", Answer(stored()))
    api.give(f"PATCH {TEAM_A}/tiny", Answer(stored(generation)))

    ended = connected("submit", str(manifest), "--force-conflicts", "--dry-run")

    assert ended.out == f"finetunejob.finetune.dev/tiny {word} (dry run)\n"
    assert patches(api)[0].query.endswith("&force=true&dryRun=All")


def test_submit_and_watch(
    connected: CommandLine, api: Answers, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "INTERVAL_SECONDS", 0.0)
    api.give(f"GET {TEAM_A}/tiny", ABSENT, Answer(job("tiny", status=TRAINING)), Answer(job("tiny", status=COMPLETE)))
    api.give(f"PATCH {TEAM_A}/tiny", Answer(stored(), 201))

    ended = connected("submit", "--watch", str(manifest))

    assert ended.code == 0
    assert [text.split()[1] for text in ended.out.splitlines()] == ["created", "Training", "Complete"]


CONFLICT = refused(
    409,
    "Conflict",
    "Apply failed with 1 conflict",
    causes=[{"reason": "FieldManagerConflict", "message": 'conflict with "argocd-controller": .spec.suspend'}],
)
SUBMIT_REFUSALS = {
    "conflict": (CONFLICT, 3, 'conflict with "argocd-controller": .spec.suspend: change it where it is managed, or'),
    "invalid": (refused(422, "Invalid", "spec.model: Required value"), 10, "the API server refuses it: spec.model"),
    "unknown field": (
        refused(400, "BadRequest", 'unknown field "spec.foo"'),
        10,
        'refuses it: unknown field "spec.foo"',
    ),
    "not readable by the schema": (
        refused(500, "", "failed to create typed patch object (a/b; Kind=FineTuneJob): .spec.foo: field not declared"),
        10,
        "error: the API server refuses it: .spec.foo: field not declared\n",
    ),
    "no namespace": (
        refused(404, "NotFound", 'namespaces "team-a" not found', name="team-a", kind="namespaces"),
        4,
        "there is no namespace 'team-a'; create it: kubectl create namespace team-a",
    ),
    "forbidden": (refused(403, "Forbidden", "no"), 3, "you may not patch finetunejobs in namespace 'team-a'"),
}


@pytest.mark.parametrize("case", SUBMIT_REFUSALS)
def test_a_refused_submission(connected: CommandLine, api: Answers, manifest: Path, case: str) -> None:
    answer, code, text = SUBMIT_REFUSALS[case]
    api.give(f"GET {TEAM_A}/tiny", ABSENT)
    api.give(f"PATCH {TEAM_A}/tiny", answer)

    ended = connected("submit", str(manifest))

    assert (ended.code, ended.out) == (code, "")
    assert text in ended.err


def test_submit_needs_a_name(connected: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text(json.dumps(edited({"metadata": {}})))

    ended = connected("submit", str(file))

    assert (ended.code, ended.err) == (2, "error: the manifest has no metadata.name\n")


def test_only_one_job_can_be_watched(connected: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "jobs.yaml"
    file.write_text(f"{json.dumps(MANIFEST)}\n---\n{json.dumps(MANIFEST)}")

    ended = connected("submit", "--watch", str(file))

    assert ended.code == 2
    assert "--watch follows one job" in ended.err


@pytest.mark.parametrize(
    ("command", "status", "suspended", "patched", "said"),
    [
        ("suspend", TRAINING, False, True, "a suspended: its pods end"),
        ("suspend", SUSPENDED, True, None, "a is suspended already"),
        ("suspend", COMPLETE, False, None, "a is Complete already: there is nothing to suspend"),
        ("resume", SUSPENDED, True, False, "a resumed"),
        ("resume", TRAINING, False, None, "a is not suspended already"),
    ],
)
def test_suspend_and_resume(
    connected: CommandLine,
    api: Answers,
    command: str,
    status: dict[str, Any],
    suspended: bool,
    patched: bool | None,
    said: str,
) -> None:
    document = job("a", status=status)
    document["spec"]["suspend"] = suspended
    api.give(f"GET {TEAM_A}/a", Answer(document))
    api.give(f"PATCH {TEAM_A}/a", Answer(document))

    ended = connected(command, "a")

    assert ended.code == 0
    assert ended.out.startswith(said)
    assert [request.body["spec"] for request in patches(api)] == ([] if patched is None else [{"suspend": patched}])
    assert {request.body["metadata"]["uid"] for request in patches(api)} <= {"uid-of-a"}


def test_a_job_of_another_controller_is_left_to_that(connected: CommandLine, api: Answers) -> None:
    document = job("a")
    document["spec"]["managedBy"] = "kueue.x-k8s.io/multikueue"
    api.give(f"GET {TEAM_A}/a", Answer(document))
    api.give(f"PATCH {TEAM_A}/a", Answer(document))
    api.give("GET /apis/events.k8s.io/v1/namespaces/team-a/events", Answer({"items": []}))
    manager = "kueue.x-k8s.io/multikueue, which spec.managedBy names"

    assert connected("suspend", "a").out == f"a suspended: {manager}, acts on that\n"
    assert f"left to {manager}" in connected("describe", "a").out


def test_cancel_needs_a_confirmation(connected: CommandLine, api: Answers) -> None:
    api.give(f"GET {TEAM_A}/a", Answer(job("a", status=TRAINING)))

    ended = connected("cancel", "a")

    assert ended.code == 2
    assert "use --yes" in ended.err
    assert [request.method for request in api.requests] == ["GET"]


@pytest.mark.parametrize(
    ("status", "kept"),
    [
        (TRAINING, "what is in the store below s3://team-models/support/team-a/a stays"),
        (COMPLETE, "the artifact s3://team-models/support/team-a/support-bot/r-0123456789abcdef0123 stays"),
    ],
)
def test_cancel_deletes_this_very_job_and_says_what_is_kept(
    connected: CommandLine, api: Answers, status: dict[str, Any], kept: str
) -> None:
    api.give(f"GET {TEAM_A}/a", Answer(job("a", status=status)))
    api.give(f"DELETE {TEAM_A}/a", Answer({"kind": "Status", "status": "Success"}))

    ended = connected("cancel", "a", "--yes")

    assert (ended.code, ended.out) == (0, "finetunejob.finetune.dev/a deleted\n")
    assert kept in ended.err
    sent = api.requests[-1].body
    assert (sent["preconditions"], sent["propagationPolicy"]) == ({"uid": "uid-of-a"}, "Background")
