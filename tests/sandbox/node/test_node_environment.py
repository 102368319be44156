"""Environment, command line, downward API and generated volumes, as tables."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_sandbox.node.environment import Setting, build_command, build_environment, expand
from finetune_sandbox.node.errors import ContainerConfigError, ContainerCreateError, VolumeError
from finetune_sandbox.node.fields import PodAddress, field_value, resource_value
from finetune_sandbox.node.payload import (
    PayloadSetting,
    TokenRequest,
    VolumeFile,
    build_payload,
    token_requests,
)
from finetune_sandbox.node.quantities import divide_quantity, parse_quantity
from finetune_sandbox.node.sources import (
    Reference,
    decode,
    environment_references,
    volume_references,
)

POD: dict[str, Any] = {
    "metadata": {
        "name": "pod",
        "namespace": "team-a",
        "uid": "u-1",
        "labels": {"app": "x", "finetune.dev/job": "tune"},
        "annotations": {"note": 'two\nlines "q"'},
    },
    "spec": {
        "nodeName": "sandbox-0",
        "serviceAccountName": "default",
        "containers": [{"name": "main", "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "1Gi"}}}],
    },
}
ADDRESS = PodAddress("127.5.6.7", "127.0.0.1")
ALLOCATABLE = {"cpu": "64", "memory": "64Gi"}
SECRET, CONFIG = Reference("secret", "creds"), Reference("configmap", "plan")
SOURCES = {SECRET: {"KEY": b"s3cr3t", "OTHER": b"o"}, CONFIG: {"plan.json": b"{}", "b": b"\xff"}}


def setting() -> Setting:
    return Setting(POD, ADDRESS, ALLOCATABLE, SOURCES, {"PATH": "/bin", "HOME": "/home"})


def container(**fields: Any) -> dict[str, Any]:
    return {"name": "main", "command": ["run"], **fields}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "1"),
        ("x-$(A)-$(B)", "x-1-2"),
        ("$(MISSING)", "$(MISSING)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A ${A}", "$A ${A}"),
        ("$(A", "$(A"),
        ("100$", "100$"),
    ],
)
def test_expansion(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)2"}]}, {"A": "1", "B": "12"}),
        ({"env": [{"name": "B", "value": "$(A)"}, {"name": "A", "value": "1"}]}, {"A": "1", "B": "$(A)"}),
        ({"env": [{"name": "A"}]}, {"A": ""}),
        ({"env": [{"name": "PATH", "value": "/mine"}]}, {"PATH": "/mine"}),
        ({"envFrom": [{"prefix": "OUT_", "secretRef": {"name": "creds"}}]}, {"OUT_KEY": "s3cr3t", "OUT_OTHER": "o"}),
        ({"envFrom": [{"secretRef": {"name": "none", "optional": True}}]}, {}),
        (
            {"envFrom": [{"secretRef": {"name": "creds"}}], "env": [{"name": "KEY", "value": "mine"}]},
            {"KEY": "mine", "OTHER": "o"},
        ),
        ({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "creds", "key": "KEY"}}}]}, {"A": "s3cr3t"}),
        ({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "plan", "key": "plan.json"}}}]}, {"A": "{}"}),
        ({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "x", "key": "k", "optional": True}}}]}, {}),
        ({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "creds", "key": "k", "optional": True}}}]}, {}),
        ({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}, {"A": "127.5.6.7"}),
        ({"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]}, {"A": "64"}),
        ({"resources": {"limits": {"nvidia.com/gpu": "4"}}}, {"FINETUNE_SIMULATED_GPUS": "4"}),
        ({"resources": {"limits": {"nvidia.com/gpu": "0"}}}, {}),
    ],
)
def test_environment(fields: dict[str, Any], expected: dict[str, str]) -> None:
    assert build_environment(container(**fields), setting()) == {"PATH": "/bin", "HOME": "/home", **expected}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"envFrom": [{"secretRef": {"name": "none"}}]}, 'secret "none" not found'),
        ({"envFrom": [{"configMapRef": {"name": "none"}}]}, 'configmap "none" not found'),
        ({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "x", "key": "k"}}}]}, 'secret "x" not found'),
        (
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "creds", "key": "k"}}}]},
            "couldn't find key k in Secret team-a/creds",
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "plan", "key": "k"}}}]},
            "couldn't find key k in ConfigMap team-a/plan",
        ),
        (
            {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.hostNetwork"}}}]},
            "unsupported fieldPath: spec.hostNetwork",
        ),
    ],
)
def test_what_must_exist_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ContainerConfigError) as caught:
        build_environment(container(**fields), setting())
    assert str(caught.value) == message
    assert caught.value.waiting_reason == "CreateContainerConfigError"


def test_command_and_arguments_are_expanded() -> None:
    line = build_command({"name": "m", "command": ["$(A)", "b"], "args": ["$(C)", "$$(A)"]}, {"A": "1"})
    assert line == ["1", "b", "$(C)", "$(A)"]


def test_a_container_that_relies_on_its_image_is_refused() -> None:
    with pytest.raises(
        ContainerCreateError, match='container "m" has no command: the sandbox runs processes'
    ) as caught:
        build_command({"name": "m", "args": ["x"]}, {})
    assert caught.value.waiting_reason == "CreateContainerError"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("metadata.name", "pod"),
        ("metadata.namespace", "team-a"),
        ("metadata.uid", "u-1"),
        ("metadata.labels['app']", "x"),
        ("metadata.labels['finetune.dev/job']", "tune"),
        ("metadata.labels['none']", ""),
        ("metadata.labels", 'app="x"\nfinetune.dev/job="tune"'),
        ("metadata.annotations", 'note="two\\nlines \\"q\\""'),
        ("metadata.annotations['note']", 'two\nlines "q"'),
        ("spec.nodeName", "sandbox-0"),
        ("spec.serviceAccountName", "default"),
        ("status.hostIP", "127.0.0.1"),
        ("status.podIPs", "127.5.6.7"),
    ],
)
def test_fields(path: str, expected: str) -> None:
    assert field_value(POD, path, ADDRESS) == expected


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ({"resource": "limits.cpu"}, "2"),
        ({"resource": "limits.cpu", "divisor": "1m"}, "1500"),
        ({"resource": "requests.memory", "divisor": "1Mi"}, "1024"),
        ({"resource": "limits.memory", "divisor": "1Gi"}, "64"),
        ({"resource": "requests.cpu"}, "0"),
        ({"resource": "limits.cpu", "divisor": "0"}, "2"),
    ],
)
def test_resources(reference: dict[str, str], expected: str) -> None:
    assert resource_value(POD, POD["spec"]["containers"][0], reference, ALLOCATABLE) == expected
    named = resource_value(POD, {}, {**reference, "containerName": "main"}, ALLOCATABLE)
    assert named == expected


@pytest.mark.parametrize(
    ("text", "number"),
    [("1", 1), ("1500m", 1.5), ("64Gi", 64 * 2**30), ("1e3", 1000), ("2k", 2000), ("0.5Ki", 512), ("1E", 10**18)],
)
def test_quantities(text: str, number: float) -> None:
    assert parse_quantity(text) == number
    assert divide_quantity(text, text) == "1"


@pytest.mark.parametrize("text", ["", "1X", "x"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="Invalid literal"):
        parse_quantity(text)


TOKEN = TokenRequest("tune", 600)
PAYLOAD_SETTING = PayloadSetting(POD, ADDRESS, ALLOCATABLE, SOURCES, {TOKEN: "t0ken"})


@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        (
            {"configMap": {"name": "plan", "defaultMode": 0o400}},
            {"plan.json": VolumeFile(b"{}", 0o400), "b": VolumeFile(b"\xff", 0o400)},
        ),
        (
            {"configMap": {"name": "plan", "items": [{"key": "b", "path": "deep/c", "mode": 0o600}]}},
            {"deep/c": VolumeFile(b"\xff", 0o600)},
        ),
        ({"configMap": {"name": "none", "optional": True}}, {}),
        (
            {"configMap": {"name": "plan", "optional": True, "items": [{"key": "none", "path": "n"}]}},
            {},
        ),
        (
            {"secret": {"secretName": "creds"}},
            {"KEY": VolumeFile(b"s3cr3t", 0o644), "OTHER": VolumeFile(b"o", 0o644)},
        ),
        (
            {"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}},
            {"n": VolumeFile(b"pod", 0o644)},
        ),
        (
            {
                "downwardAPI": {
                    "items": [{"path": "c", "resourceFieldRef": {"containerName": "main", "resource": "limits.cpu"}}]
                }
            },
            {"c": VolumeFile(b"2", 0o644)},
        ),
        (
            {
                "projected": {
                    "defaultMode": 0o440,
                    "sources": [
                        {"serviceAccountToken": {"audience": "tune", "expirationSeconds": 600, "path": "token"}},
                        {"configMap": {"name": "plan", "items": [{"key": "b", "path": "b"}]}},
                        {"secret": {"name": "creds", "items": [{"key": "KEY", "path": "key", "mode": 0o400}]}},
                        {"downwardAPI": {"items": [{"path": "u", "fieldRef": {"fieldPath": "metadata.uid"}}]}},
                    ],
                }
            },
            {
                "token": VolumeFile(b"t0ken", 0o440),
                "b": VolumeFile(b"\xff", 0o440),
                "key": VolumeFile(b"s3cr3t", 0o400),
                "u": VolumeFile(b"u-1", 0o440),
            },
        ),
    ],
)
def test_files_of_generated_volumes(volume: dict[str, Any], expected: dict[str, VolumeFile]) -> None:
    assert build_payload({"name": "v", **volume}, PAYLOAD_SETTING) == expected


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        ({"configMap": {"name": "none"}}, 'configmap "none" not found'),
        ({"secret": {"secretName": "none"}}, 'secret "none" not found'),
        (
            {"configMap": {"name": "plan", "items": [{"key": "k", "path": "k"}]}},
            'configmap "plan": references non-existent key: k',
        ),
        (
            {"projected": {"sources": [{"clusterTrustBundle": {}}]}},
            "a projected volume's source clusterTrustBundle is not offered by the sandbox's node",
        ),
    ],
)
def test_missing_sources_of_volumes_are_named(volume: dict[str, Any], message: str) -> None:
    with pytest.raises(VolumeError) as caught:
        build_payload({"name": "v", **volume}, PAYLOAD_SETTING)
    assert str(caught.value) == message


def test_references_of_a_container_and_of_a_volume() -> None:
    fields = {
        "envFrom": [{"secretRef": {"name": "a"}}, {"configMapRef": {"name": "b"}}],
        "env": [
            {"name": "X", "valueFrom": {"secretKeyRef": {"name": "c", "key": "k"}}},
            {"name": "Y", "valueFrom": {"configMapKeyRef": {"name": "b", "key": "k"}}},
            {"name": "Z", "value": "z"},
        ],
    }
    assert {str(each) for each in environment_references(fields)} == {'secret "a"', 'configmap "b"', 'secret "c"'}
    volume = {"projected": {"sources": [{"secret": {"name": "s"}}, {"configMap": {"name": "m"}}]}}
    assert volume_references(volume) == {Reference("secret", "s"), Reference("configmap", "m")}
    assert volume_references({"secret": {"secretName": "s"}}) == {Reference("secret", "s")}
    assert Reference("secret", "s").path("ns") == "/api/v1/namespaces/ns/secrets/s"


def test_decoding_of_sources() -> None:
    assert decode({"kind": "Secret", "data": {"a": "eA=="}}) == {"a": b"x"}
    assert decode({"kind": "ConfigMap", "data": {"a": "x"}, "binaryData": {"b": "/w=="}}) == {"a": b"x", "b": b"\xff"}


def test_a_token_without_an_audience_is_for_the_api_server() -> None:
    volume = {"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
    assert token_requests(volume) == {TokenRequest("", 3600)}
