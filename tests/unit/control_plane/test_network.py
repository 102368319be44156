"""The NetworkPolicies of jobs: compared as a whole with manifests/, and what they let through as a table.

To accept a change: FINETUNE_WRITE_SNAPSHOTS=1 pytest tests/unit/control_plane/test_network.py, then read the diff.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.job import FineTuneJob
from finetune_api.outcomes import Stage
from finetune_operator.naming import labels
from finetune_operator.network import Endpoint, JobNetwork, ProgressPeer, endpoint_of, endpoints
from finetune_operator.objects import Object, network_policies, prepare_objects, training_objects
from support.builders import NAME, NAMESPACE, PLATFORM, UID, job, prepared
from support.clusters import PROJECT
from support.network_policies import Outside, Party, PodAt, allowed

FOLDER = Path(__file__).parent / "network_policies"
SERVER = ProgressPeer("finetune-system", 8443, "https://finetune-operator.finetune-system.svc:8443")
OPERATOR = PodAt("finetune-system", {"app.kubernetes.io/name": "finetune-operator"})
DNS = PodAt("kube-system", {"k8s-app": "kube-dns"})
API_SERVERS = (Outside("10.96.0.1"), Outside("172.18.0.2"))


def _policies(asked: FineTuneJob, attempt: int = 1, server: ProgressPeer = SERVER, **rules: Any) -> list[Object]:
    """The policies of both stages."""
    platform = dataclasses.replace(PLATFORM, network=(JobNetwork.model_validate(rules), server))
    stages = (Stage.PREPARE, Stage.TRAIN)
    return [policy for stage in stages for policy in network_policies(asked, platform, stage, attempt, {})]


def _pod(stage: Stage = Stage.TRAIN, attempt: int = 1, uid: str = UID, namespace: str = NAMESPACE) -> PodAt:
    return PodAt(namespace, labels(NAME, uid, stage, attempt))


RANK = _pod()
STORE = {"output": {"s3": {"endpointURL": "http://store.minio.svc:9000"}}}
HUB = {"model": {"source": "hf://org/model"}}
WEB = {"dataset": {"train": [{"source": "https://rows.example:8443/a.jsonl", "sha256": "0" * 64}]}}
INTERNET = Outside("203.0.113.7")


def _s3(url: str) -> Object:
    return {"output": {"s3": {"endpointURL": url}}}


VARIANTS: dict[str, Object] = {
    "aws": {},
    "store-in-the-cluster-and-hub": STORE | HUB,
    "store-by-address-and-data-of-the-web": _s3("http://192.168.7.5:8333") | WEB,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_policies_are_exactly_these(variant: str) -> None:
    built = _policies(job(**VARIANTS[variant]))
    file = FOLDER / f"{variant}.yaml"
    if os.environ.get("FINETUNE_WRITE_SNAPSHOTS"):
        FOLDER.mkdir(exist_ok=True)
        file.write_text(yaml.safe_dump_all(json.loads(json.dumps(built)), sort_keys=False, width=120))
    assert built == list(yaml.safe_load_all(file.read_text()))


@dataclasses.dataclass(frozen=True)
class Case:
    """One connection under the policies of a job."""

    source: Party
    target: Party
    port: int
    passes: bool
    changes: Object = dataclasses.field(default_factory=dict)
    protocol: str = "TCP"
    rules: Object = dataclasses.field(default_factory=dict)


PREPARE = _pod(Stage.PREPARE)
CASES: dict[str, Case] = {
    "rank to rank, rendezvous": Case(RANK, RANK, 20_017, True),
    "rank to rank, any port of gloo or NCCL": Case(RANK, RANK, 45_321, True),
    "rank to a rank of the attempt before": Case(RANK, _pod(attempt=2), 20_017, False),
    "rank to a rank of another job": Case(RANK, _pod(uid="another"), 20_017, False),
    "a rank of another job to rank": Case(_pod(uid="another"), RANK, 20_017, False),
    "rank to a pod with its labels in another namespace": Case(RANK, _pod(namespace="team-b"), 20_017, False),
    "a pod with its labels in another namespace to rank": Case(_pod(namespace="team-b"), RANK, 20_017, False),
    "a pod of the namespace to rank": Case(PodAt(NAMESPACE), RANK, 20_017, False),
    "the operator to rank": Case(OPERATOR, RANK, 20_017, False),
    "the internet to rank": Case(INTERNET, RANK, 443, False),
    "prepare to rank": Case(PREPARE, RANK, 20_017, False),
    "rank to prepare": Case(RANK, PREPARE, 20_017, False),
    "anybody to prepare": Case(PodAt(NAMESPACE), PREPARE, 80, False),
    "rank to DNS by UDP": Case(RANK, DNS, 53, True, protocol="UDP"),
    "rank to DNS by TCP": Case(RANK, DNS, 53, True),
    "rank to the node's DNS cache": Case(RANK, Outside("169.254.20.10"), 53, True, protocol="UDP"),
    "prepare to DNS": Case(PREPARE, DNS, 53, True, protocol="UDP"),
    "rank to DNS of OpenShift": Case(RANK, DNS, 5353, True, protocol="UDP", rules={"dnsPorts": [5353]}),
    "rank to DNS, another port": Case(RANK, DNS, 9153, False),
    "rank to a name server on the internet": Case(RANK, Outside("8.8.8.8"), 53, False, protocol="UDP"),
    "rank to the progress server": Case(RANK, OPERATOR, 8443, True),
    "rank to the operator's metrics": Case(RANK, OPERATOR, 8080, False),
    "rank to a pod beside the operator": Case(RANK, PodAt("finetune-system"), 8443, False),
    "rank to a pod that poses as the operator": Case(RANK, PodAt("team-b", OPERATOR.labels), 8443, False),
    "rank to AWS": Case(RANK, Outside("52.218.0.1"), 443, True),
    "rank to AWS without TLS": Case(RANK, Outside("52.218.0.1"), 80, False),
    "rank to AWS by IPv6": Case(RANK, Outside("2600:1f00::1"), 443, True),
    "rank to the metadata of the cloud": Case(RANK, Outside("169.254.169.254"), 443, False),
    "the same without TLS": Case(RANK, Outside("169.254.169.254"), 80, False),
    "rank to the API server, as a Service": Case(RANK, API_SERVERS[0], 443, False),
    "rank to the API server on a node": Case(RANK, API_SERVERS[1], 6443, False),
    "the same on 443": Case(RANK, API_SERVERS[1], 443, False),
    "rank to a pod of the namespace": Case(RANK, PodAt(NAMESPACE), 443, False),
    "rank to a pod of another namespace": Case(RANK, PodAt("team-b"), 443, False),
    "rank to a private address by IPv6": Case(RANK, Outside("fd00::1"), 443, False),
    "rank to a store in the cluster": Case(RANK, PodAt("minio"), 9000, True, STORE),
    "the same behind a Service of another port": Case(RANK, PodAt("minio"), 9001, True, STORE),
    "rank to another namespace than the store's": Case(RANK, PodAt("vault"), 9000, False, STORE),
    "rank to the internet beside a store in the cluster": Case(RANK, INTERNET, 443, False, STORE),
    "rank to a store by address": Case(RANK, Outside("192.168.7.5"), 8333, True, _s3("http://192.168.7.5:8333")),
    "rank to its neighbour": Case(RANK, Outside("192.168.7.6"), 8333, False, _s3("http://192.168.7.5:8333")),
    "rank to a store by IPv6 address": Case(RANK, Outside("fd00::5"), 9000, True, _s3("http://[fd00::5]:9000")),
    "rank to a public store on its port": Case(RANK, INTERNET, 9443, True, _s3("https://s3.example.com:9443")),
    "rank to a public store, another port": Case(RANK, INTERNET, 443, False, _s3("https://s3.example.com:9443")),
    "metadata named as a store": Case(RANK, Outside("169.254.169.254"), 80, False, _s3("http://169.254.169.254")),
    "rank to the hub": Case(RANK, INTERNET, 443, True, STORE | HUB),
    "rank to the hub, offline": Case(
        RANK,
        INTERNET,
        443,
        False,
        STORE | {"model": {"source": "hf://org/model", "huggingFace": {"offline": True, "cacheClaim": "hub"}}},
    ),
    "prepare to data of the web": Case(PREPARE, INTERNET, 8443, True, STORE | WEB),
    "rank to data of the web": Case(RANK, INTERNET, 8443, False, STORE | WEB),
    "prepare to data of the hub": Case(
        PREPARE, INTERNET, 443, True, STORE | {"dataset": {"train": [{"source": "hf://org/rows"}]}}
    ),
    "a private store, where the platform says so": Case(
        RANK, Outside("10.7.0.1"), 443, True, rules={"privateCIDRs": ["169.254.0.0/16"]}
    ),
    "what the platform adds": Case(
        RANK,
        Outside("169.254.170.23"),
        80,
        True,
        rules={"extraEgress": [{"to": [{"ipBlock": {"cidr": "169.254.170.23/32"}}], "ports": [{"port": 80}]}]},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_passes(case: str) -> None:
    asked = CASES[case]
    policies = _policies(job(**asked.changes), **asked.rules)
    assert allowed(policies, asked.source, asked.target, asked.port, asked.protocol) is asked.passes


def test_the_operator_behind_an_ingress_is_reached() -> None:
    policies = _policies(job(**STORE), server=dataclasses.replace(SERVER, url="https://finetune.example.com"))
    assert allowed(policies, RANK, INTERNET, 443)
    assert allowed(policies, RANK, OPERATOR, 8443)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (None, Endpoint("any.public.invalid", 443)),
        ("https://s3.example.com", Endpoint("s3.example.com", 443)),
        ("http://s3.example.com./path", Endpoint("s3.example.com", 80)),
        ("http://[fd00::5]:9000", Endpoint("fd00::5", 9000)),
        ("https://s3.example.com:99999", Endpoint("s3.example.com", 443)),
    ],
)
def test_endpoint_of_a_url(url: str | None, expected: Endpoint) -> None:
    assert endpoint_of(url) == expected


def test_a_name_of_two_parts_may_be_a_service_or_public() -> None:
    policies = _policies(job(**_s3("https://store.minio")))
    assert allowed(policies, RANK, PodAt("minio"), 9000)
    assert allowed(policies, RANK, INTERNET, 443)


def test_a_name_of_one_part_is_a_service_of_the_jobs_namespace() -> None:
    policies = _policies(job(**_s3("http://store:9000")))
    assert allowed(policies, RANK, PodAt(NAMESPACE, {"app": "store"}), 9000)
    assert not allowed(policies, RANK, PodAt("team-b", {"app": "store"}), 9000)


def test_every_store_of_a_job_is_reached() -> None:
    asked = job(
        model={"source": "s3://models/tiny", "s3": {"endpointURL": "http://a.example.org:1"}},
        dataset={"train": [{"source": "s3://rows/a.jsonl", "s3": {"endpointURL": "http://b.example.org:2"}}]},
        output={"s3": {"endpointURL": "http://c.example.org:3"}},
    )
    assert {endpoint.port for endpoint in endpoints(asked.spec, Stage.TRAIN)} == {1, 2, 3}


def test_it_is_there_before_the_pods_and_not_made_when_turned_off() -> None:
    with_policies = dataclasses.replace(PLATFORM, network=(JobNetwork(), SERVER))
    for built in (prepare_objects(job(), with_policies, 1), training_objects(job(), with_policies, 1, prepared())):
        assert built[0]["kind"] == "NetworkPolicy"
    kinds = {manifest["kind"] for manifest in prepare_objects(job(), PLATFORM, 1)}
    assert kinds == {"ConfigMap", "Job"}


def test_defaults_are_the_charts() -> None:
    values = yaml.safe_load((PROJECT / "charts" / "finetune-operator" / "values.yaml").read_text())
    assert JobNetwork.model_validate(values["jobNetworkPolicy"]) == JobNetwork()
