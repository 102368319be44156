"""The files of ConfigMap, Secret, downward API and projected volumes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from finetune_sandbox.node.errors import VolumeError
from finetune_sandbox.node.fields import PodAddress, field_value, resource_value
from finetune_sandbox.node.kube import Json
from finetune_sandbox.node.sources import Reference, Sources

_DEFAULT_MODE = 0o644
GENERATED = ("configMap", "secret", "downwardAPI", "projected")


@dataclass(frozen=True)
class VolumeFile:
    """Content and permission bits of one file."""

    content: bytes
    mode: int


@dataclass(frozen=True)
class TokenRequest:
    """A service account token that a volume holds: for whom and for how many seconds."""

    audience: str
    seconds: int


@dataclass(frozen=True)
class PayloadSetting:
    """What the files are made from, beside the volume itself."""

    pod: Json
    address: PodAddress
    allocatable: dict[str, str]
    sources: Sources
    tokens: Mapping[TokenRequest, str]


# Relative path of each file in the volume.
Payload = dict[str, VolumeFile]


def token_request(projection: Json) -> TokenRequest:
    """What a ``serviceAccountToken`` projection asks for; an empty audience means the API server's."""
    return TokenRequest(projection.get("audience") or "", int(projection.get("expirationSeconds") or 3600))


def token_requests(volume: Json) -> set[TokenRequest]:
    """Every token that a volume holds."""
    sources = (volume.get("projected") or {}).get("sources") or []
    return {token_request(source["serviceAccountToken"]) for source in sources if "serviceAccountToken" in source}


def build_payload(volume: Json, setting: PayloadSetting) -> Payload:
    """The files of a volume of one of the GENERATED kinds; raises VolumeError for a source that is not there."""
    if "projected" in volume:
        projected = volume["projected"]
        mode = projected.get("defaultMode", _DEFAULT_MODE)
        files: Payload = {}
        for source in projected.get("sources") or []:
            files |= _source(source, mode, setting)
        return files
    kind = next(kind for kind in GENERATED if kind in volume)
    source = dict(volume[kind])
    if kind == "secret":
        source["name"] = source.pop("secretName")
    return _source({kind: source}, source.get("defaultMode", _DEFAULT_MODE), setting)


def _source(source: Json, mode: int, setting: PayloadSetting) -> Payload:
    if "serviceAccountToken" in source:
        projection = source["serviceAccountToken"]
        return {projection["path"]: VolumeFile(setting.tokens[token_request(projection)].encode(), mode)}
    if "downwardAPI" in source:
        return dict(_downward(item, mode, setting) for item in source["downwardAPI"].get("items") or [])
    if "configMap" in source:
        return _keys(Reference("configmap", source["configMap"]["name"]), source["configMap"], mode, setting)
    if "secret" in source:
        return _keys(Reference("secret", source["secret"]["name"]), source["secret"], mode, setting)
    raise VolumeError(f"a projected volume's source {', '.join(source)} is not offered by the sandbox's node")


def _downward(item: Json, mode: int, setting: PayloadSetting) -> tuple[str, VolumeFile]:
    if "fieldRef" in item:
        value = field_value(setting.pod, item["fieldRef"]["fieldPath"], setting.address)
    else:
        value = resource_value(setting.pod, {}, item["resourceFieldRef"], setting.allocatable)
    return item["path"], VolumeFile(value.encode(), item.get("mode") or mode)


def _keys(reference: Reference, selector: Json, mode: int, setting: PayloadSetting) -> Payload:
    optional = bool(selector.get("optional"))
    data = setting.sources.get(reference)
    if data is None:
        if optional:
            return {}
        raise VolumeError(f"{reference} not found")
    return dict(_items(reference, selector.get("items"), data, mode, optional))


def _items(
    reference: Reference, items: list[Json] | None, data: Mapping[str, bytes], mode: int, optional: bool
) -> Iterable[tuple[str, VolumeFile]]:
    if items is None:
        items = [{"key": key, "path": key} for key in sorted(data)]
    for item in items:
        if item["key"] in data:
            yield item["path"], VolumeFile(data[item["key"]], item.get("mode") or mode)
        elif not optional:
            raise VolumeError(f"{reference}: references non-existent key: {item['key']}")
