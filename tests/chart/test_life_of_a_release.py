"""Install, upgrade, uninstall and install again, with the real helm, while jobs run; in the order of this file.

FINETUNE_CHART_JOBS says how many jobs run meanwhile.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import urllib.request
from pathlib import Path

import pytest
import yaml

from finetune_sandbox.errors import RequestFailed
from support.helm import CHART, NAMESPACE, ON_SANDBOX, RELEASE, Release, rendered, settings
from support.operated import Object, Platform, eventually, finished, is_true

JOBS = tuple(f"job-{number}" for number in range(int(os.environ.get("FINETUNE_CHART_JOBS", "2"))))
# So many that the jobs outlast all that is done meanwhile, at twice its time.
STEPS = 250
CRD = "finetunejobs.finetune.dev"
CRDS = [f"customresourcedefinition.apiextensions.k8s.io/{name}" for name in (CRD, "finetuneprofiles.finetune.dev")]
# Of the Prometheus operator, which is not on a sandbox.
FOREIGN = {"ServiceMonitor", "PrometheusRule"}


@pytest.fixture(scope="module")
def release(bare: Platform) -> Release:
    return Release(bare.kubeconfig)


@pytest.fixture(scope="module")
def team(bare: Platform) -> str:
    """The namespace in which jobs run all the while."""
    return bare.new_namespace()


@pytest.fixture(scope="module")
def version_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart with an older version and a CRD that lacks a column."""
    chart: Path = tmp_path_factory.mktemp("before") / "finetune-operator"
    shutil.copytree(CHART, chart)
    about = chart / "Chart.yaml"
    about.write_text(re.sub(r"(?m)^(version|appVersion): .*$", r"\1: 0.0.9", about.read_text()))
    file = chart / "files" / "crds" / "finetune.dev_finetunejobs.yaml"
    crd = yaml.safe_load(file.read_text())
    version = crd["spec"]["versions"][0]
    version["additionalPrinterColumns"] = [
        column for column in version["additionalPrinterColumns"] if column["name"] != "Artifact"
    ]
    file.write_text(json.dumps(crd))
    return chart


def _columns(platform: Platform) -> list[str]:
    crd = json.loads(platform.kubectl("get", "crd", CRD, "-o", "json"))
    return [column["name"] for column in crd["spec"]["versions"][0]["additionalPrinterColumns"]]


def _operator_pods(platform: Platform) -> list[Object]:
    selector = f"app.kubernetes.io/instance={RELEASE}"
    return list(json.loads(platform.kubectl("get", "pods", "-n", NAMESPACE, "-l", selector, "-o", "json"))["items"])


def _operator_log(platform: Platform) -> str:
    return platform.kubectl("logs", "-n", NAMESPACE, f"deployment/{RELEASE}")


def _training_jobs(platform: Platform, namespace: str) -> dict[str, str]:
    """UID of the one training Job of each job that has any."""
    found = {}
    for name in JOBS:
        uids = [job["metadata"]["uid"] for job in platform.children("jobs", namespace, name, "train")]
        assert len(uids) <= 1, f"{name} was started twice:\n{platform.story(namespace, platform.job(namespace, name))}"
        for uid in uids:
            found[name] = uid
    return found


@pytest.mark.parametrize("values", [(), ("watchNamespaces={default}", "podDisruptionBudget.enabled=true")])
def test_the_api_server_accepts_every_object(bare: Platform, values: tuple[str, ...]) -> None:
    extra = ("serviceMonitor.enabled=true", "prometheusRule.enabled=true", "grafanaDashboard.enabled=true")
    documents = rendered(*extra, *values, namespace="default")
    assert {document["kind"] for document in documents} >= FOREIGN
    known = [document for document in documents if document["kind"] not in FOREIGN]
    # JSON: PyYAML writes the text 2e-4 without quotes, and kubectl reads a number.
    everything = json.dumps({"apiVersion": "v1", "kind": "List", "items": known})
    answer = bare.kubectl(
        "apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", stdin=everything
    )
    assert len(answer.splitlines()) == len(known)


def test_install(bare: Platform, release: Release, version_before: Path, team: str) -> None:
    notes = release.install(chart=version_before)
    assert "serves FineTuneJobs of every namespace" in notes
    assert "WARNING: trainer.image.digest is empty" in notes
    assert "Artifact" not in _columns(bare)
    for name in JOBS:
        bare.submit(team, name, hyperparameters={"maxSteps": STEPS})
    for name in JOBS:
        bare.wait(team, name, lambda job: is_true(job, "Running"), 600)
    assert set(_training_jobs(bare, team)) == set(JOBS)


