"""On which nodes the training pods of a job may run. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_api.base import quantity_value
from finetune_api.profile import FineTuneProfileSpec, GpuRequirement

Object = dict[str, Any]
_MIB = 1024**2


@dataclass(frozen=True)
class Placement:
    """What a profile asks of the nodes.

    Attributes:
        node_selector: labels that a node must have.
        tolerations: as a pod has them.
        requirements: node affinity, matchExpressions.
    """

    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Object, ...] = ()
    requirements: tuple[Object, ...] = ()


ANYWHERE = Placement()


def placement_of(profile: FineTuneProfileSpec, with_gpus: bool) -> Placement:
    """Where a profile places the training pods of a job."""
    scheduling = profile.scheduling
    return Placement(
        node_selector=(scheduling.node_selector if scheduling else None) or {},
        tolerations=tuple(item.to_wire() for item in (scheduling.tolerations if scheduling else None) or ()),
        requirements=_of_gpus(profile.gpu) if profile.gpu and with_gpus else (),
    )


def _of_gpus(gpu: GpuRequirement) -> tuple[Object, ...]:
    requirements: list[Object] = []
    if gpu.type is not None:
        requirements.append({"key": gpu.type_label, "operator": "In", "values": [gpu.type]})
    if gpu.memory is not None:
        least = int(quantity_value(gpu.memory) / _MIB)
        requirements.append({"key": gpu.memory_label, "operator": "Gt", "values": [str(max(0, least - 1))]})
    return tuple(requirements)


def kept_off(avoided: Sequence[str]) -> Object:
    """The fields of a pod's spec that keep it off nodes, where there are others: a pod that needs no GPU is not to wait
    for ever in a cluster of one node."""
    if not avoided:
        return {}
    preference = {"weight": 100, "preference": {"matchFields": _other_than(avoided)}}
    return {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preference]}}}


def _other_than(nodes: Sequence[str]) -> list[Object]:
    # Node names, since only these are known of them.
    return [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]


def placed(placement: Placement, own: Mapping[str, str] | None, avoided: Sequence[str]) -> Object:
    """The fields of a pod's spec that place it: ``own`` are the labels that the job asks for, ``avoided`` names nodes
    that ended two attempts."""
    selector = {**(own or {}), **placement.node_selector}
    term: Object = {}
    if placement.requirements:
        term["matchExpressions"] = list(placement.requirements)
    if avoided:
        term["matchFields"] = _other_than(avoided)
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    fields = {
        "nodeSelector": selector,
        "tolerations": list(placement.tolerations),
        "affinity": {"nodeAffinity": required} if term else None,
    }
    return {name: value for name, value in fields.items() if value}
