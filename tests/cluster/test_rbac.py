"""The chart's rules are enough, and none of them can go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from finetune_sandbox.installation import (
    OPERATOR_NAMESPACE,
    SERVICE_ACCOUNT,
    ChartRules,
    Rules,
    access_manifests,
)
from support.clusters import PROJECT
from support.operated import Object, Platform, eventually, is_true

RULES = ChartRules.read(PROJECT / "charts" / "finetune-operator")


def _grants(rules: Rules) -> set[tuple[str, str, str]]:
    """Every single right: API group, resource and verb."""
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_nothing_in_the_chart_is_a_wildcard_or_reads_secrets_of_others() -> None:
    grants = _grants(RULES.cluster)
    assert not [grant for grant in grants if "*" in grant]
    assert not [grant for grant in grants if grant[1] == "secrets"]
    assert all(rule.get("resourceNames") or rule["verbs"] == ["create"] for rule in RULES.namespace)


def test_no_call_of_a_whole_life_was_refused(platform: Platform, namespace: str) -> None:
    platform.submit(namespace, "allowed", hyperparameters={"maxSteps": 150})
    platform.wait(namespace, "allowed", lambda job: is_true(job, "Running"))
    for value in ("true", "false"):
        patch = f'{{"spec":{{"suspend":{value}}}}}'
        platform.kubectl("patch", "ftj", "allowed", "-n", namespace, "--type=merge", "-p", patch)
        platform.wait(namespace, "allowed", lambda job, value=value: is_true(job, "Suspended") == (value == "true"))
    job = platform.wait_finished(namespace, "allowed")
    assert is_true(job, "Complete"), platform.story(namespace, job)
    assert "orbidden" not in platform.operator.log.read_text()


@pytest.fixture
def restored_rules(platform: Platform) -> Iterator[None]:
    yield
    _grant(platform, RULES.cluster)


def _grant(platform: Platform, rules: Rules) -> None:
    manifests = access_manifests(ChartRules(rules, RULES.namespace))
    role = next(manifest for manifest in manifests if manifest["kind"] == "ClusterRole")
    platform.kubectl("replace", "-f", "-", stdin=yaml.safe_dump(role))


Right = tuple[str, str, str]


def _review(group: str, resource: str, verb: str) -> Object:
    """The question whether the operator has a right."""
    kind, _, subresource = resource.partition("/")
    attributes = {"verb": verb, "group": group, "resource": kind, "namespace": "default"}
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{OPERATOR_NAMESPACE}:{SERVICE_ACCOUNT}",
            "resourceAttributes": attributes | ({"subresource": subresource} if subresource else {}),
        },
    }


def _granted(platform: Platform, asked: list[Right]) -> set[Right]:
    """Those of the rights that the operator has."""
    questions = {"apiVersion": "v1", "kind": "List", "items": [_review(*right) for right in asked]}
    answer = ("-o", r'jsonpath={.status.allowed}{"\n"}')
    answers = platform.kubectl("create", "-f", "-", *answer, stdin=json.dumps(questions)).splitlines()
    return {right for right, allowed in zip(asked, answers, strict=True) if allowed == "true"}


def test_the_api_server_grants_just_what_the_chart_says(platform: Platform) -> None:
    asked = {
        (group, resource, verb)
        for group, resource, _ in _grants(RULES.cluster) | {("", "secrets", ""), ("", "namespaces", "")}
        for verb in ("get", "list", "watch", "create", "delete", "patch", "update")
    }
    assert _granted(platform, sorted(asked)) == _grants(RULES.cluster)


def _without(resource: str, verb: str) -> Rules:
    """The chart's rules less one right."""
    kept: Rules = []
    for rule in RULES.cluster:
        verbs = [item for item in rule["verbs"] if item != verb] if resource in rule["resources"] else rule["verbs"]
        kept.append({**rule, "verbs": verbs or ["list"]})
    return kept


