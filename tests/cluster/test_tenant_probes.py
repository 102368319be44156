"""What a tenant, or code in a training pod, may not do: every attempt is made for real, and fails.

One job of one tenant, with the role `edit` in its namespace and keys that open its own prefix of the bucket only; and
the namespace of somebody else. The sandbox's node enforces no NetworkPolicies: what these stop is in
tests/unit/control_plane/test_network.py.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml

import finetune_trainer
from finetune_api.reports import MAX_REPORT_BYTES, audience, report_path
from support import pod_probes
from support.helm import rendered
from support.operated import Object, Platform, eventually, is_true
from support.tenant_probes import ASKS, Ask, body_of, filled, restricted_pod
from support.tenants import (
    Answer,
    api_server,
    call,
    limited_namespace,
    make_editor,
    new_token,
    secret,
    without_signature,
)

TREASURE = "canary-treasure-of-others-7f3a"
IN_POD = tuple(pod_probes.attempts(defaultdict(str)))
LONG = {"hyperparameters": {"maxSteps": 100_000}}


def training(job: Object) -> bool:
    return is_true(job, "Running") and (job["status"].get("progress") or {}).get("step", 0) > 0


@dataclass
class Scene:
    """Two namespaces, and the tenant of one."""

    platform: Platform
    mine: str
    theirs: str
    job: Object
    victim: Object

    @cached_property
    def tenant(self) -> str:
        return new_token(self.platform, self.mine, "tenant")

    @cached_property
    def pod(self) -> Object:
        """The training pod."""
        return self.platform.children("pods", self.mine, "attacker", "train")[0]

    @cached_property
    def stopped(self) -> dict[str, str | None]:
        """What stopped each attempt from inside a pod like the training pod."""
        return _from_inside(self)

    def audience(self, job: Object) -> str:
        return audience(*(job["metadata"][key] for key in ("namespace", "name", "uid")))

    def token(self, job: Object, pod: Object | None = None, account: str = "default") -> str:
        """A token for reports of ``job``, as whoever may make tokens in the tenant's namespace makes it."""
        return new_token(self.platform, self.mine, account, self.audience(job), pod)

    def report(self, token: str | None, job: Object, path: str = "", body: bytes = b"", **changes: Any) -> Answer:
        operator = self.platform.operator
        assert operator
        metadata = job["metadata"]
        known = {"uid": metadata["uid"], "attempt": 1, "sequence": 0, "stage": "train"} | changes
        url = f"https://127.0.0.1:{operator.progress_port}"
        path = path or report_path(metadata["namespace"], metadata["name"])
        return call(url + path, "POST", token, body or json.dumps(known).encode())


@pytest.fixture(scope="module")
def scene(platform: Platform) -> Iterator[Scene]:
    roles = [item for item in rendered() if item["metadata"]["name"].endswith(("viewer", "editor"))]
    mine, _ = limited_namespace(platform)
    make_editor(platform, mine, roles)
    theirs = platform.new_namespace()
    platform.kubectl("create", "-f", "-", stdin=yaml.safe_dump(secret(theirs, "treasure", {"key": TREASURE})))
    platform.upload(f"artifacts/{theirs}/prize", TREASURE.encode())
    platform.submit(theirs, "victim", suspend=True)
    platform.submit(mine, "attacker", **LONG)
    job = platform.wait(mine, "attacker", training)
    yield Scene(platform, mine, theirs, job, platform.job(theirs, "victim"))
    for namespace in (mine, theirs):
        platform.kubectl("delete", "namespace", namespace, "--wait=false")
    for role in roles:
        platform.kubectl("delete", "clusterrole", role["metadata"]["name"])


