"""The Kubernetes API: the only module of the command line that imports its client."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import urllib3
import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from finetune_cli.cluster.calls import PODS, Call
from finetune_cli.cluster.refusals import refusal
from finetune_cli.cluster.target import Target
from finetune_cli.documents import Object, objects_at
from finetune_cli.errors import ClusterError, HiccupError

FIELD_MANAGER = "kubectl-finetune"
# Longer than any answer of a healthy API server.
_TIMEOUT_SECONDS = 30.0
_PAGE = 500
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_LOG_CHUNK = 1 << 16
Query = Sequence[tuple[str, str]]


class Kube:
    """The calls that the commands make, each one request.

    All raise ``ClusterError`` when the cluster cannot be used (``HiccupError`` when another try may succeed) and
    ``MissingObjectError`` when a named object is not there.
    """

    def __init__(self, configuration: client.Configuration, namespace: str) -> None:
        # Whoever wants another try says so: a person waits for an answer, not for a retry.
        configuration.retries = False
        self.namespace = namespace
        self._host = configuration.host
        self._client = client.ApiClient(configuration)

    def list(self, plural: str, namespace: str | None, selector: str = "") -> list[Object]:
        """All objects of a kind, page by page."""
        call, items, token = Call("list", plural, namespace), list[Object](), ""
        while True:
            query = [("limit", str(_PAGE)), ("labelSelector", selector), ("continue", token)]
            answer = self._json(call, "GET", [pair for pair in query if pair[1]])
            items += objects_at(answer, "items")
            token = str((answer.get("metadata") or {}).get("continue") or "")
            if not token:
                return items

    def get(self, plural: str, namespace: str, name: str) -> Object:
        return self._json(Call("get", plural, namespace, name), "GET")

    def patch(self, plural: str, body: Object, content_type: str, query: Query = ()) -> Object:
        """Changes the object that ``body`` names, or with server-side apply makes it so."""
        metadata = body["metadata"]
        call = Call("patch", plural, metadata["namespace"], metadata["name"])
        options = [("fieldManager", FIELD_MANAGER), ("fieldValidation", "Strict"), *query]
        return self._json(call, "PATCH", options, body, content_type)

    def delete(self, plural: str, namespace: str, name: str, uid: str) -> Object:
        """Deletes this very object, and in the background what belongs to it."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}}
        call = Call("delete", plural, namespace, name)
        return self._json(call, "DELETE", body=body | {"propagationPolicy": "Background"})

    def log(self, namespace: str, pod: str, follow: bool = False, tail: int | None = None) -> Iterator[bytes]:
        """A pod's log in pieces, or its last ``tail`` lines; with ``follow`` until the container ends."""
        call = Call("get", PODS, namespace, pod, "log")
        query = [*([("follow", "true")] if follow else []), *([("tailLines", str(tail))] if tail is not None else [])]
        response = self._send(call, "GET", query, stream=True, patient=follow)
        with closing(response):
            try:
                yield from response.stream(_LOG_CHUNK)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise HiccupError(f"the log of {pod} broke off: {_cause(error)}; run the command again") from error

    def _json(
        self, call: Call, method: str, query: Query = (), body: Object | None = None, content_type: str = ""
    ) -> Object:
        return dict(self._send(call, method, query, body, content_type) or {})

    def _send(
        self,
        call: Call,
        method: str,
        query: Query,
        body: Object | None = None,
        content_type: str = "",
        stream: bool = False,
        patient: bool = False,
    ) -> Any:
        try:
            return self._client.call_api(
                call.path,
                method,
                query_params=list(query),
                header_params={"Content-Type": content_type or "application/json", "Accept": "application/json, */*"},
                body=body,
                auth_settings=["BearerToken"],
                response_types_map={200: "object", 201: "object", 202: "object"},
                _return_http_data_only=True,
                _preload_content=not stream,
                _request_timeout=(_TIMEOUT_SECONDS, None) if patient else _TIMEOUT_SECONDS,
            )
        except ApiException as error:
            raise refusal(call, error.status or 0, _text(error.body) or str(error.reason or "")) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise HiccupError(
                f"the API server at {self._host} does not answer: {_cause(error)}. Check that it runs and can be "
                "reached from here (kubectl cluster-info), or choose another one with --context or --kubeconfig"
            ) from error


def connect(target: Target) -> Kube:
    """Reads the credentials as kubectl does: --kubeconfig, KUBECONFIG (a list of files), the usual file, else the
    ServiceAccount of the pod.

    Raises:
        ClusterError: there are none, or they cannot be read.
    """
    configuration = client.Configuration()
    _refuse_absent(target)
    try:
        if _in_cluster(target):
            config.load_incluster_config(client_configuration=configuration)
            known = _NAMESPACE_FILE.read_text().strip() if _NAMESPACE_FILE.exists() else ""
        else:
            config.load_kube_config(_files(target), target.context, configuration, persist_config=False)
            known = _context_namespace(target)
    except (config.ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        # The client reads the file without checking its form: any of these is a file that is not as it should be.
        raise ClusterError(
            f"no way to a cluster: {_cause(error)}. Name a kubeconfig with --kubeconfig or KUBECONFIG and a context in "
            "it with --context; kubectl config get-contexts lists them"
        ) from error
    return Kube(configuration, target.namespace or known or "default")


def _refuse_absent(target: Target) -> None:
    if _in_cluster(target) or any(Path(file).is_file() for file in _files(target).split(os.pathsep)):
        return
    said = "--kubeconfig " if target.kubeconfig else "KUBECONFIG " if os.environ.get("KUBECONFIG") else ""
    raise ClusterError(
        f"no way to a cluster: {said}{_files(target)}: there is no such file. Name a kubeconfig with --kubeconfig or "
        "KUBECONFIG"
    )


def _files(target: Target) -> str:
    """The kubeconfig, or a list of them. Said to the client at each call: it reads KUBECONFIG when it is imported."""
    return target.kubeconfig or os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")


def _in_cluster(target: Target) -> bool:
    if target.kubeconfig or target.context or os.environ.get("KUBECONFIG"):
        return False
    return "KUBERNETES_SERVICE_HOST" in os.environ and not (Path.home() / ".kube" / "config").exists()


def _context_namespace(target: Target) -> str:
    contexts, active = config.list_kube_config_contexts(_files(target))
    chosen = next((one for one in contexts if one["name"] == target.context), active)
    return str((chosen.get("context") or {}).get("namespace") or "")


def context_names(target: Target) -> list[str]:
    """Names of the contexts of the kubeconfig."""
    contexts, _ = config.list_kube_config_contexts(_files(target))
    return [str(context["name"]) for context in contexts]


def _text(body: Any) -> str:
    return body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")


def _cause(error: BaseException) -> str:
    """The part of a client's error that says something, without the objects it was raised in."""
    said = str(error).rpartition(">: ")[2].rpartition("Caused by ")[2]
    return " ".join(said.split()).rstrip(".") or type(error).__name__
