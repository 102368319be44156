"""Looks at a cluster over one connection. A kubectl for each, five times a second, takes a third of a core."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kubernetes import config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from finetune_sandbox.errors import RequestFailed

Object = dict[str, Any]

# Where the API serves the kinds that tests look at.
_GROUPS = {
    "configmaps": "/api/v1",
    "pods": "/api/v1",
    "services": "/api/v1",
    "jobs": "/apis/batch/v1",
    "networkpolicies": "/apis/networking.k8s.io/v1",
    "events.events.k8s.io": "/apis/events.k8s.io/v1",
    "finetunejobs": "/apis/finetune.dev/v1alpha1",
}


class KubeReader:
    """Reads objects with the rights of a kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        self._client = config.new_client_from_config(str(kubeconfig))

    def get(self, kind: str, namespace: str, name: str) -> Object:
        """One object.

        Raises:
            RequestFailed: there is none, or the API server does not answer.
        """
        return self._ask(f"{_path(kind, namespace)}/{name}")

    def list(self, kind: str, namespace: str, selector: str = "") -> list[Object]:
        """All objects of a kind with the selected labels; each says its own kind, as kubectl has it.

        Raises:
            RequestFailed: the API server does not answer.
        """
        found = self._ask(_path(kind, namespace), labelSelector=selector)
        says = {"apiVersion": found["apiVersion"], "kind": found["kind"].removesuffix("List")}
        return [says | item for item in found["items"]]

    def _ask(self, path: str, **query: str) -> Object:
        try:
            answer = self._client.call_api(
                path,
                "GET",
                query_params=list(query.items()),
                header_params={"Accept": "application/json"},
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
            )
        except (ApiException, HTTPError) as error:
            raise RequestFailed(f"GET {path}: {error}") from error
        return dict(json.loads(answer.data))


def _path(kind: str, namespace: str) -> str:
    return f"{_GROUPS[kind]}/namespaces/{namespace}/{kind.partition('.')[0]}"