def _from_inside(scene: Scene) -> dict[str, str | None]:
    """Runs the attempts in a copy of the training pod: its token, environment, files and rights.

    Not with its labels, by which the operator would take its end for that of a rank.
    """
    (batch,) = scene.platform.children("jobs", scene.mine, "attacker", "train")
    spec = batch["spec"]["template"]["spec"]
    known = {
        "server": api_server(scene.platform.kubeconfig),
        "mine": scene.mine,
        "theirs": scene.theirs,
        "bucket": scene.platform.bucket,
        "folder": scene.platform.folder,
        "treasure": TREASURE,
        "code": str(Path(finetune_trainer.__file__)),
    }
    container = spec["containers"][0]
    container["command"] = ["python", "-c", Path(pod_probes.__file__).read_text()]
    container["args"] = []
    container["env"].append({"name": "PROBES", "value": json.dumps(known)})
    metadata = {"name": "copy", "namespace": scene.mine}
    scene.platform.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    def ended() -> bool:
        phase = scene.platform.kubectl("get", "pod", "copy", "-n", scene.mine, "-o", "jsonpath={.status.phase}")
        return phase in ("Succeeded", "Failed")

    eventually(ended, 120)
    said = scene.platform.kubectl("logs", "copy", "-n", scene.mine)
    assert said.strip(), "the control failed: the pod may not do what it must"
    return json.loads(said.splitlines()[-1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("attempt", IN_POD)
def test_from_a_pod(scene: Scene, attempt: str) -> None:
    assert scene.stopped[attempt] is not None


def test_nothing_of_others_was_touched(scene: Scene) -> None:
    assert scene.stopped
    assert scene.platform.read(scene.platform.uri(f"artifacts/{scene.theirs}/prize")) == TREASURE.encode()
    assert len(scene.platform.keys(scene.platform.uri(f"artifacts/{scene.theirs}"))) == 1


@pytest.mark.parametrize("attempt", ASKS)
def test_with_the_rights_of_a_tenant(scene: Scene, attempt: str) -> None:
    ask = ASKS[attempt]
    url = api_server(scene.platform.kubeconfig) + filled(ask.path, scene.mine, scene.theirs)
    answer = call(url, ask.method, scene.tenant, body_of(ask, scene.mine, scene.theirs), ask.kind)
    assert answer.status in ask.refusal, answer
    assert ask.says in answer.text
    assert TREASURE not in answer.text


def test_a_restricted_pod_is_allowed(scene: Scene) -> None:
    """The control of the pods that are refused."""
    url = f"{api_server(scene.platform.kubeconfig)}/api/v1/namespaces/{scene.mine}/pods?dryRun=All"
    ask = Ask("POST", url, restricted_pod())
    assert call(url, "POST", scene.tenant, body_of(ask, scene.mine, scene.theirs)).status == 201


def test_a_status_in_a_new_job_is_dropped(scene: Scene) -> None:
    manifest = scene.platform.manifest(scene.mine, "ready-made", suspend=True) | {"status": {"state": "Complete"}}
    url = f"{api_server(scene.platform.kubeconfig)}/apis/finetune.dev/v1alpha1/namespaces/{scene.mine}/finetunejobs"
    answer = call(url, "POST", scene.tenant, json.dumps(manifest).encode())
    assert answer.status == 201, "the control: a tenant may create jobs"
    assert "status" not in json.loads(answer.text)


Report = Callable[[Scene], Answer]
OWN = report_path("{mine}", "attacker")
REPORTS: dict[str, tuple[int, Report]] = {
    "without a token": (401, lambda scene: scene.report(None, scene.job)),
    "with an invented token": (403, lambda scene: scene.report("invented", scene.job)),
    "with a token for the API server": (403, lambda scene: scene.report(scene.tenant, scene.job)),
    "with the operator's name as audience": (
        403,
        lambda scene: scene.report(new_token(scene.platform, scene.mine, "default", "finetune.dev"), scene.job),
    ),
    "with a token of the right audience that is bound to no pod": (
        403,
        lambda scene: scene.report(scene.token(scene.job), scene.job),
    ),
    "of another namespace's job, with a token of its audience made in the own": (
        403,
        lambda scene: scene.report(scene.token(scene.victim), scene.victim),
    ),
    "the same, bound to the own training pod": (
        403,
        lambda scene: scene.report(scene.token(scene.victim, scene.pod), scene.victim),
    ),
    "of another job with the pod's own token": (
        403,
        lambda scene: scene.report(scene.token(scene.job, scene.pod), scene.victim),
    ),
    "of another job under the own UID": (
        403,
        lambda scene: scene.report(scene.token(scene.job, scene.pod), scene.victim, uid=scene.job["metadata"]["uid"]),
    ),
    "of another attempt": (403, lambda scene: scene.report(scene.token(scene.job, scene.pod), scene.job, attempt=2)),
    "with a token that says it does not expire": (
        403,
        lambda scene: scene.report(without_signature(scene.token(scene.job, scene.pod), exp=4_000_000_000), scene.job),
    ),
    "with a token whose audience was changed": (
        403,
        lambda scene: scene.report(
            without_signature(scene.token(scene.job, scene.pod), aud=[scene.audience(scene.victim)]), scene.victim
        ),
    ),
    "by a path that leads up": (
        404,
        lambda scene: scene.report(
            scene.token(scene.job, scene.pod),
            scene.job,
            f"/v1/namespaces/{scene.mine}/finetunejobs/..%2F..%2F{scene.theirs}%2Ffinetunejobs%2Fvictim/progress",
        ),
    ),
    "of the status subresource": (
        404,
        lambda scene: scene.report(
            scene.token(scene.job, scene.pod), scene.job, report_path(scene.mine, "attacker%2Fstatus")
        ),
    ),
    "that selects pods by its UID": (
        400,
        lambda scene: scene.report(
            scene.token(scene.job, scene.pod), scene.job, uid="x,finetune.dev/job-uid=" + "y" * 8
        ),
    ),
    "that is too large": (
        413,
        lambda scene: scene.report(scene.token(scene.job, scene.pod), scene.job, body=b" " * (MAX_REPORT_BYTES + 1)),
    ),
    "that is no JSON": (
        400,
        lambda scene: scene.report(scene.token(scene.job, scene.pod), scene.job, body=b"{"),
    ),
    "that is nested deeply": (
        400,
        lambda scene: scene.report(scene.token(scene.job, scene.pod), scene.job, body=b"[" * 30_000),
    ),
    "with fields of its own": (
        400,
        lambda scene: scene.report(scene.token(scene.job, scene.pod), scene.job, artifact="s3://mine"),
    ),
    "for the metrics": (404, lambda scene: scene.report(None, scene.job, "/metrics")),
}


@pytest.mark.parametrize("attempt", REPORTS)
def test_of_progress(scene: Scene, attempt: str) -> None:
    status, report = REPORTS[attempt]
    assert report(scene).status == status


def test_the_pods_own_report_counts(scene: Scene) -> None:
    """The control: so that the others do not fail for another reason."""
    assert scene.report(scene.token(scene.job, scene.pod), scene.job).status == 204


def test_a_token_of_a_job_that_has_ended_counts_no_more(scene: Scene) -> None:
    """The last of this file: the pod's token is in the operator's memory, and the job ends by its deadline."""
    token = scene.token(scene.job, scene.pod)
    assert scene.report(token, scene.job).status == 204
    patch = '{"spec":{"activeDeadlineSeconds":1}}'
    scene.platform.kubectl("patch", "ftj", "attacker", "-n", scene.mine, "--type=merge", "-p", patch)
    eventually(lambda: is_true(scene.platform.job(scene.mine, "attacker"), "Failed"), 60)
    eventually(lambda: scene.report(token, scene.job).status == 403, 10)
    assert scene.platform.job(scene.theirs, "victim")["status"].get("progress") is None


def test_how_many_attempts_there_are() -> None:
    count = len(IN_POD) + len(ASKS) + len(REPORTS)
    print(f"{count} attempts: {len(IN_POD)} from a pod, {len(ASKS)} of a tenant, {len(REPORTS)} at the operator")
    assert count >= 40