@pytest.mark.parametrize(
    ("resource", "verb"),
    [
        ("jobs", "create"),
        ("configmaps", "create"),
        ("networkpolicies", "create"),
        ("finetunejobs/status", "patch"),
        ("pods", "list"),
    ],
)
@pytest.mark.usefixtures("restored_rules")
def test_without_a_right_the_operator_says_so_and_goes_on_when_it_is_back(
    platform: Platform, namespace: str, operator_log: Path, resource: str, verb: str
) -> None:
    before = operator_log.stat().st_size
    _grant(platform, _without(resource, verb))
    platform.submit(namespace, "refused", dataset={"train": [{"source": platform.uri("data/nowhere.jsonl")}]})
    _wait_for_log(operator_log, before, f"{resource.partition('/')[0]}")
    job = platform.job(namespace, "refused")
    assert not is_true(job, "Failed")
    _grant(platform, RULES.cluster)
    job = platform.wait_finished(namespace, "refused")
    assert job["status"]["failure"]["class"] == "UserError"


def _wait_for_log(log: Path, offset: int, resource: str) -> None:

    def refused() -> bool:
        text = log.read_bytes()[offset:].decode(errors="replace")
        return any("orbidden" in line and resource in line for line in text.splitlines())

    eventually(refused, 30)


def test_another_jobs_token_is_refused(platform: Platform, namespace: str) -> None:
    import ssl
    import urllib.error
    import urllib.request

    platform.submit(namespace, "mine", suspend=True)
    other: Object = platform.job(namespace, "mine")
    audience = f"finetune.dev/{namespace}/other/{other['metadata']['uid']}"
    token = platform.kubectl("create", "token", "default", "-n", namespace, "--audience", audience).strip()
    report = {"uid": other["metadata"]["uid"], "attempt": 1, "sequence": 1, "stage": "train"}
    request = urllib.request.Request(
        f"https://127.0.0.1:{platform.operator.progress_port}/v1/namespaces/{namespace}/finetunejobs/mine/progress",
        data=json.dumps(report).encode(),
        headers={"Authorization": f"Bearer {token}"},
    )
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, context=context)
    with refused.value as answer:
        assert answer.code == 403


_PORTS = {"ports": [{"port": 80}]}
_POD = {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "none"}]}}}
TAKEN: dict[str, tuple[str, str, Object]] = {
    "configmaps": ("v1", "ConfigMap", {}),
    "jobs": ("batch/v1", "Job", {"spec": {"suspend": True, **_POD}}),
    "networkpolicies": ("networking.k8s.io/v1", "NetworkPolicy", {"spec": {"podSelector": {}}}),
    "services": ("v1", "Service", {"spec": _PORTS}),
}


@pytest.mark.parametrize("resource", TAKEN)
def test_a_name_taken_by_a_child_of_the_job_before_is_waited_for(
    platform: Platform, namespace: str, resource: str
) -> None:
    """Whose it is, the operator has to read: this is what it may `get` them for."""
    version, kind, content = TAKEN[resource]
    stage = "train" if resource == "services" else "prepare"
    metadata = {"name": f"heir-{stage}-1", "namespace": namespace, "labels": {"finetune.dev/job": "heir"}}
    taken = {"apiVersion": version, "kind": kind, "metadata": metadata, **content}
    platform.kubectl("create", "-f", "-", stdin=json.dumps(taken))
    before = platform.operator.log.stat().st_size
    platform.submit(namespace, "heir")
    if stage == "train":
        eventually(lambda: platform.children("jobs", namespace, "heir", "prepare"), 30)
        platform.kubectl("wait", "--for=condition=Complete", "job/heir-prepare-1", "-n", namespace, "--timeout=60s")
    eventually(lambda: not is_true(platform.job(namespace, "heir"), "Running"), 5)
    own = [job["metadata"]["name"] for job in platform.children("jobs", namespace, "heir", stage)]
    assert own == []
    platform.kubectl("delete", resource, f"heir-{stage}-1", "-n", namespace)
    eventually(lambda: platform.children("jobs", namespace, "heir", stage), 30)
    assert "orbidden" not in platform.operator.log.read_bytes()[before:].decode()
