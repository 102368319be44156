"""Whether the ResourceQuotas of a namespace have room for a whole gang. Pure.

The API server refuses pods one by one, so that a quota may let half a gang in. What is asked here, before any pod is
made, is what it would ask of all of them (https://kubernetes.io/docs/concepts/policy/resource-quotas/).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from finetune_api.applicable import remembered_resources
from finetune_api.base import quantity_value
from finetune_api.outcomes import Stage
from finetune_operator.observation import Observation

Object = dict[str, Any]
Demand = Mapping[str, Decimal]

# A training pod asks for resources, and has no deadline of its own and no affinity to other namespaces' pods.
_SCOPES_OF_A_GANG = frozenset({"NotBestEffort", "NotTerminating"})


def demand_of(resources: Object, pods: int) -> Demand:
    """What so many pods take, each with the resources of one container, by the names that quotas have for it."""
    wanted = {"pods": Decimal(pods), "count/pods": Decimal(pods)}
    for kind in ("requests", "limits"):
        for name, quantity in resources.get(kind, {}).items():
            total = quantity_value(str(quantity)) * pods
            wanted[f"{kind}.{name}"] = total
            if kind == "requests" and name in ("cpu", "memory"):
                wanted[name] = total
    return wanted


def worth_reading(seen: Observation) -> bool:
    """Whether pods are missing that a quota may have refused, or that are about to be made."""
    status = seen.manifest.get("status") or {}
    prepared = "runID" in status or any(job.stage is Stage.PREPARE and job.finished for job in seen.jobs)
    gang = remembered_resources(seen.manifest).get("nodes", 1) if prepared else 1
    return "completionTime" not in status and sum(1 for pod in seen.pods if not pod.ended) < gang


def shortage(quotas: Iterable[Object], demand: Demand, priority_class: str | None) -> str | None:
    """Which quota has no room for a gang, and for what; None when all have.

    A quota that has not been counted yet says nothing, and neither does what cannot be read.
    """
    if demand["pods"] < 1:
        return None
    for quota in quotas:
        if not _concerns(quota["spec"], priority_class):
            continue
        status = quota.get("status") or {}
        used = status.get("used") or {}
        for name, limit in sorted((status.get("hard") or {}).items()):
            left = _left(limit, used.get(name, "0"))
            if left is not None and demand.get(name, Decimal(0)) > left:
                words = f"{_text(demand[name])} of {name}, of which {_text(left)} is left"
                return f"ResourceQuota {quota['metadata']['name']} has no room for all pods: they ask for {words}"
    return None


def _left(limit: str, used: str) -> Decimal | None:
    try:
        return max(quantity_value(limit) - quantity_value(used), Decimal(0))
    except (InvalidOperation, KeyError):
        return None


def _text(value: Decimal) -> str:
    return f"{value.normalize():f}"


def _concerns(spec: Object, priority_class: str | None) -> bool:
    """Whether a quota counts training pods; one that names no scope counts every pod."""
    selected = (spec.get("scopeSelector") or {}).get("matchExpressions") or []
    named = [{"scopeName": scope, "operator": "Exists"} for scope in spec.get("scopes") or ()]
    return all(_matches(item, priority_class) for item in (*named, *selected))


def _matches(item: Object, priority_class: str | None) -> bool:
    if item["scopeName"] != "PriorityClass":
        return item["scopeName"] in _SCOPES_OF_A_GANG
    values = item.get("values") or ()
    return {
        "In": priority_class in values,
        "NotIn": priority_class not in values,
        "Exists": priority_class is not None,
        "DoesNotExist": priority_class is None,
    }[item["operator"]]
