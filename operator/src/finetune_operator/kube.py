"""The Kubernetes API: the only module of the operator that imports its client.

The blocking client in a few threads, not the asynchronous one: kopf imports the blocking one anyway where it is
installed, and the generated models of the second would cost another 50 MiB.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from finetune_operator.clock import ClusterClock
from finetune_operator.errors import AlreadyExists, Conflict, KubeError, NamespaceTerminating, NotFound

Object = dict[str, Any]

_THREADS = 8
# Longer than any answer of a healthy API server, short enough that a silent one is noticed.
_TIMEOUT_SECONDS = 30.0
# One look at a job makes up to ten calls: if each look began anew at the first call that fails, an API server that
# refuses one in three would let none come to its end. Every call but the creation of unnamed objects may be repeated.
_RETRY_SECONDS = (0.2, 0.6)
_PASSING = frozenset({429, 500, 502, 503, 504})
# A connection that broke, as by a load balancer that lost its server. Not one that was refused, nor silence, which has
# taken long enough: both come to the queue, which waits longer.
_BROKEN = "ConnectionBroken"
# An overloaded API server asks for a second; what asks for more is served by the queue's longer waits.
_LONGEST_ASKED_SECONDS = 5.0
_APPLY = "application/apply-patch+yaml"
_JSON = "application/json"
# https://kubernetes.io/docs/reference/using-api/api-concepts/#metadata-only-fetches
_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
# Objects of one answer: a list of thousands of pods at once would take hundreds of MiB.
_PAGE = "200"
_PLURALS = {
    ("v1", "ConfigMap"): "configmaps",
    ("v1", "Service"): "services",
    ("v1", "Secret"): "secrets",
    ("batch/v1", "Job"): "jobs",
    ("networking.k8s.io/v1", "NetworkPolicy"): "networkpolicies",
    ("events.k8s.io/v1", "Event"): "events",
}


@dataclass(frozen=True)
class TokenOwner:
    """Whom a token was made for.

    Attributes:
        user: such as ``system:serviceaccount:team:default``.
        pod_uid: the pod that the token dies with; None for one that is bound to none.
    """

    user: str
    pod_uid: str | None


def token_owner(user: Object) -> TokenOwner:
    """Reads the UserInfo of a TokenReview."""
    pods: list[str] = (user.get("extra") or {}).get("authentication.kubernetes.io/pod-uid") or []
    return TokenOwner(str(user.get("username", "")), pods[0] if len(pods) == 1 else None)


@dataclass(frozen=True)
class Credentials:
    """How to reach the API server, for a second client such as kopf's."""

    server: str
    ca_file: str | None
    token: str | None
    certificate_file: str | None
    key_file: str | None
    verify: bool


def load_configuration() -> client.Configuration:
    """Reads the kubeconfig named by KUBECONFIG (or the usual file), else the ServiceAccount of the pod.

    Raises:
        KubeError: neither is there.
    """
    configuration = client.Configuration()
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
            config.load_incluster_config(client_configuration=configuration)
        else:
            config.load_kube_config(client_configuration=configuration)
    except config.ConfigException as error:
        raise KubeError(0, "NoConfiguration", f"no way to reach Kubernetes: {error}") from error
    return configuration


def credentials(configuration: client.Configuration) -> Credentials:
    """The current credentials; a token in a file is read anew, since it is rotated."""
    key = configuration.get_api_key_with_prefix("BearerToken") or ""
    return Credentials(
        server=configuration.host,
        ca_file=configuration.ssl_ca_cert,
        # "Bearer ..." of a kubeconfig, "bearer ..." of a ServiceAccount.
        token=key.rpartition(" ")[2] or None,
        certificate_file=configuration.cert_file,
        key_file=configuration.key_file,
        verify=configuration.verify_ssl,
    )


def collection_path(api_version: str, plural: str, namespace: str | None) -> str:
    """Path of a collection of objects."""
    root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    return f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"


