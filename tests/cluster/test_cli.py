"""kubectl finetune against a real API server, operator and store: one job from its manifest to after its deletion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.answering_server import write_kubeconfig
from support.clusters import KUBECTL, Cluster
from support.operated import Object, Platform

STEPS = 6
JOB = {
    "resources": {"nodes": 2, "processesPerNode": 2},
    "hyperparameters": {"maxSteps": STEPS, "globalBatchSize": 4},
    "evaluation": {"everySteps": 2},
}
Finetune = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def finetune(platform: Platform) -> Finetune:
    """The installed program, found by kubectl as its plugin, with the user's credentials of cluster and store."""

    def run(*arguments: str, stdin: str | None = None, **changes: str) -> subprocess.CompletedProcess[str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        store = {name: platform.store[name] for name in platform.store if name.startswith("AWS_")}
        environment = os.environ | store | {"KUBECONFIG": str(platform.kubeconfig), "PATH": path} | changes
        command = [KUBECTL, "finetune", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, timeout=400)

    return run


@pytest.fixture(scope="module")
def team(platform: Platform) -> Iterator[str]:
    name = platform.new_namespace()
    yield name
    platform.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def watched(platform: Platform, finetune: Finetune, team: str) -> subprocess.CompletedProcess[str]:
    """A job that was submitted and watched to its end."""
    manifest = json.dumps(platform.manifest(team, "good", **JOB))
    return finetune("submit", "-", "--watch", stdin=manifest)


@pytest.fixture(scope="module")
def done(platform: Platform, watched: subprocess.CompletedProcess[str], team: str) -> Object:
    assert watched.returncode == 0, watched.stdout + watched.stderr
    return platform.job(team, "good")


@pytest.mark.usefixtures("done")
def test_submit_and_watch_tell_the_way_of_a_job(watched: subprocess.CompletedProcess[str]) -> None:
    first, *lines = watched.stdout.splitlines()

    assert first == "finetunejob.finetune.dev/good created"
    states = list(dict.fromkeys(line.split()[1] for line in lines))
    assert states[-1] == "Complete"
    assert {"Preparing", "Training"} & set(states)
    assert "held-out loss" in lines[-1]


def test_submitting_again_changes_nothing(platform: Platform, finetune: Finetune, done: Object, team: str) -> None:
    manifest = platform.manifest(team, "good", **JOB)

    assert finetune("submit", "-", stdin=json.dumps(manifest)).stdout == "finetunejob.finetune.dev/good unchanged\n"
    # As kubectl get -o yaml wrote it: the API server's own fields are left out of what is applied.
    copy = finetune("submit", "-", stdin=json.dumps(done))
    assert copy.stdout == "finetunejob.finetune.dev/good unchanged\n", copy.stderr


def test_what_may_not_change_is_refused_in_the_words_of_the_api_server(
    platform: Platform, finetune: Finetune, done: Object, team: str
) -> None:
    changed = platform.manifest(team, "good", **(JOB | {"method": {"lora": {"rank": 8}}}))

    result = finetune("submit", "-", stdin=json.dumps(changed))

    assert result.returncode == 10
    assert "create a FineTuneJob of another name" in result.stderr


def test_list_and_describe_show_the_result(finetune: Finetune, done: Object, team: str) -> None:
    (row,) = finetune("list", "-n", team).stdout.splitlines()[1:]
    assert row.split()[:4] == ["good", "Complete", "100%", f"{STEPS}/{STEPS}"]
    assert team in finetune("list", "-A").stdout

    page = finetune("describe", "good", "-n", team).stdout
    for text in (done["status"]["runID"], done["status"]["artifact"]["uri"], "HELD OUT", "Published", "Normal"):
        assert text in page


@pytest.mark.usefixtures("done")
@pytest.mark.parametrize(("rank", "pod"), [(0, 0), (1, 0), (3, 1)])
def test_logs_of_a_rank(finetune: Finetune, team: str, rank: int, pod: int) -> None:
    result = finetune("logs", "good", "-n", team, "--rank", str(rank))

    assert result.returncode == 0, result.stderr
    assert f"good-train-1-{pod}-" in result.stderr
    assert f"lines of rank {rank}" in result.stderr
    assert {f"[rank {other}]" for other in range(4) if other != rank and f"[rank {other}]" in result.stdout} == set()
    # Steps are printed by rank 0, without a mark: they are the pod's.
    assert (f"step {STEPS}/{STEPS}" in result.stdout) is (pod == 0)


@pytest.mark.usefixtures("done")
def test_logs_of_prepare(finetune: Finetune, team: str) -> None:
    result = finetune("logs", "good", "-n", team, "--stage", "prepare", "--tail", "1")

    assert result.returncode == 0
    assert len(result.stdout.splitlines()) == 1


@pytest.mark.usefixtures("done")
def test_watching_a_job_that_has_ended(finetune: Finetune, team: str) -> None:
    result = finetune("watch", "good", "-n", team)

    assert result.returncode == 0
    assert len(result.stdout.splitlines()) == 1


def test_a_failed_job_fails_the_command(platform: Platform, finetune: Finetune, team: str) -> None:
    rows = platform.upload("data/bad.jsonl", b'{"messages": []}\n')
    manifest = platform.manifest(team, "bad", dataset={"train": [{"source": rows}], "validation": None})

    result = finetune("submit", "-", "-w", stdin=json.dumps(manifest))

    assert result.returncode == 11, result.stdout + result.stderr
    assert "DataError" in result.stdout.splitlines()[-1]
    page = finetune("describe", "bad", "-n", team).stdout
    assert "Remedy" in page
    assert "PrepareFailed" in page


def test_a_job_is_suspended_resumed_and_cancelled(platform: Platform, finetune: Finetune, team: str) -> None:
    # Not done before it is cancelled.
    manifest = platform.manifest(team, "paused", suspend=True, hyperparameters={"maxSteps": 100_000})
    assert finetune("submit", "-", stdin=json.dumps(manifest)).stdout.endswith("paused created\n")

    assert "suspended already" in finetune("suspend", "paused", "-n", team).stdout
    assert finetune("resume", "paused", "-n", team).stdout == "paused resumed\n"
    assert platform.job(team, "paused")["spec"]["suspend"] is False
    assert finetune("suspend", "paused", "-n", team).stdout.startswith("paused suspended: ")
    assert platform.job(team, "paused")["spec"]["suspend"] is True

    result = finetune("cancel", "paused", "-n", team, "--yes")
    assert (result.returncode, result.stdout) == (0, "finetunejob.finetune.dev/paused deleted\n")
    assert f"{manifest['spec']['output']['destination']}/{team}/paused stays" in result.stderr
    gone = finetune("describe", "paused", "-n", team)
    assert (gone.returncode, gone.stdout) == (4, "")
    assert f"there is no FineTuneJob 'paused' in namespace '{team}'" in gone.stderr


def test_fields_of_another_manager_are_not_taken_silently(platform: Platform, finetune: Finetune, team: str) -> None:
    manifest = platform.manifest(team, "shared", suspend=True)
    platform.kubectl(
        "apply", "--server-side", "--field-manager=argocd-controller", "-f", "-", stdin=json.dumps(manifest)
    )
    manifest["spec"]["backoffLimit"] = 7
    mine = json.dumps(manifest)
    platform.kubectl(
        "patch", "ftj", "shared", "-n", team, "--type=merge", "--field-manager=x", "-p", '{"spec":{"backoffLimit":5}}'
    )

    refused = finetune("submit", "-", stdin=mine)
    assert refused.returncode == 3
    assert 'conflict with "x"' in refused.stderr
    assert "--force-conflicts" in refused.stderr
    assert finetune("submit", "-", "--force-conflicts", stdin=mine).returncode == 0
    assert platform.job(team, "shared")["spec"]["backoffLimit"] == 7


BAD_MANIFESTS: list[tuple[Object, str]] = [
    ({"spec": {"foo": 1}}, "spec.foo"),
    ({"spec": {"deepspeed": {"zeroStage": 4}}}, "less than or equal to 3"),
    ({"metadata": {"namespace": "no-such-namespace"}}, "there is no namespace 'no-such-namespace'"),
]


@pytest.mark.parametrize(("changes", "text"), BAD_MANIFESTS)
def test_a_manifest_that_the_api_server_refuses(
    platform: Platform, finetune: Finetune, team: str, changes: Object, text: str
) -> None:
    manifest = platform.manifest(team, "refused")
    for part, values in changes.items():
        manifest[part] |= values

    result = finetune("submit", "-", "--dry-run", stdin=json.dumps(manifest))

    assert result.returncode in (4, 10)
    assert text in result.stderr
    assert "Traceback" not in result.stderr


def test_without_rights_it_says_which_one_is_missing(
    platform: Platform, finetune: Finetune, cluster: Cluster, team: str, tmp_path: Path
) -> None:
    platform.kubectl("create", "serviceaccount", "nobody", "-n", team)
    token = platform.kubectl("create", "token", "nobody", "-n", team).strip()
    known = json.loads(platform.kubectl("config", "view", "--raw", "-o", "json"))
    file = write_kubeconfig(tmp_path / "kubeconfig", known["clusters"][0]["cluster"]["server"])
    document = json.loads(file.read_text())
    document["clusters"][0]["cluster"] = known["clusters"][0]["cluster"]
    document["users"][0]["user"] = {"token": token}
    file.write_text(json.dumps(document))

    refused = finetune("list", "-n", team, "--kubeconfig", str(file))
    document["users"][0]["user"] = {"token": "no token at all"}
    file.write_text(json.dumps(document))
    unknown = finetune("list", "-n", team, "--kubeconfig", str(file))

    assert (refused.returncode, unknown.returncode) == (3, 3)
    assert f"you may not list finetunejobs in namespace '{team}'" in refused.stderr
    assert "log in again" in unknown.stderr


def test_names_of_jobs_are_completed(platform: Platform, done: Object, team: str) -> None:
    program = Path(sys.executable).parent / "finetune"
    environment = os.environ | {
        "KUBECONFIG": str(platform.kubeconfig),
        "_FINETUNE_COMPLETE": "complete_bash",
        "COMP_WORDS": f"finetune describe -n {team} go",
        "COMP_CWORD": "4",
    }
    result = subprocess.run([program], env=environment, capture_output=True, text=True, timeout=60)

    assert result.stdout.split() == ["good"]


# The last: what stays when the job is gone.
def test_results_outlive_the_job(
    platform: Platform, finetune: Finetune, done: Object, team: str, tmp_path: Path
) -> None:
    uri = done["status"]["artifact"]["uri"]
    verified = finetune("artifacts", "verify", "good", "-n", team)
    assert (verified.returncode, verified.stderr) == (0, "")
    assert verified.stdout.startswith(f"{uri} is intact: {done['status']['artifact']['files']} files")
    assert finetune("cancel", "good", "-n", team, "-y").returncode == 0

    curve = json.loads(finetune("plot", uri, "-o", "json").stdout)
    assert [point["step"] for point in curve["steps"]] == list(range(1, STEPS + 1))
    assert [point["step"] for point in curve["evaluations"]][:2] == [0, 2]
    report = tmp_path / "report.html"
    assert finetune("report", uri.rpartition("/")[0], "--file", str(report)).returncode == 0
    assert "</html>" in report.read_text()
    here = tmp_path / "here"
    assert finetune("artifacts", "download", uri, "-o", str(here)).returncode == 0
    assert finetune("artifacts", "verify", str(here)).returncode == 0
    compared = finetune("compare", uri, str(here))
    assert "Nothing was asked for differently." in compared.stdout
