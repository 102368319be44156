"""What NetworkPolicies let through, evaluated as the API defines it. The sandbox's node enforces none.

Source: https://kubernetes.io/docs/concepts/services-networking/network-policies/. Written from the definition and not
from the builder, so that a test of the builder says what a network plugin would do.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True)
class PodAt:
    """A pod, as policies see it; ``address`` is for peers that are blocks of addresses."""

    namespace: str
    labels: dict[str, str] = field(default_factory=dict)
    address: str = "10.244.0.9"


@dataclass(frozen=True)
class Outside:
    """Something that is no pod: a server on the internet, the API server, a node."""

    address: str


Party = PodAt | Outside


def _selects(selector: Object, labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, f"the evaluator does not know {selector}"
    return selector.get("matchLabels", {}).items() <= labels.items()


def _is_peer(peer: Object, party: Party, namespace: str) -> bool:
    """Whether a party is one that a NetworkPolicyPeer of a policy in ``namespace`` means."""
    if "ipBlock" in peer:
        block, address = peer["ipBlock"], ipaddress.ip_address(party.address)
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(cidr) for cidr in block.get("except", ())
        )
    if isinstance(party, Outside):
        return False
    if "namespaceSelector" in peer:
        if not _selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": party.namespace}):
            return False
    elif party.namespace != namespace:
        return False
    return _selects(peer.get("podSelector", {}), party.labels)


def _is_port(entry: Object, port: int, protocol: str) -> bool:
    return entry.get("protocol", "TCP") == protocol and entry.get("port", port) == port


def _one_side(policies: Iterable[Object], direction: str, pod: PodAt, other: Party, port: int, protocol: str) -> bool:
    """Whether the policies that select ``pod`` let traffic in one direction through. Without any, all passes."""
    selecting = [
        policy["spec"]
        for policy in policies
        if policy["metadata"]["namespace"] == pod.namespace
        and direction.capitalize() in policy["spec"]["policyTypes"]
        and _selects(policy["spec"]["podSelector"], pod.labels)
    ]
    peers = "from" if direction == "ingress" else "to"
    return not selecting or any(
        (not rule.get(peers) or any(_is_peer(peer, other, pod.namespace) for peer in rule[peers]))
        and (not rule.get("ports") or any(_is_port(entry, port, protocol) for entry in rule["ports"]))
        for policy in selecting
        for rule in policy[direction]
    )


def allowed(policies: Sequence[Object], source: Party, target: Party, port: int, protocol: str = "TCP") -> bool:
    """Whether ``source`` may open a connection to ``target``."""
    leaves = not isinstance(source, PodAt) or _one_side(policies, "egress", source, target, port, protocol)
    enters = not isinstance(target, PodAt) or _one_side(policies, "ingress", target, source, port, protocol)
    return leaves and enters
