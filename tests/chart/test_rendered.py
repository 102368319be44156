"""What the chart makes of values, compared as a whole with the files in rendered/.

To accept a change: FINETUNE_WRITE_SNAPSHOTS=1 pytest tests/chart/test_rendered.py, then read the diff.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from finetune_operator.settings import parse_settings
from support.clusters import PROJECT
from support.helm import CHART, IMAGES, Object, rendered, run, settings

FOLDER = Path(__file__).parent / "rendered"
CRDS = sorted((PROJECT / "crds").glob("finetune.dev_*.yaml"))
DIGEST = "sha256:" + "0123456789abcdef" * 4

VARIANTS: dict[str, tuple[str, ...]] = {
    "default": (),
    "two-namespaces": ("watchNamespaces={team-a,team-b}", "crds.enabled=false", "rbac.userRoles=false"),
    "everything": (
        f"image.digest={DIGEST}",
        "image.pullPolicy=Always",
        f"trainer.image.digest={DIGEST}",
        "imagePullSecrets[0].name=pull",
        "secretGraceSeconds=5",
        "gangGraceSeconds=30",
        "resyncSeconds=10",
        "logFormat=plain",
        "bindAddress=[::]",
        "progress.port=9443",
        "progress.url=https://finetune.example.com",
        "health.port=9080",
        "serviceAccount.name=tuner",
        "serviceAccount.annotations.example\\.com/role=tuner",
        "resources.limits.cpu=1",
        "nodeSelector.pool=system",
        "tolerations[0].key=system",
        "tolerations[0].operator=Exists",
        "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution=null",
        "priorityClassName=system-cluster-critical",
        "podLabels.team=platform",
        "podAnnotations.note=seen",
        "networkPolicy.progressFrom[0].ipBlock.cidr=10.0.0.0/8",
        "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.kubernetes\\.io/metadata\\.name=monitoring",
        "podDisruptionBudget.enabled=true",
        "serviceMonitor.enabled=true",
        "serviceMonitor.labels.release=prometheus",
        "prometheusRule.enabled=true",
        "prometheusRule.labels.release=prometheus",
        "grafanaDashboard.annotations.folder=Training",
        "extraEnv[0].name=HTTPS_PROXY",
        "extraEnv[0].value=http://proxy.example.com",
    ),
}


def without_crds(documents: list[Object]) -> list[Object]:
    return [document for document in documents if document["kind"] != "CustomResourceDefinition"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_whole_output(variant: str) -> None:
    text = yaml.safe_dump_all(without_crds(rendered(*VARIANTS[variant])), sort_keys=False, width=120)
    file = FOLDER / f"{variant}.yaml"
    if os.environ.get("FINETUNE_WRITE_SNAPSHOTS"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()


def test_lint_finds_nothing() -> None:
    result = run("lint", "--strict", str(CHART), *settings(IMAGES))
    assert result.returncode == 0, result.stdout
    assert "WARNING" not in result.stdout


def test_the_chart_has_every_crd() -> None:
    assert CRDS
    for crd in CRDS:
        assert (CHART / "files" / "crds" / crd.name).resolve() == crd.resolve()


def test_crds_are_those_of_the_project_and_outlive_an_uninstall() -> None:
    made = {item["metadata"]["name"]: item for item in rendered() if item["kind"] == "CustomResourceDefinition"}
    for crd in CRDS:
        expected = yaml.safe_load(crd.read_text())
        found = made.pop(expected["metadata"]["name"])
        assert found["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        assert found["spec"] == expected["spec"]
    assert made == {}


def test_a_package_has_what_the_folder_has(tmp_path: Path) -> None:
    """The CRDs are links in the folder, and files in what is published."""
    assert run("package", str(CHART), "--destination", str(tmp_path)).returncode == 0
    (package,) = tmp_path.glob("*.tgz")
    result = run("template", "finetune-operator", str(package), "-n", "finetune-system", *settings(IMAGES))
    assert [document for document in yaml.safe_load_all(result.stdout) if document] == rendered()


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("finetune-operator", "finetune-operator"),
        ("my-finetune-operator", "my-finetune-operator"),
        ("tuner", "tuner-finetune-operator"),
        ("x" * 53, "x" * 53),
    ],
)
def test_names_follow_the_release(release: str, name: str) -> None:
    documents = rendered(name=release)
    (deployment,) = (item for item in documents if item["kind"] == "Deployment")
    assert deployment["metadata"]["name"] == name
    url = f"--progress-url=https://{name}.finetune-system.svc:8443"
    assert url in deployment["spec"]["template"]["spec"]["containers"][0]["args"]


def test_releases_of_one_name_in_two_namespaces_share_no_object() -> None:
    def names(namespace: str) -> set[tuple[str, str, str]]:
        made = rendered("crds.enabled=false", namespace=namespace)
        return {(item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]) for item in made}

    assert names("team-a") & names("team-b") == set()


def test_nothing_is_granted_by_wildcard() -> None:
    roles = [item for item in rendered() if item["kind"] in ("Role", "ClusterRole")]
    assert len(roles) == 4
    granted = [value for role in roles for rule in role["rules"] for values in rule.values() for value in values]
    assert "*" not in granted


def test_in_namespaced_mode_the_cluster_grants_only_what_has_no_namespace() -> None:
    made = rendered("watchNamespaces={team-a}", "rbac.userRoles=false")
    (role,) = (item for item in made if item["kind"] == "ClusterRole")
    assert [rule["resources"] for rule in role["rules"]] == [["tokenreviews"], ["finetuneprofiles"], ["namespaces"]]
    (served,) = (item for item in made if item["kind"] == "Role" and item["metadata"]["namespace"] == "team-a")
    (whole,) = (item for item in rendered("rbac.userRoles=false") if item["kind"] == "ClusterRole")
    assert role["rules"] + served["rules"] == whole["rules"]


def test_the_operator_may_ask_the_dns_that_jobs_may_ask() -> None:
    values = ("networkPolicy.enabled=true", "jobNetworkPolicy.dnsPorts={53,5353}")
    (policy,) = (item for item in rendered(*values) if item["kind"] == "NetworkPolicy")
    asked = [(rule["port"], rule["protocol"]) for rule in policy["spec"]["egress"][0]["ports"]]
    assert asked == [(53, "UDP"), (53, "TCP"), (5353, "UDP"), (5353, "TCP")]


def test_policies_of_jobs_lead_to_the_operators_pods() -> None:
    """What the chart writes on the command line, as the operator reads it."""
    values = ("jobNetworkPolicy.dnsPorts={5353}", "jobNetworkPolicy.privateCIDRs={169.254.0.0/16}")
    (deployment,) = (item for item in rendered(*values) if item["kind"] == "Deployment")
    template = deployment["spec"]["template"]
    read = parse_settings(template["spec"]["containers"][0]["args"])
    assert read.job_network.operator_labels.items() <= template["metadata"]["labels"].items()
    assert len(read.job_network.operator_labels) == 2
    assert (read.job_network.dns_ports, read.job_network.private_cidrs) == ((5353,), ("169.254.0.0/16",))
    assert read.namespace == deployment["metadata"]["namespace"]
