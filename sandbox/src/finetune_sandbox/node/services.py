"""Which pod answers for a Service: the sandbox's stand-in for cluster DNS and kube-proxy (no I/O).

A Service's names resolve to the address of one pod behind it, in every pod's /etc/hosts. There is no cluster IP and no
translation of ports: a Service is reachable when its port is the pod's port.
"""

from __future__ import annotations

from collections.abc import Iterable

from finetune_sandbox.node.hosts import CLUSTER_DOMAIN
from finetune_sandbox.node.kube import Json


def service_lines(services: Iterable[Json], pods: Iterable[Json]) -> list[str]:
    """A line of /etc/hosts for each Service that has a running pod, sorted.

    Headless Services give names to single pods instead, which ``hosts.py`` knows.
    """
    balanced = [each for each in services if each["spec"].get("selector") and each["spec"].get("clusterIP") != "None"]
    if not balanced:
        return []
    running = [pod for pod in pods if _answers(pod)]
    lines = []
    for service in balanced:
        behind = [pod for pod in running if _selected(pod, service)]
        if behind:
            newest = max(behind, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
            lines.append("\t".join([newest["status"]["podIP"], *_names(service["metadata"])]))
    return sorted(lines)


def _names(metadata: Json) -> list[str]:
    short = f"{metadata['name']}.{metadata['namespace']}"
    return [f"{short}.svc.{CLUSTER_DOMAIN}", f"{short}.svc", short]


def _answers(pod: Json) -> bool:
    status = pod.get("status") or {}
    return status.get("phase") == "Running" and "podIP" in status and "deletionTimestamp" not in pod["metadata"]


def _selected(pod: Json, service: Json) -> bool:
    labels = pod["metadata"].get("labels") or {}
    same_namespace = bool(pod["metadata"]["namespace"] == service["metadata"]["namespace"])
    return same_namespace and service["spec"]["selector"].items() <= labels.items()
