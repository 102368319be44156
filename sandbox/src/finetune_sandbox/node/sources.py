"""The ConfigMaps and Secrets that a pod refers to: which ones, and their decoded data."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from finetune_sandbox.node.kube import Json, Kube

Kind = Literal["configmap", "secret"]


@dataclass(frozen=True, order=True)
class Reference:
    """A ConfigMap or Secret of the pod's namespace. Reads as Kubernetes names it in messages."""

    kind: Kind
    name: str

    def __str__(self) -> str:
        return f'{self.kind} "{self.name}"'

    def path(self, namespace: str) -> str:
        """Where the API serves it."""
        return f"/api/v1/namespaces/{namespace}/{self.kind}s/{self.name}"


# The data of each reference that was looked up; None for one that does not exist.
Sources = Mapping[Reference, Mapping[str, bytes] | None]


def environment_references(container: Json) -> set[Reference]:
    """What the environment of a container is made from."""
    found = set()
    for entry in container.get("envFrom") or []:
        found |= _reference(entry.get("configMapRef"), "configmap") | _reference(entry.get("secretRef"), "secret")
    for variable in container.get("env") or []:
        origin = variable.get("valueFrom") or {}
        found |= _reference(origin.get("configMapKeyRef"), "configmap")
        found |= _reference(origin.get("secretKeyRef"), "secret")
    return found


def volume_references(volume: Json) -> set[Reference]:
    """What the files of a volume are made from."""
    found = _reference(volume.get("configMap"), "configmap")
    if "secret" in volume:
        found.add(Reference("secret", volume["secret"]["secretName"]))
    for source in (volume.get("projected") or {}).get("sources") or []:
        found |= _reference(source.get("configMap"), "configmap") | _reference(source.get("secret"), "secret")
    return found


def _reference(entry: Json | None, kind: Kind) -> set[Reference]:
    return {Reference(kind, entry["name"])} if entry else set()


def decode(item: Json) -> dict[str, bytes]:
    """Keys and values of a ConfigMap or Secret."""
    if item["kind"] == "Secret":
        return {key: base64.b64decode(value) for key, value in (item.get("data") or {}).items()}
    text = {key: value.encode() for key, value in (item.get("data") or {}).items()}
    return text | {key: base64.b64decode(value) for key, value in (item.get("binaryData") or {}).items()}


async def fetch_sources(kube: Kube, namespace: str, references: Iterable[Reference]) -> Sources:
    """Look all of them up at once; raises KubeError."""
    wanted = sorted(set(references))
    items = await asyncio.gather(*(kube.find(reference.path(namespace)) for reference in wanted))
    return {reference: None if item is None else decode(item) for reference, item in zip(wanted, items, strict=True)}
