"""What the answers of an API server stand for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kubernetes.config import incluster_config, kube_config

from finetune_operator.errors import AlreadyExists, Conflict, KubeError, NamespaceTerminating, NotFound
from finetune_operator.kube import (
    TokenOwner,
    collection_path,
    credentials,
    error_of,
    load_configuration,
    resource_of,
    token_owner,
)


def _status(reason: str, message: str, **details: Any) -> str:
    return json.dumps({"kind": "Status", "reason": reason, "message": message, "details": details})


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (404, _status("NotFound", "no such job"), NotFound, "NotFound: no such job"),
        (409, _status("AlreadyExists", "jobs x exists"), AlreadyExists, "AlreadyExists: jobs x exists"),
        (409, _status("Conflict", "another uid"), Conflict, "Conflict: another uid"),
        (403, _status("Forbidden", "exceeded quota"), KubeError, "Forbidden: exceeded quota"),
        (
            403,
            _status("Forbidden", "unable to create", causes=[{"reason": "NamespaceTerminating"}]),
            NamespaceTerminating,
            "Forbidden: unable to create",
        ),
        (502, "<html>Bad Gateway</html>", KubeError, "502: <html>Bad Gateway</html>"),
        (500, "", KubeError, "500: "),
    ],
)
def test_error(status: int, body: str, kind: type[KubeError], text: str) -> None:
    error = error_of(status, body)
    assert type(error) is kind
    assert (error.status, str(error)) == (status, text)


def test_a_page_of_text_is_cut() -> None:
    assert len(str(error_of(502, "x" * 5000))) < 1100


@pytest.mark.parametrize(
    ("version", "plural", "namespace", "path"),
    [
        ("v1", "pods", "team", "/api/v1/namespaces/team/pods"),
        ("batch/v1", "jobs", "team", "/apis/batch/v1/namespaces/team/jobs"),
        ("finetune.dev/v1alpha1", "finetunejobs", None, "/apis/finetune.dev/v1alpha1/finetunejobs"),
    ],
)
def test_path(version: str, plural: str, namespace: str | None, path: str) -> None:
    assert collection_path(version, plural, namespace) == path


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/api/v1/pods", "pods"),
        ("/api/v1/namespaces/team/pods", "pods"),
        ("/api/v1/namespaces/team/configmaps/plan", "configmaps"),
        ("/apis/batch/v1/namespaces/team/jobs/train-1", "jobs"),
        ("/apis/finetune.dev/v1alpha1/finetunejobs", "finetunejobs"),
        ("/apis/finetune.dev/v1alpha1/namespaces/team/finetunejobs/haiku/status", "finetunejobs/status"),
        ("/apis/authentication.k8s.io/v1/tokenreviews", "tokenreviews"),
        ("/api/v1/namespaces/team", "namespaces"),
    ],
)
def test_what_a_path_is_about(path: str, resource: str) -> None:
    assert resource_of(path) == resource


KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: here, user: me}}]
clusters: [{name: here, cluster: {server: "https://api.example:6443"}}]
users: [{name: me, user: {token: abc}}]
"""


def test_a_token_is_the_bare_token_wherever_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config"
    file.write_text(KUBECONFIG)
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(file))
    monkeypatch.setenv("KUBECONFIG", str(file))
    known = credentials(load_configuration())
    assert (known.server, known.token) == ("https://api.example:6443", "abc")
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    for variable, text in (("SERVICE_TOKEN_FILENAME", "abc"), ("SERVICE_CERT_FILENAME", "certificate")):
        (tmp_path / variable).write_text(text)
        monkeypatch.setattr(incluster_config, variable, str(tmp_path / variable))
    known = credentials(load_configuration())
    assert (known.server, known.token) == ("https://10.0.0.1:443", "abc")


def test_whose_a_token_is() -> None:
    extra = {"authentication.kubernetes.io/pod-uid": ["pod-a"], "authentication.kubernetes.io/pod-name": ["a"]}
    assert token_owner({"username": "system:serviceaccount:a:b", "extra": extra}) == TokenOwner(
        "system:serviceaccount:a:b", "pod-a"
    )
    assert token_owner({"username": "jane"}) == TokenOwner("jane", None)
    assert token_owner({}) == TokenOwner("", None)
