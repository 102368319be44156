"""What the pods of a job may reach, and who may reach them: the spec of a NetworkPolicy. Pure.

A NetworkPolicy knows pods and addresses, and stores and hubs have names. A name of the cluster (``store.space.svc``)
becomes the pods of that namespace, since a policy sees a pod's port and not its Service's. Any other name becomes every
address that is not private, on the port of its URL: the strictest that can be said without asking a name server whose
answers change.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from finetune_api.base import DNS_LABEL_PATTERN, Document
from finetune_api.job import FineTuneJob
from finetune_api.outcomes import Stage
from finetune_api.plan import NO_UPSTREAMS, data_hub, hub_uses, store_uses
from finetune_api.spec import FineTuneJobSpec, HubAccess
from finetune_api.upstream import Upstreams
from finetune_api.weights import weight_sources
from finetune_operator.naming import ATTEMPT_LABEL, JOB_UID_LABEL, STAGE_LABEL, labels

Object = dict[str, Any]

# Set by the API server on every namespace, and by nobody else.
_NAMESPACE_LABEL = "kubernetes.io/metadata.name"
_DEFAULT_PORTS = {"https": 443, "http": 80}
_CLUSTER_DNS = {"namespaceSelector": {"matchLabels": {_NAMESPACE_LABEL: "kube-system"}}}
_NODE_LOCAL_DNS = {"ipBlock": {"cidr": "169.254.20.10/32"}}
# Private, shared, loopback and link-local addresses (RFC 6890): pods, Services, nodes and the metadata of clouds.
PRIVATE_CIDRS = (
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "fc00::/7",
    "fe80::/10",
    "::1/128",
)


class JobNetwork(Document):
    """The chart's value ``jobNetworkPolicy``, and the labels of the operator's pod."""

    enabled: bool = True
    dns_peers: tuple[Object, ...] = (_CLUSTER_DNS, _NODE_LOCAL_DNS)
    dns_ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = (53,)
    private_cidrs: Annotated[tuple[str, ...], Field(alias="privateCIDRs")] = PRIVATE_CIDRS
    extra_egress: tuple[Object, ...] = ()
    operator_labels: dict[str, str] = Field(default_factory=lambda: {"app.kubernetes.io/name": "finetune-operator"})

    @field_validator("private_cidrs")
    @classmethod
    def _are_networks(cls, cidrs: tuple[str, ...]) -> tuple[str, ...]:
        for cidr in cidrs:
            ipaddress.ip_network(cidr)
        return cidrs


@dataclass(frozen=True)
class ProgressPeer:
    """Where the progress server is: the operator's pods and their port, and the URL that pods are told."""

    namespace: str
    port: int
    url: str


@dataclass(frozen=True)
class Endpoint:
    """A host and a port that a manifest leads to."""

    host: str
    port: int


# What stands behind a name that the manifest leaves out: AWS, or the public hub.
_PUBLIC_HTTPS = Endpoint("any.public.invalid", 443)


def endpoint_of(url: str | None) -> Endpoint:
    """Host and port of a URL; any public server for None."""
    if url is None:
        return _PUBLIC_HTTPS
    parts = urlsplit(url)
    default = _DEFAULT_PORTS[parts.scheme]
    try:
        port = parts.port or default
    except ValueError:
        # No port number. Prepare says so where it has the field's name.
        port = default
    return Endpoint((parts.hostname or "").rstrip("."), port)


def _of_hub(hub: HubAccess | None) -> set[Endpoint]:
    return set() if hub and hub.offline else {endpoint_of(hub.endpoint_url if hub else None)}


def endpoints(spec: FineTuneJobSpec, stage: Stage, upstreams: Upstreams = NO_UPSTREAMS) -> set[Endpoint]:
    """Every server that a stage of a resolved job talks to, beside the operator. Only prepare reads the data's sources.

    A Secret may name an endpoint too; the operator reads none, and takes the store for a public one.
    """
    found = {endpoint_of(access.endpoint_url) for access in store_uses(spec, upstreams).values()}
    if spec.output.service_account_name:
        # Its identity is changed for keys by the cloud's token service.
        found.add(_PUBLIC_HTTPS)
    hubs = hub_uses(spec)
    for use in weight_sources(spec).keys() & hubs.keys():
        found |= _of_hub(hubs[use])
    if stage is not Stage.PREPARE:
        return found
    held_out = (spec.dataset.validation.sources if spec.dataset.validation else None) or ()
    sources = [source.source for source in (*spec.dataset.train, *held_out)]
    if any(source.startswith("hf://") for source in sources):
        found |= _of_hub(data_hub(spec))
    return found | {endpoint_of(source) for source in sources if source.startswith("https://")}


