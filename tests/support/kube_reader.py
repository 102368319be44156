"""Looks at a cluster over one connection. A kubectl for each, five times a second, takes a third of a core."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kubernetes import config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from finetune_sandbox.errors import RequestFailed

Object = dict[str, Any]

_CONNECT_SECONDS = 5.0
# How long a watch may be silent beyond its time, and how soon it begins again after its end.
_OVERTIME_SECONDS, _AGAIN_SECONDS = 5.0, 0.2

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

    def changes(self, kind: str, namespace: str, name: str, seconds: float) -> Iterator[Object]:
        """One object as it is, and anew whenever it has changed, until the time is over.

        Raises:
            RequestFailed: there is none, or not any more, or the API server does not answer.
        """
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            found = self.get(kind, namespace, name)
            yield found
            yield from self._following(_path(kind, namespace), found["metadata"], left)
            time.sleep(_AGAIN_SECONDS)

    def _following(self, path: str, metadata: Object, seconds: float) -> Iterator[Object]:
        """The later versions of an object. Ends with the watch, for whatever cause: then it is to be read again."""
        query = {
            "watch": "true",
            "fieldSelector": f"metadata.name={metadata['name']}",
            "resourceVersion": metadata["resourceVersion"],
            "timeoutSeconds": str(math.ceil(seconds)),
        }
        answer = self._open(path, (_CONNECT_SECONDS, seconds + _OVERTIME_SECONDS), **query)
        try:
            for line in answer:
                event = json.loads(line)
                if event["type"] != "MODIFIED":
                    return
                yield event["object"]
        except HTTPError:
            return
        finally:
            answer.close()

    def _ask(self, path: str, **query: str) -> Object:
        return dict(json.loads(self._open(path, None, **query).data))

    def _open(self, path: str, timeout: tuple[float, float] | None, **query: str) -> Any:
        try:
            return self._client.call_api(
                path,
                "GET",
                query_params=list(query.items()),
                header_params={"Accept": "application/json"},
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=timeout,
            )
        except (ApiException, HTTPError) as error:
            raise RequestFailed(f"GET {path}: {error}") from error


def _path(kind: str, namespace: str) -> str:
    return f"{_GROUPS[kind]}/namespaces/{namespace}/{kind.partition('.')[0]}"