def _path_of(manifest: Object) -> str:
    plural = _PLURALS[manifest["apiVersion"], manifest["kind"]]
    return collection_path(manifest["apiVersion"], plural, manifest["metadata"]["namespace"])


def error_of(status: int, body: str) -> KubeError:
    """The error that an answer of the API server stands for."""
    reason, message, causes = "", body, []
    try:
        answer = json.loads(body or "{}")
        reason, message = answer.get("reason", ""), answer.get("message", body)
        causes = [cause.get("reason") for cause in (answer.get("details") or {}).get("causes") or ()]
    except ValueError:
        pass  # A proxy's error page is no Status object; its text is all there is to tell.
    kinds: dict[int, type[KubeError]] = {404: NotFound, 409: Conflict}
    if reason == "AlreadyExists":
        kinds[409] = AlreadyExists
    if "NamespaceTerminating" in causes:
        kinds[403] = NamespaceTerminating
    return kinds.get(status, KubeError)(status, reason, message[:1024])


def asked_seconds(headers: Mapping[str, str]) -> float:
    """What the API server asked to wait; it sends whole seconds."""
    asked = headers.get("Retry-After", "")
    return float(asked) if asked.isdecimal() else 0.0


def _passes(error: KubeError) -> bool:
    """Whether the same call may well succeed a moment later."""
    return error.status in _PASSING or error.reason == _BROKEN


# Told of every request, in the thread that made it: method, resource, HTTP status (0 for no answer), seconds.
Observer = Callable[[str, str, int, float], None]


def resource_of(path: str) -> str:
    """The kind of objects that a path is about, such as ``pods`` or ``finetunejobs/status``."""
    parts = path.strip("/").split("/")
    kinds = parts[2:] if parts[0] == "api" else parts[3:]
    if kinds[0] == "namespaces" and len(kinds) > 2:
        kinds = kinds[2:]
    return "/".join(kinds[::2])


def _unobserved(method: str, resource: str, status: int, seconds: float) -> None:
    """Nobody wants to know."""