def _tcp(*ports: int) -> list[Object]:
    return [{"protocol": "TCP", "port": port} for port in ports]


def _namespace(name: str) -> Object:
    return {"namespaceSelector": {"matchLabels": {_NAMESPACE_LABEL: name}}}


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _public(rules: JobNetwork) -> list[Object]:
    """Peers: every address that is not private."""
    networks = [ipaddress.ip_network(cidr) for cidr in rules.private_cidrs]
    return [
        {"ipBlock": {"cidr": cidr, "except": [str(network) for network in networks if network.version == version]}}
        for cidr, version in (("0.0.0.0/0", 4), ("::/0", 6))
    ]


def _cluster_namespace(host: str, own: str) -> str | None:
    """Namespace of the Service that a host name stands for by the search path of a pod's resolver, if it does.

    ``store`` and ``store.space.svc`` are Services and nothing else; a name of two parts may also be a public one.
    """
    parts = host.split(".")
    if len(parts) == 1:
        return own
    named = (len(parts) == 2 or parts[2] == "svc") and re.fullmatch(DNS_LABEL_PATTERN, parts[1])
    return parts[1] if named else None


def _rules_of(endpoint: Endpoint, namespace: str, rules: JobNetwork) -> list[Object]:
    address = _address(endpoint.host)
    if address is not None:
        # Not of another machine: a pod reaches itself under every policy, and metadata of clouds are no store.
        if address.is_loopback or address.is_link_local:
            return []
        block = {"cidr": f"{address}/{address.max_prefixlen}"}
        return [{"to": [{"ipBlock": block}], "ports": _tcp(endpoint.port)}]
    inside = _cluster_namespace(endpoint.host, namespace)
    local = [{"to": [_namespace(inside)], "ports": [{"protocol": "TCP"}]}] if inside else []
    if inside and endpoint.host.count(".") != 1:
        return local
    return [*local, {"to": _public(rules), "ports": _tcp(endpoint.port)}]


def _unique(rules: Iterable[Object]) -> list[Object]:
    kept: list[Object] = []
    for rule in rules:
        if rule not in kept:
            kept.append(rule)
    return kept


def _dns(rules: JobNetwork) -> Object:
    ports = [{"protocol": protocol, "port": port} for port in rules.dns_ports for protocol in ("UDP", "TCP")]
    return {"to": list(rules.dns_peers), "ports": ports}


def _progress(rules: JobNetwork, server: ProgressPeer, namespace: str) -> list[Object]:
    """The operator's pods, and what the URL leads to where that is not their own Service."""
    pods = _namespace(server.namespace) | {"podSelector": {"matchLabels": dict(rules.operator_labels)}}
    direct = {"to": [pods], "ports": _tcp(server.port)}
    target = endpoint_of(server.url)
    own = _address(target.host) is None and _cluster_namespace(target.host, namespace) == server.namespace
    return [direct, *([] if own else _rules_of(target, namespace, rules))]


def policy_spec(
    job: FineTuneJob,
    stage: Stage,
    attempt: int,
    rules: JobNetwork,
    server: ProgressPeer,
    upstreams: Upstreams = NO_UPSTREAMS,
) -> Object:
    """Spec of the NetworkPolicy of one stage of a resolved job.

    Ranks reach each other on any port, since gloo and NCCL take free ones. Nobody else reaches a pod of the job.
    """
    namespace = job.metadata.namespace
    known = labels(job.metadata.name, job.metadata.uid, stage, attempt)
    selector = {"matchLabels": {key: known[key] for key in (JOB_UID_LABEL, STAGE_LABEL, ATTEMPT_LABEL)}}
    peers = [{"podSelector": selector}]
    ranks = stage is Stage.TRAIN
    found = sorted(endpoints(job.spec, stage, upstreams), key=lambda endpoint: (endpoint.host, endpoint.port))
    egress = [
        *([{"to": peers}] if ranks else []),
        _dns(rules),
        *_progress(rules, server, namespace),
        *(rule for endpoint in found for rule in _rules_of(endpoint, namespace, rules)),
        *rules.extra_egress,
    ]
    return {
        "podSelector": selector,
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": peers}] if ranks else [],
        "egress": _unique(egress),
    }
