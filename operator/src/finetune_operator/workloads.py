"""What Kueue says of a Job that waits in one of its queues. Pure.

Kueue keeps one Workload for each Job (https://kueue.sigs.k8s.io/docs/concepts/workload/). Only conditions and one field
are read, which are the same in all its versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]

# Newest first. An older Kueue knows only the second.
API_VERSIONS = ("kueue.x-k8s.io/v1beta2", "kueue.x-k8s.io/v1beta1")


@dataclass(frozen=True)
class Workload:
    """What Kueue knows of one Job.

    Attributes:
        active: not switched off by an administrator or by Kueue.
        waits_for: why it holds no quota, in Kueue's words; empty when it says nothing.
        evicted: why its pods were taken away, in Kueue's words; empty when they were not.
    """

    name: str
    active: bool = True
    waits_for: str = ""
    evicted: str = ""


def newest_workload(manifests: Sequence[Object]) -> Workload | None:
    """The newest Workload of a Job, if Kueue has made one."""
    found = max(manifests, key=lambda item: str(item["metadata"].get("creationTimestamp")), default=None)
    return read_workload(found) if found else None


def read_workload(manifest: Object) -> Workload:
    """Reads a Workload."""
    known = {item["type"]: item for item in (manifest.get("status") or {}).get("conditions") or ()}
    return Workload(
        name=manifest["metadata"]["name"],
        active=(manifest.get("spec") or {}).get("active", True),
        waits_for=_words(known.get("QuotaReserved"), "False"),
        evicted=_words(known.get("Evicted"), "True"),
    )


def _words(condition: Object | None, status: str) -> str:
    if condition is None or condition["status"] != status:
        return ""
    return str(condition.get("message") or condition.get("reason") or "")
