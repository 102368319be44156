"""What a tenant tries with the role ``edit`` in one namespace: requests to the API server that must all be refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from support.tenants import APPLY, MERGE

Object = dict[str, Any]
JOBS = "/apis/finetune.dev/v1alpha1/namespaces/{ns}/finetunejobs"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
OPERATOR = "finetune-system"
FORBIDDEN = (403,)


@dataclass(frozen=True)
class Ask:
    """One request; ``{mine}`` and ``{theirs}`` in path and body stand for the two namespaces, ``{ns}`` for theirs.

    ``refusal`` are the statuses that mean refused: 403 by RBAC or Pod Security, 400 or 422 by the schema.
    """

    method: str
    path: str
    body: Object | None = None
    kind: str = "application/json"
    refusal: tuple[int, ...] = FORBIDDEN
    says: str = ""


def _core(kind: str, name: str = "", namespace: str = "theirs") -> str:
    return f"/api/v1/namespaces/{{{namespace}}}/{kind}" + (f"/{name}" if name else "")


def restricted_pod(container: Object | None = None, **spec: Any) -> Object:
    """A pod that Pod Security `restricted` lets pass, and what is changed in it."""
    secure = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, **(container or {})}
    containers = [{"name": "main", "image": "none", "securityContext": secure}]
    known = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    metadata = {"name": "probe", "namespace": "{mine}"}
    content = {"containers": containers, "securityContext": known, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": content}


def _binding(kind: str, role: str) -> Object:
    subject = {"kind": "ServiceAccount", "name": "tenant", "namespace": "{mine}"}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
    document = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": "climb"}}
    return document | {"roleRef": reference, "subjects": [subject]}


def _job(**spec: Any) -> Object:
    base: Object = {
        "model": {"source": "s3://models/tiny"},
        "dataset": {"train": [{"source": "s3://data/rows.jsonl"}]},
        "output": {"destination": "s3://results/team"},
        "suspend": True,
    }
    metadata = {"name": "probe", "namespace": "{mine}"}
    return {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": metadata, "spec": base | spec}


def _pods_refused() -> dict[str, Ask]:
    """Pods that the tenant's own namespace refuses, and the word that says why."""
    pods: dict[str, tuple[str, Object]] = {
        "that mounts the host": (
            "hostPath",
            restricted_pod(volumes=[{"name": "host", "hostPath": {"path": "/"}}]),
        ),
        "on the host's network": ("hostNetwork", restricted_pod(hostNetwork=True)),
        "in the host's processes": ("hostPID", restricted_pod(hostPID=True)),
        "that is privileged": ("privileged", restricted_pod({"privileged": True, "allowPrivilegeEscalation": True})),
        "with a capability": ("capabilities", restricted_pod({"capabilities": {"add": ["SYS_ADMIN"]}})),
        "of root": ("runAsUser", restricted_pod({"runAsUser": 0})),
        "with the operator's ServiceAccount": (
            "service account",
            restricted_pod(serviceAccountName="finetune-operator"),
        ),
    }
    path = _core("pods", namespace="mine")
    return {
        f"a pod {name}": Ask("POST", path, pod, refusal=(403, 422), says=word) for name, (word, pod) in pods.items()
    }


_STATUS = {"status": {"state": "Complete", "conditions": []}}
_APPLIED = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "attacker"}} | _STATUS
_OWN_STATUS = JOBS.replace("{ns}", "{mine}") + "/attacker/status?fieldManager=finetune-operator"
_OWN_JOBS = JOBS.replace("{ns}", "{mine}")
_ESCAPES = {"refusal": (422,), "says": "spec."}

