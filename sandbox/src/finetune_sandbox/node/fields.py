"""The downward API: what a pod may learn about itself by ``fieldRef`` and ``resourceFieldRef``."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from finetune_sandbox.node.errors import ContainerConfigError
from finetune_sandbox.node.kube import Json
from finetune_sandbox.node.quantities import divide_quantity

_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")


@dataclass(frozen=True)
class PodAddress:
    """The addresses of a pod and of its node."""

    pod_ip: str
    host_ip: str


def field_value(pod: Json, path: str, address: PodAddress) -> str:
    """The value of a ``fieldRef``; raises ContainerConfigError for a field that is not offered."""
    metadata, spec = pod["metadata"], pod["spec"]
    if found := _SUBSCRIPT.fullmatch(path):
        return str((metadata.get(found[1]) or {}).get(found[2], ""))
    if path in ("metadata.labels", "metadata.annotations"):
        return _format_map(metadata.get(path.removeprefix("metadata.")) or {})
    values = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.uid": metadata["uid"],
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.hostIP": address.host_ip,
        "status.hostIPs": address.host_ip,
        "status.podIP": address.pod_ip,
        "status.podIPs": address.pod_ip,
    }
    if path not in values:
        raise ContainerConfigError(f"unsupported fieldPath: {path}")
    return str(values[path])


def _format_map(values: dict[str, str]) -> str:
    """Lines of ``key="value"`` with the value escaped, as the kubelet writes them."""
    return "\n".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in sorted(values.items()))


def resource_value(pod: Json, container: Json, reference: Json, allocatable: dict[str, str]) -> str:
    """The value of a ``resourceFieldRef``; an absent limit is the node's whole allocatable amount."""
    holder = container
    if name := reference.get("containerName"):
        every = pod["spec"].get("initContainers", []) + pod["spec"]["containers"]
        holder = next((each for each in every if each["name"] == name), container)
    kind, _, resource = reference["resource"].partition(".")
    resources = holder.get("resources") or {}
    amount = (resources.get(kind) or {}).get(resource)
    if amount is None:
        amount = allocatable.get(resource, "0") if kind == "limits" else "0"
    return divide_quantity(str(amount), str(reference.get("divisor") or "0"))
