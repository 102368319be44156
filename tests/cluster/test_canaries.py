"""Secret values that cannot be mistaken appear nowhere, whatever becomes of the jobs that use them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from finetune_sandbox.errors import RequestFailed
from support.hub_server import Hub, hub_server
from support.operated import Object, Platform
from support.tenants import limited_namespace, secret
from support.tiny_model import write_tiny_model

KINDS = "ftj,jobs,pods,configmaps,services,networkpolicies,events,events.events.k8s.io"
# With characters that URLs and JSON change.
HUB_TOKEN = "hf_canary/right+token=4711-8d1c"
WRONG_HUB_TOKEN = "hf_canary/wrong+token=4711-5b2e"
WRONG_KEY = "canary/wrong+secret-key=0815-9e4f0000000"
USER, PASSWORD = "canary-user-2a77", "canary-password-2a78"
OUTCOMES = {
    "good": ("Complete", None),
    "wrong-key": ("Failed", "UserError"),
    "wrong-token": ("Failed", "UserError"),
    "odd-endpoint": ("Failed", "UserError"),
    "crash": ("Failed", "Diverged"),
}


def forms(value: str) -> list[bytes]:
    """A value as it is, in URLs, and in base64 at each of the three places where it may begin."""
    raw = value.encode()
    encoded = [base64.b64encode(b"x" * shift + raw)[4 if shift else 0 : -4] for shift in range(3)]
    return [raw, quote(value).encode(), quote(value, safe="").encode(), *encoded]


@dataclass(frozen=True)
class Scene:
    """The jobs that have ended, and the secret values that they were given."""

    platform: Platform
    namespace: str
    jobs: dict[str, Object]
    canaries: tuple[str, ...]


def _jobs(platform: Platform, hub: Hub, namespace: str) -> list[Object]:
    def from_hub(key: str) -> Object:
        access = {"endpointURL": hub.endpoint, "tokenSecretRef": {"name": "hub", "key": key}}
        return {"model": {"source": "hf://team/tiny", "name": None, "huggingFace": access}}

    def kept_in(name: str) -> Object:
        return {"output": {"s3": {"credentialsSecretRef": {"name": name}}}}

    crash = {
        "hyperparameters": {"maxSteps": 50},
        "evaluation": {"divergence": {"maxLoss": "0.001"}},
    }
    changes: dict[str, Any] = {
        "good": from_hub("right"),
        "wrong-key": kept_in("wrong-key"),
        "wrong-token": from_hub("wrong"),
        "odd-endpoint": kept_in("odd-endpoint"),
        "crash": crash,
    }
    return [platform.submit(namespace, name, **spec) for name, spec in changes.items()]


@pytest.fixture(scope="module")
def scene(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    namespace, keys = limited_namespace(platform)
    region = platform.store["AWS_REGION"]
    endpoint = platform.store["AWS_ENDPOINT_URL"]
    odd = endpoint.replace("://", f"://{USER}:{PASSWORD}@")
    secrets = [
        secret(namespace, "hub", {"right": HUB_TOKEN, "wrong": WRONG_HUB_TOKEN}),
        secret(
            namespace,
            "wrong-key",
            keys | {"AWS_SECRET_ACCESS_KEY": WRONG_KEY, "AWS_ENDPOINT_URL": endpoint, "AWS_REGION": region},
        ),
        secret(namespace, "odd-endpoint", keys | {"AWS_ENDPOINT_URL": odd, "AWS_REGION": region}),
    ]
    platform.kubectl("create", "-f", "-", stdin=yaml.safe_dump_all(secrets))
    with hub_server() as hub:
        hub.add("team/tiny", write_tiny_model(tmp_path_factory.mktemp("hub") / "tiny"))
        hub.tokens["team/tiny"] = HUB_TOKEN
        _jobs(platform, hub, namespace)
        jobs = {name: platform.wait_finished(namespace, name) for name in OUTCOMES}
    yield Scene(platform, namespace, jobs, (*keys.values(), HUB_TOKEN, WRONG_HUB_TOKEN, WRONG_KEY, USER, PASSWORD))
    platform.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.mark.parametrize("name", OUTCOMES)
def test_each_job_ends_as_it_should(scene: Scene, name: str) -> None:
    """The control: the values were used."""
    status = scene.jobs[name]["status"]
    assert (status["state"], status.get("failure", {}).get("class")) == OUTCOMES[name], status.get("failure")


def _found(scene: Scene, text: bytes) -> list[str]:
    return [canary for canary in scene.canaries if any(form in text for form in forms(canary))]


def test_no_object_of_the_namespace_has_one(scene: Scene) -> None:
    text = scene.platform.kubectl("get", KINDS, "-n", scene.namespace, "-o", "json", "--show-managed-fields")
    assert all(name in text for name in OUTCOMES)
    assert _found(scene, text.encode()) == []


def test_no_log_has_one(scene: Scene) -> None:
    pods = scene.platform.kubectl("get", "pods", "-n", scene.namespace, "-o", "name").split()
    assert len(pods) >= len(OUTCOMES) + 2
    logs = [scene.platform.kubectl("logs", pod, "-n", scene.namespace) for pod in pods]
    assert all(logs)
    assert _found(scene, "\n".join(logs).encode()) == []
    if scene.platform.operator:
        assert _found(scene, Path(scene.platform.operator.log).read_bytes()) == []


def test_nothing_in_the_store_has_one(scene: Scene) -> None:
    keys = scene.platform.keys(scene.platform.uri(f"artifacts/{scene.namespace}"))
    assert any(key.endswith("manifest.json") for key in keys)
    assert any(key.endswith("README.md") for key in keys)
    found = {key: _found(scene, scene.platform.read(f"s3://{scene.platform.bucket}/{key}")) for key in keys}
    assert not any(found.values()), found


def test_a_manifest_with_credentials_in_a_url_is_not_stored(scene: Scene) -> None:
    for changes in (
        {"output": {"s3": {"endpointURL": f"https://{USER}:{PASSWORD}@s3.example.com"}}},
        {"dataset": {"train": [{"source": f"https://{USER}:{PASSWORD}@example.com/a.jsonl", "sha256": "0" * 64}]}},
        {"dataset": {"train": [{"source": f"https://example.com/a.jsonl?token={PASSWORD}", "sha256": "0" * 64}]}},
    ):
        with pytest.raises(RequestFailed, match="should match"):
            scene.platform.submit(scene.namespace, "careless", **changes)
    assert "careless" not in scene.platform.kubectl("get", "ftj", "-n", scene.namespace, "-o", "name")


def test_the_scan_finds_what_is_there() -> None:
    """The control of the scan itself."""
    for shift in range(3):
        text = base64.b64encode(b"x" * shift + HUB_TOKEN.encode() + b"and more")
        assert any(form in text for form in forms(HUB_TOKEN))
    assert any(form in f"https://a/?t={quote(HUB_TOKEN)}".encode() for form in forms(HUB_TOKEN))