class Kube:
    """The calls that the operator makes."""

    def __init__(self, configuration: client.Configuration, observer: Observer = _unobserved) -> None:
        self._observer = observer
        # Not by urllib3, which knows nothing of what may be repeated.
        configuration.retries = False
        configuration.connection_pool_maxsize = _THREADS
        self._client = client.ApiClient(configuration)
        self.clock = ClusterClock()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="kube")

    def close(self) -> None:
        """Ends the threads; a call under way is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    async def _call(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        query: dict[str, str] | None = None,
        content_type: str = _JSON,
        accepted: str = _JSON,
    ) -> Object:
        """One request, in a thread.

        Raises:
            KubeError: refused, or no answer.
        """
        send = functools.partial(self._send, method, path, body, query, content_type, accepted)
        loop = asyncio.get_running_loop()
        named = method != "POST" or (body is not None and "name" in body.get("metadata", {}))
        for delay in _RETRY_SECONDS if named else ():
            try:
                return await loop.run_in_executor(self._threads, send)
            except KubeError as error:
                if not _passes(error):
                    raise
                delay = max(delay, min(error.asked_seconds, _LONGEST_ASKED_SECONDS))
            await asyncio.sleep(delay)
        return await loop.run_in_executor(self._threads, send)

    def _send(
        self,
        method: str,
        path: str,
        body: Object | None,
        query: dict[str, str] | None,
        content_type: str,
        accepted: str,
    ) -> Object:
        started, status = time.monotonic(), 0
        try:
            result, _, headers = self._client.call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params={"Content-Type": content_type, "Accept": accepted},
                body=body,
                auth_settings=["BearerToken"],
                response_types_map={200: "object", 201: "object", 202: "object"},
                _request_timeout=_TIMEOUT_SECONDS,
            )
            status = 200
            self.clock.hear(headers.get("Date"))
        except ApiException as error:
            status = error.status or 0
            self.clock.hear((error.headers or {}).get("Date"))
            refused = error_of(status, str(error.body or error.reason or ""))
            refused.asked_seconds = asked_seconds(error.headers or {})
            raise refused from error
        except urllib3.exceptions.ProtocolError as error:
            raise KubeError(0, _BROKEN, f"{method} {path}: {error}") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise KubeError(0, "Unreachable", f"{method} {path}: {error or type(error).__name__}") from error
        finally:
            self._observer(method, resource_of(path), status, time.monotonic() - started)
        return dict(result or {})

    async def get(self, api_version: str, plural: str, namespace: str | None, name: str) -> Object:
        return await self._call("GET", f"{collection_path(api_version, plural, namespace)}/{name}")

    async def list(self, api_version: str, plural: str, namespace: str | None, selector: str = "") -> list[Object]:
        query = {"labelSelector": selector} if selector else None
        answer = await self._call("GET", collection_path(api_version, plural, namespace), query=query)
        return list(answer.get("items") or ())

    async def pages(
        self, api_version: str, plural: str, namespace: str | None, selector: str = "", metadata_only: bool = False
    ) -> AsyncIterator[Sequence[Object]]:
        """All objects of a collection, some hundred at a time; if asked for, of each only its metadata."""
        path, following = collection_path(api_version, plural, namespace), ""
        query = {"limit": _PAGE} | ({"labelSelector": selector} if selector else {})
        accepted = _METADATA if metadata_only else _JSON
        while True:
            asked = query | ({"continue": following} if following else {})
            answer = await self._call("GET", path, query=asked, accepted=accepted)
            yield answer.get("items") or ()
            following = (answer.get("metadata") or {}).get("continue") or ""
            if not following:
                return

    async def create(self, manifest: Object, manager: str) -> Object:
        """Creates an object.

        Raises:
            AlreadyExists: there is one of that name, ours or not.
        """
        return await self._call("POST", _path_of(manifest), body=manifest, query={"fieldManager": manager})

    async def read_same(self, manifest: Object) -> Object:
        """The object that has the kind and name of ``manifest``."""
        return await self._call("GET", f"{_path_of(manifest)}/{manifest['metadata']['name']}")

    async def apply_status(self, manifest: Object, plural: str, manager: str) -> Object:
        """Server-side apply of a status. ``metadata.uid`` in the manifest guards against a newer object of the name."""
        metadata = manifest["metadata"]
        path = collection_path(manifest["apiVersion"], plural, metadata["namespace"])
        query = {"fieldManager": manager, "force": "true"}
        return await self._call("PATCH", f"{path}/{metadata['name']}/status", manifest, query, _APPLY)

    async def apply(self, manifest: Object, plural: str, manager: str) -> Object:
        """Server-side apply of an object's metadata or spec, guarded as a status is."""
        metadata = manifest["metadata"]
        path = collection_path(manifest["apiVersion"], plural, metadata["namespace"])
        query = {"fieldManager": manager, "force": "true"}
        return await self._call("PATCH", f"{path}/{metadata['name']}", manifest, query, _APPLY)

    async def delete(self, api_version: str, plural: str, namespace: str, name: str) -> None:
        """Deletes an object and, in the background, what it owns. One that is gone already is fine."""
        path = f"{collection_path(api_version, plural, namespace)}/{name}"
        with contextlib.suppress(NotFound):
            await self._call("DELETE", path, query={"propagationPolicy": "Background"})

    async def delete_job(self, namespace: str, name: str) -> None:
        """Deletes a batch Job and its pods."""
        await self.delete("batch/v1", "jobs", namespace, name)

    async def review_token(self, token: str, audience: str) -> TokenOwner | None:
        """Whose a token is; None when it is not valid or not meant for an audience."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        answer = await self._call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body=body)
        status = answer.get("status") or {}
        if not status.get("authenticated") or audience not in (status.get("audiences") or ()):
            return None
        return token_owner(status.get("user") or {})
