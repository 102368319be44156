"""A container's command line and environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from finetune_sandbox.node.errors import ContainerConfigError, ContainerCreateError
from finetune_sandbox.node.fields import PodAddress, field_value, resource_value
from finetune_sandbox.node.kube import Json
from finetune_sandbox.node.quantities import parse_quantity
from finetune_sandbox.node.sources import Kind, Reference, Sources

GPU_RESOURCE = "nvidia.com/gpu"
# Tells the trainer that the node's GPUs are numbers only and that it shall compute on the CPU in their place.
SIMULATED_GPUS = "FINETUNE_SIMULATED_GPUS"
_EXPRESSION = re.compile(r"\$\$|\$\(([^)]*)\)")


@dataclass(frozen=True)
class Setting:
    """What a container's environment is made from, beside the container itself."""

    pod: Json
    address: PodAddress
    allocatable: dict[str, str]
    sources: Sources
    base: Mapping[str, str]


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` by the variable where there is one; ``$$`` stands for ``$``.

    Kubernetes' rules (third_party/forked/golang/expansion): what is not defined stays as it is written.
    """

    def replace(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        return variables.get(found[1], found[0])

    return _EXPRESSION.sub(replace, text)


def build_environment(container: Json, setting: Setting) -> dict[str, str]:
    """The process environment; raises ContainerConfigError for a reference that must exist and does not."""
    declared: dict[str, str] = {}
    for entry in container.get("envFrom") or []:
        declared |= _environment_from(entry, setting)
    for variable in container.get("env") or []:
        origin = variable.get("valueFrom")
        value = expand(variable.get("value") or "", declared) if origin is None else _origin(origin, container, setting)
        if value is not None:
            declared[variable["name"]] = value
    return {**setting.base, **_simulated_gpus(container), **declared}


def build_command(container: Json, environment: Mapping[str, str]) -> list[str]:
    """The command line; raises ContainerCreateError when the image was to supply it."""
    command = [expand(word, environment) for word in container.get("command") or []]
    if not command:
        raise ContainerCreateError(
            f'container "{container["name"]}" has no command: the sandbox runs processes, not images, '
            "so there is no entrypoint to fall back on; set command"
        )
    return command + [expand(word, environment) for word in container.get("args") or []]


def _simulated_gpus(container: Json) -> dict[str, str]:
    limits = (container.get("resources") or {}).get("limits") or {}
    count = int(parse_quantity(str(limits.get(GPU_RESOURCE, "0"))))
    return {SIMULATED_GPUS: str(count)} if count else {}


def _environment_from(entry: Json, setting: Setting) -> dict[str, str]:
    prefix = entry.get("prefix") or ""
    values: dict[str, str] = {}
    for field, kind in _FROM.items():
        if field in entry:
            data = _lookup(Reference(kind, entry[field]["name"]), bool(entry[field].get("optional")), setting) or {}
            values |= {prefix + key: value.decode(errors="surrogateescape") for key, value in data.items()}
    return values


_FROM: dict[str, Kind] = {"configMapRef": "configmap", "secretRef": "secret"}
_KEYS: dict[str, Kind] = {"configMapKeyRef": "configmap", "secretKeyRef": "secret"}


def _origin(origin: Json, container: Json, setting: Setting) -> str | None:
    """The value that a ``valueFrom`` stands for; None when it is optional and not there."""
    if "fieldRef" in origin:
        return field_value(setting.pod, origin["fieldRef"]["fieldPath"], setting.address)
    if "resourceFieldRef" in origin:
        return resource_value(setting.pod, container, origin["resourceFieldRef"], setting.allocatable)
    for field, kind in _KEYS.items():
        if field in origin:
            return _key(Reference(kind, origin[field]["name"]), origin[field], setting)
    raise ContainerConfigError(f"unsupported valueFrom: {', '.join(origin)}")


def _key(reference: Reference, selector: Json, setting: Setting) -> str | None:
    optional = bool(selector.get("optional"))
    data = _lookup(reference, optional, setting)
    if data is None:
        return None
    if selector["key"] in data:
        return data[selector["key"]].decode(errors="surrogateescape")
    if optional:
        return None
    kind = "ConfigMap" if reference.kind == "configmap" else "Secret"
    namespace = setting.pod["metadata"]["namespace"]
    raise ContainerConfigError(f"couldn't find key {selector['key']} in {kind} {namespace}/{reference.name}")


def _lookup(reference: Reference, optional: bool, setting: Setting) -> Mapping[str, bytes] | None:
    data = setting.sources.get(reference)
    if data is None and not optional:
        raise ContainerConfigError(f"{reference} not found")
    return data
