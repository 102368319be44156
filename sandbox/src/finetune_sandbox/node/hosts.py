"""Names and addresses of pods."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address

from finetune_sandbox.node.kube import Json

CLUSTER_DOMAIN = "cluster.local"
# sethostname(2) takes 64 bytes, Kubernetes allows 63.
_LONGEST_HOSTNAME = 63


@dataclass(frozen=True)
class PodName:
    """What a pod is called on the network."""

    namespace: str
    hostname: str
    subdomain: str
    address: str


def hostname(pod: Json) -> str:
    """The host name inside the pod: the specified one, else the pod's name cut to what a kernel takes."""
    name = str(pod["spec"].get("hostname") or pod["metadata"]["name"])
    return name[:_LONGEST_HOSTNAME].rstrip("-.")


def pod_name(pod: Json, address: str) -> PodName:
    """The name of a pod at ``address``."""
    return PodName(pod["metadata"]["namespace"], hostname(pod), pod["spec"].get("subdomain") or "", address)


def host_names(name: PodName) -> list[str]:
    """Every name of a pod, from the qualified to the short one; without a subdomain only the pod itself has names."""
    if not name.subdomain:
        return [name.hostname]
    short = f"{name.hostname}.{name.subdomain}"
    service = f"{short}.{name.namespace}.svc"
    return [f"{service}.{CLUSTER_DOMAIN}", service, f"{short}.{name.namespace}", short, name.hostname]


def hosts_file(
    own: PodName, others: Iterable[PodName], aliases: Iterable[Json] = (), services: Iterable[str] = ()
) -> str:
    """/etc/hosts of one pod: itself, its namespace's pods that have a subdomain, Services, and the pod's own aliases.

    There is no ``::1``: the sandbox's servers listen on IPv4 only, and a client that tries IPv6 first would fail.
    """
    lines = ["# Kept by the sandbox's node agent.", "127.0.0.1\tlocalhost", _line(own)]
    neighbours = [name for name in others if name.namespace == own.namespace and name.subdomain and name != own]
    lines += [_line(name) for name in sorted(neighbours, key=lambda name: (name.subdomain, name.hostname))]
    lines += services
    lines += ["\t".join([alias["ip"], *(alias.get("hostnames") or [])]) for alias in aliases]
    return "\n".join(lines) + "\n"


def _line(name: PodName) -> str:
    return "\t".join([name.address, *host_names(name)])


def choose_address(uid: str, taken: Collection[str]) -> str:
    """A loopback address for a pod, spread over 127.0.0.0/8 by its UID so that two sandboxes hardly ever meet.

    127.0.0.0/16 is left to others, and so are addresses that end in 0 or 255.
    """
    attempt = 0
    while True:
        digest = hashlib.sha256(f"{uid}/{attempt}".encode()).digest()
        second, third, fourth = 1 + digest[0] % 255, digest[1], 1 + digest[2] % 254
        address = str(IPv4Address(bytes((127, second, third, fourth))))
        if address not in taken:
            return address
        attempt += 1
