"""Volumes, tokens and environment of pods on a running sandbox."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_sandbox import Sandbox

HARDENED = {
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
}


def run_script(space: Any, script: str, mounts: dict[str, str], volumes: list[dict[str, Any]], **container: Any) -> str:
    """Output of a pod that runs ``script`` with ``volumes``, mounted by name."""
    main = {"volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts.items()], **container}
    space.pod("p", ["sh", "-ec", script], container=main, volumes=volumes)
    status = space.ended("p")
    output: str = space.run("logs", "p")
    assert status["phase"] == "Succeeded", output
    return output


def test_environment_of_a_container(space: Any) -> None:
    script = "env | cut -d= -f1 | grep -v PWD | sort | tr '\\n' ' '"
    output = run_script(space, script, {}, [], env=[{"name": "MINE", "value": "x"}])
    cluster = ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"]
    assert output.split() == ["HOME", "HOSTNAME", *cluster, "LANG", "MINE", "PATH"]


def test_volumes_appear_at_paths_that_the_host_lacks(space: Any) -> None:
    space.run("create", "configmap", "plan", "--from-literal=plan.json={}", "--from-literal=other=x")
    space.run("create", "secret", "generic", "keys", "--from-literal=key=s3cr3t")
    volumes = [
        {"name": "plan", "configMap": {"name": "plan", "items": [{"key": "plan.json", "path": "deep/plan.json"}]}},
        {"name": "keys", "secret": {"secretName": "keys", "defaultMode": 0o400}},
        {"name": "work", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
        {"name": "info", "downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        {"name": "none", "secret": {"secretName": "none", "optional": True}},
    ]
    mounts = {
        "plan": "/etc/finetune", "keys": "/keys", "work": "/workspace/a",
        "memory": "/tmp", "info": "/info", "none": "/none",
    }  # fmt: skip
    script = (
        "cat /etc/finetune/deep/plan.json; echo; ls /etc/finetune; cat /keys/key; echo; stat -Lc %a /keys/key;"
        "stat -fc %T /tmp; cat /info/name; echo; ls /none | wc -l; touch /workspace/a/x /tmp/x;"
        "touch /etc/finetune/x 2>&1 || true; python -c 'import finetune_sandbox; print(7)'"
    )
    assert run_script(space, script, mounts, volumes).splitlines() == [
        "{}", "deep", "s3cr3t", "400", "tmpfs", "p", "0",
        "touch: cannot touch '/etc/finetune/x': Read-only file system", "7",
    ]  # fmt: skip


def test_a_restricted_pod(space: Any) -> None:
    label = "pod-security.kubernetes.io/enforce=restricted"
    space.run("label", "namespace", space.namespace, label)
    main = {"securityContext": HARDENED}
    pod_security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    script = "id -u; id -un; touch /x || touch /tmp/x || touch ~/x || echo refused"
    space.pod("p", ["sh", "-c", script], container=main, securityContext=pod_security)
    assert space.ended("p")["phase"] == "Succeeded"
    lines = space.run("logs", "p").splitlines()
    assert [line for line in lines if "Read-only" not in line] == ["65532", "nonroot", "refused"]


def test_the_home_folder_and_tmp_are_empty_and_the_containers_own(space: Any) -> None:
    seen = set(run_script(space, "touch /tmp/a ~/b /var/tmp/c; ls -A /tmp", {}, []).split())
    assert seen - _kept_visible("/tmp") == {"a"}


def _kept_visible(folder: str) -> set[str]:
    """Entries of a folder that lead to the interpreter and this clone, which every container sees."""
    places = [Path(place) for place in (*sys.path, sys.prefix, sys.base_prefix) if place.startswith(f"{folder}/")]
    return {place.relative_to(folder).parts[0] for place in places}


def test_a_projected_token_is_for_its_audience_and_pod(space: Any) -> None:
    token = {"serviceAccountToken": {"audience": "job-a", "expirationSeconds": 600, "path": "token"}}
    volumes = [{"name": "t", "projected": {"sources": [token]}}]
    output = run_script(space, "cat /var/run/finetune/token/token", {"t": "/var/run/finetune/token"}, volumes)
    body = output.strip().split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    assert claims["aud"] == ["job-a"]
    assert claims["exp"] - claims["iat"] == 600
    assert claims["kubernetes.io"]["pod"]["uid"] == space.get("pod", "p")["metadata"]["uid"]
    assert claims["sub"] == f"system:serviceaccount:{space.namespace}:default"


def test_a_service_account_is_mounted_unless_that_is_refused(space: Any) -> None:
    folder = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert run_script(space, f"ls {folder}", {}, []).split() == ["ca.crt", "namespace", "token"]


def test_a_changed_config_map_reaches_a_running_pod(space: Any) -> None:
    space.run("create", "configmap", "plan", "--from-literal=a=old")
    script = "until grep -q new /plan/a; do sleep 0.1; done; cat /plan/a"
    main = {"volumeMounts": [{"name": "v", "mountPath": "/plan"}]}
    space.pod("p", ["sh", "-c", script], container=main, volumes=[{"name": "v", "configMap": {"name": "plan"}}])
    space.state("p", "running")
    space.run("patch", "configmap", "plan", "-p", '{"data": {"a": "new"}}')
    assert space.ended("p")["phase"] == "Succeeded"
    assert space.run("logs", "p").strip() == "new"


@pytest.mark.parametrize("read_only", [False, True])
def test_claims_keep_their_data_between_pods_and_lose_it_with_the_claim(
    space: Any, sandbox: Sandbox, read_only: bool
) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "models"},
        "spec": {
            "storageClassName": "sandbox",
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    space.apply(claim)
    bound = space.until("pvc", "models", lambda found: found["status"]["phase"] == "Bound")
    volume = bound["spec"]["volumeName"]
    folder = sandbox.state_dir / "pods" / "volumes" / space.namespace / "models"
    assert folder.stat().st_mode & 0o777 == 0o777
    (folder / "weights").write_text("w")
    mount = {"name": "m", "mountPath": "/mnt/pvc/models", "readOnly": read_only}
    volumes = [{"name": "m", "persistentVolumeClaim": {"claimName": "models"}}]
    script = "cat /mnt/pvc/models/weights; touch /mnt/pvc/models/new"
    space.pod("p", ["sh", "-c", script], container={"volumeMounts": [mount]}, volumes=volumes)
    assert space.ended("p")["phase"] == ("Failed" if read_only else "Succeeded")
    assert (folder / "new").exists() is not read_only
    space.run("delete", "pod", "p")
    space.run("delete", "pvc", "models")
    while space.kubectl("get", "pv", volume).returncode == 0:
        assert folder.parent.parent.exists()
    assert not folder.exists()


def test_sub_paths(space: Any) -> None:
    space.run("create", "configmap", "plan", "--from-literal=a=one", "--from-literal=b=two")
    mounts = [
        {"name": "plan", "mountPath": "/etc/single", "subPath": "a"},
        {"name": "work", "mountPath": "/work-a", "subPath": "deep/er"},
        {"name": "work", "mountPath": "/work-b"},
    ]
    volumes = [{"name": "plan", "configMap": {"name": "plan"}}, {"name": "work", "emptyDir": {}}]
    script = "cat /etc/single; echo; touch /work-a/x; ls /work-b/deep/er"
    space.pod("p", ["sh", "-ec", script], container={"volumeMounts": mounts}, volumes=volumes)
    assert space.ended("p")["phase"] == "Succeeded"
    assert space.run("logs", "p").split() == ["one", "x"]


def test_fields_and_resources_in_the_environment(space: Any) -> None:
    def field(name: str, path: str) -> dict[str, Any]:
        return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}

    env = [
        field("NAME", "metadata.name"),
        field("SPACE", "metadata.namespace"),
        field("NODE", "spec.nodeName"),
        field("ADDRESS", "status.podIP"),
        field("APP", "metadata.labels['app']"),
        field("NOTE", "metadata.annotations['note']"),
        {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        {"name": "ALL", "value": "$(NAME)/$(APP)/$$(APP)/$(NONE)"},
    ]
    container = {"env": env, "resources": {"limits": {"memory": "1Gi"}}}
    script = 'echo "$NAME $SPACE $NODE $ADDRESS $APP $NOTE $MEMORY $ALL"; getent hosts $(hostname)'
    space.pod("p", ["sh", "-c", script.replace("$(", "$$(")], container=container, annotations={"note": "n"})
    status = space.ended("p")
    node = space.get("pod", "p")["spec"]["nodeName"]
    first, second = space.run("logs", "p").splitlines()
    assert first == f"p {space.namespace} {node} {status['podIP']} p n 1024 p/p/$(APP)/$(NONE)"
    assert second.split() == [status["podIP"], "p"]