ASKS: dict[str, Ask] = {
    "secrets of another namespace": Ask("GET", _core("secrets")),
    "one secret of another namespace": Ask("GET", _core("secrets", "treasure")),
    "run plans of another namespace": Ask("GET", _core("configmaps")),
    "pods of another namespace": Ask("GET", _core("pods")),
    "logs of another namespace": Ask("GET", _core("pods", "any/log")),
    "events of another namespace": Ask("GET", "/apis/events.k8s.io/v1/namespaces/{theirs}/events"),
    "a token of another namespace's ServiceAccount": Ask("POST", _core("serviceaccounts", "default/token"), {}),
    "jobs of another namespace": Ask("GET", JOBS),
    "jobs of all namespaces": Ask("GET", "/apis/finetune.dev/v1alpha1/finetunejobs"),
    "a job in another namespace": Ask("POST", JOBS, _job()),
    "deleting a job of another namespace": Ask("DELETE", f"{JOBS}/victim"),
    "suspending a job of another namespace": Ask("PATCH", f"{JOBS}/victim", {"spec": {"suspend": True}}, MERGE),
    "status of another namespace's job": Ask("PATCH", f"{JOBS}/victim/status", _STATUS, MERGE),
    "status of the own job by merge patch": Ask("PATCH", _OWN_STATUS, _STATUS, MERGE),
    "status of the own job by server-side apply": Ask("PATCH", f"{_OWN_STATUS}&force=true", _APPLIED, APPLY),
    "status of the own job by replacing it": Ask("PUT", _OWN_STATUS, _APPLIED),
    "pods in another namespace": Ask("POST", _core("pods"), restricted_pod()),
    "a command in a pod of another namespace": Ask("POST", _core("pods", "any/exec?command=id")),
    "policies of another namespace": Ask("GET", "/apis/networking.k8s.io/v1/namespaces/{theirs}/networkpolicies"),
    "the CA key of the operator": Ask("GET", f"/api/v1/namespaces/{OPERATOR}/secrets/finetune-operator-progress-ca"),
    "a token of the operator": Ask(
        "POST", f"/api/v1/namespaces/{OPERATOR}/serviceaccounts/finetune-operator/token", {}
    ),
    "a pod beside the operator": Ask("POST", f"/api/v1/namespaces/{OPERATOR}/pods", restricted_pod()),
    "binding the operator's role": Ask(
        "POST", f"{RBAC}/clusterrolebindings", _binding("ClusterRoleBinding", "finetune-operator")
    ),
    "binding cluster-admin": Ask(
        "POST", f"{RBAC}/clusterrolebindings", _binding("ClusterRoleBinding", "cluster-admin")
    ),
    "binding admin in the own namespace": Ask(
        "POST", f"{RBAC}/namespaces/{{mine}}/rolebindings", _binding("RoleBinding", "admin")
    ),
    "widening the role edit": Ask("PATCH", f"{RBAC}/clusterroles/edit", {"rules": []}, MERGE),
    "a role that adds itself to edit": Ask(
        "POST",
        f"{RBAC}/clusterroles",
        {"metadata": {"name": "x", "labels": {"rbac.authorization.k8s.io/aggregate-to-edit": "true"}}, "rules": []},
    ),
    "the CRD": Ask(
        "PATCH",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/finetunejobs.finetune.dev",
        {"spec": {}},
        MERGE,
    ),
    "a profile": Ask("POST", "/apis/finetune.dev/v1alpha1/finetuneprofiles", {"metadata": {"name": "mine"}}),
    "changing a profile": Ask("PATCH", "/apis/finetune.dev/v1alpha1/finetuneprofiles/any", {"spec": {}}, MERGE),
    "reviewing tokens": Ask("POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"spec": {"token": "x"}}),
    "nodes": Ask("GET", "/api/v1/nodes"),
    "a policy for Pod Security": Ask("PATCH", "/api/v1/namespaces/{mine}", {"metadata": {"labels": {}}}, MERGE),
    "a volume of the host": Ask("POST", "/api/v1/persistentvolumes", {"metadata": {"name": "x"}}),
    **_pods_refused(),
    "a job whose destination leads elsewhere": Ask(
        "POST", _OWN_JOBS, _job(output={"destination": "s3://results/{mine}/../{theirs}"}), **_ESCAPES
    ),
    "a job from a job of another namespace": Ask(
        "POST", _OWN_JOBS, _job(model={"source": "job://{theirs}/victim"}), **_ESCAPES
    ),
    "a job with a Secret of another namespace": Ask(
        "POST",
        _OWN_JOBS,
        _job(output={"destination": "s3://a-bucket", "s3": {"credentialsSecretRef": {"name": "{theirs}/treasure"}}}),
        **_ESCAPES,
    ),
}


def filled(text: str, mine: str, theirs: str) -> str:
    return text.replace("{mine}", mine).replace("{theirs}", theirs).replace("{ns}", theirs)


def body_of(ask: Ask, mine: str, theirs: str) -> bytes | None:
    """The body of a request."""
    return None if ask.body is None else filled(json.dumps(ask.body), mine, theirs).encode()