def test_what_probes_and_prometheus_ask_is_answered(bare: Platform, team: str) -> None:
    (pod,) = _operator_pods(bare)
    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    def ask(path: str, port: str) -> str:
        with urllib.request.urlopen(f"http://{pod['status']['podIP']}:{ports[port]}{path}") as answer:
            return str(answer.read().decode())

    for probe in ("livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        assert ask(asked["path"], asked["port"]) == "ok\n"
    expected = (
        f'finetune_jobs{{namespace="{team}",state="Training"}}',
        'finetune_progress_reports_total{outcome="accepted"}',
        'finetune_watch_events_total{resource="pods"}',
    )

    def missing() -> list[str]:
        text = ask("/metrics", "health")
        return [line for line in expected if line not in text]

    eventually(lambda: not missing(), 120, lambda: f"{missing()} of\n{ask('/metrics', 'health')}")


def test_upgrade_leaves_jobs_alone(bare: Platform, release: Release, team: str) -> None:
    before, started = _operator_pods(bare), _training_jobs(bare, team)
    release.install("podLabels.upgraded=yes")
    assert "Artifact" in _columns(bare)
    (pod,) = (pod for pod in _operator_pods(bare) if "deletionTimestamp" not in pod["metadata"])
    assert pod["metadata"]["uid"] != before[0]["metadata"]["uid"]
    assert _training_jobs(bare, team) == started


def test_uninstall_leaves_crds_and_jobs_only(bare: Platform, release: Release, team: str) -> None:
    started = _training_jobs(bare, team)
    release.helm("uninstall", RELEASE, "--wait")
    kinds = bare.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    # Not Events, which tell of what was.
    asked = ",".join(kind for kind in kinds if not kind.startswith("events"))
    label = f"app.kubernetes.io/instance={RELEASE}"
    left = bare.kubectl("get", asked, "-A", "-l", label, "-o", "name").split()
    assert left == CRDS
    # So that pods which run can report to the next operator.
    secrets = bare.kubectl("get", "secrets", "-n", NAMESPACE, "-o", "name").split()
    assert secrets == ["secret/finetune-operator-progress-ca"]
    assert _training_jobs(bare, team) == started


def test_reinstalled_it_goes_on_and_trains_nothing_again(bare: Platform, release: Release, team: str) -> None:
    started = _training_jobs(bare, team)
    release.install()
    for name in JOBS:
        job = bare.wait(team, name, finished, 900)
        assert is_true(job, "Complete"), bare.story(team, job)
        assert [attempt["outcome"] for attempt in job["status"]["attempts"]] == ["Succeeded"]
        assert job["status"]["progress"]["step"] == STEPS
    assert _training_jobs(bare, team) == started
    log = _operator_log(bare)
    assert "orbidden" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize(("role", "may"), [("view", {"get"}), ("edit", {"get", "create", "delete"})])
def test_people_may_do_with_jobs_what_they_may_do_in_the_namespace(
    bare: Platform, team: str, role: str, may: set[str]
) -> None:
    bare.kubectl(
        "create", "rolebinding", f"{role}-person", f"--clusterrole={role}", f"--user={role}-person", "-n", team
    )

    def allowed(verb: str, *more: str) -> bool:
        try:
            return "yes" in bare.kubectl("auth", "can-i", verb, CRD, *more, "-n", team, "--as", f"{role}-person")
        except RequestFailed:
            return False

    eventually(lambda: allowed("get"), 60)
    assert {verb for verb in ("get", "create", "delete") if allowed(verb)} == may
    assert not allowed("patch", "--subresource=status")


def test_in_namespaced_mode_other_namespaces_are_left_alone(bare: Platform, release: Release, team: str) -> None:
    other = bare.new_namespace()
    release.install(f"watchNamespaces={{{team}}}")
    for namespace in (other, team):
        bare.submit(namespace, "asleep", suspend=True)
    bare.wait(team, "asleep", lambda job: is_true(job, "Suspended"), 60)
    assert "status" not in bare.job(other, "asleep")
    assert "orbidden" not in _operator_log(bare)
    account = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
    with pytest.raises(RequestFailed, match="no"):
        bare.kubectl("auth", "can-i", "list", "pods", "-n", other, "--as", account)
    assert "yes" in bare.kubectl("auth", "can-i", "list", "pods", "-n", team, "--as", account)


def test_crds_of_another_origin_are_taken_over(bare: Platform, release: Release) -> None:
    release.helm("uninstall", RELEASE, "--wait")
    bare.kubectl("delete", "crd", CRD)
    bare.kubectl("apply", "--server-side", "-k", str(CHART.parents[1] / "crds"))
    with pytest.raises(AssertionError, match="invalid ownership metadata"):
        release.install()
    release.install(options=("--take-ownership", "--force-conflicts"))
    release.helm("uninstall", RELEASE, "--wait")
    assert _columns(bare)


def test_without_its_crd_the_operator_waits_for_it(bare: Platform, release: Release) -> None:
    bare.kubectl("delete", "crd", CRD)
    release.helm("install", RELEASE, str(CHART), *settings((*ON_SANDBOX, "crds.enabled=false")))
    eventually(lambda: "the CRD of FineTuneJobs is not installed" in _operator_log_or_nothing(bare), 120)
    bare.kubectl("apply", "--server-side", "-k", str(CHART.parents[1] / "crds"))
    bare.kubectl("wait", "--for=condition=Established", f"crd/{CRD}", "--timeout=60s")
    namespace = bare.new_namespace()
    bare.submit(namespace, "asleep", suspend=True)
    job = bare.wait(namespace, "asleep", lambda job: is_true(job, "Suspended"), 60)
    assert job["status"]["observedGeneration"] == job["metadata"]["generation"]


def _operator_log_or_nothing(platform: Platform) -> str:
    try:
        return _operator_log(platform)
    except RequestFailed:
        return ""
