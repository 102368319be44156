"""A running sandbox, seen from outside: the real API, its guards, the object store, the commands."""

from __future__ import annotations

import base64
import json
import shlex
import socket
import ssl
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import boto3
import pytest
import yaml
from botocore.config import Config
from botocore.exceptions import ClientError

from finetune_sandbox import Sandbox, processes, service_account_kubeconfig
from finetune_sandbox.errors import RequestFailed
from finetune_sandbox.parts import store_sockets

Run = Callable[..., subprocess.CompletedProcess[str]]


def pod(name: str, **security: object) -> str:
    container = {"name": "main", "image": "none", "command": ["true"], "securityContext": security}
    return json.dumps(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [container]}}
    )


RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def s3(sandbox: Sandbox, **changes: str) -> Any:
    """An S3 client of the sandbox's own store."""
    credentials = {
        "aws_access_key_id": sandbox.state.access_key,
        "aws_secret_access_key": sandbox.state.secret_key,
    }
    return boto3.client(
        "s3",
        endpoint_url=sandbox.s3_endpoint,
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 1}),
        **(credentials | changes),
    )


def test_versions(kubectl: Run) -> None:
    versions = json.loads(kubectl("version", "-o", "json").stdout)
    assert versions["serverVersion"]["gitVersion"] == "v1.36.3"
    assert (versions["serverVersion"]["major"], versions["serverVersion"]["minor"]) == ("1", "36")


def test_nodes_have_the_capacity_asked_for(kubectl: Run) -> None:
    nodes = json.loads(kubectl("get", "nodes", "-o", "json").stdout)["items"]
    capacity = {node["metadata"]["name"]: node["status"]["allocatable"] for node in nodes}
    assert sorted(capacity) == ["sandbox-0", "sandbox-1"]
    for resources in capacity.values():
        assert (resources["cpu"], resources["memory"], resources["nvidia.com/gpu"]) == ("64", "64Gi", "8")


def test_namespace_and_default_storage_class_are_there(kubectl: Run) -> None:
    assert kubectl("get", "namespace", "finetune-system").returncode == 0
    classes = json.loads(kubectl("get", "storageclass", "-o", "json").stdout)["items"]
    assert [
        (entry["metadata"]["name"], entry["provisioner"], entry["metadata"]["annotations"]) for entry in classes
    ] == [("sandbox", "finetune.dev/sandbox-hostpath", {"storageclass.kubernetes.io/is-default-class": "true"})]


def test_applied_objects_are_validated(kubectl: Run) -> None:
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"a": "b"}}
    assert kubectl("apply", "--server-side", "-f", "-", manifest=json.dumps(config_map)).returncode == 0
    assert kubectl("get", "configmap", "applied", "-o", "jsonpath={.data.a}").stdout == "b"
    refused = kubectl("apply", "-f", "-", manifest=json.dumps(config_map | {"data": {"a": 1}}))
    assert refused.returncode == 1
    assert "ConfigMap" in refused.stderr


def test_a_deleted_owner_takes_its_children_along(kubectl: Run) -> None:
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner"}}
    kubectl("apply", "-f", "-", manifest=json.dumps(owner))
    uid = kubectl("get", "configmap", "owner", "-o", "jsonpath={.metadata.uid}").stdout
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
    child = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "child", "ownerReferences": [reference]}}
    kubectl("apply", "-f", "-", manifest=json.dumps(child))
    kubectl("delete", "configmap", "owner")
    assert kubectl("wait", "--for=delete", "configmap/child", "--timeout=60s").returncode == 0


def test_deleted_namespaces_go_away(kubectl: Run) -> None:
    kubectl("create", "namespace", "short-lived")
    assert kubectl("delete", "namespace", "short-lived", "--timeout=60s").returncode == 0
    assert "NotFound" in kubectl("get", "namespace", "short-lived").stderr


def test_pod_security_is_enforced(kubectl: Run) -> None:
    kubectl("create", "namespace", "restricted")
    kubectl("label", "namespace", "restricted", "pod-security.kubernetes.io/enforce=restricted")
    refused = kubectl("-n", "restricted", "apply", "-f", "-", manifest=pod("lax"))
    assert refused.returncode == 1
    assert 'violates PodSecurity "restricted:latest"' in refused.stderr
    assert kubectl("-n", "restricted", "apply", "-f", "-", manifest=pod("strict", **RESTRICTED)).returncode == 0


def test_anonymous_requests_are_denied(sandbox: Sandbox) -> None:
    cluster = yaml.safe_load(sandbox.kubeconfig.read_text())["clusters"][0]["cluster"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    address = f"{cluster['server']}/api/v1/namespaces"
    with pytest.raises(HTTPError) as refusal:
        urlopen(address, context=ssl.create_default_context(cadata=authority))
    assert refusal.value.code == 403
    assert 'User "system:anonymous" cannot list resource "namespaces"' in json.load(refusal.value)["message"]
    with pytest.raises(URLError, match="certificate verify failed"):
        urlopen(address)


def test_a_service_account_has_its_own_rights_and_no_more(sandbox: Sandbox, kubectl: Run, tmp_path: Path) -> None:
    kubectl("-n", "default", "create", "serviceaccount", "reader")
    kubectl("-n", "default", "create", "role", "reader", "--verb=list", "--resource=secrets")
    kubectl("-n", "default", "create", "rolebinding", "reader", "--role=reader", "--serviceaccount=default:reader")
    path = service_account_kubeconfig(sandbox.kubeconfig, "default", "reader", tmp_path / "reader.kubeconfig")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    variables = {"KUBECONFIG": str(path)}
    assert kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}", **variables).stdout == (
        "system:serviceaccount:default:reader"
    )
    assert kubectl("get", "secrets", **variables).returncode == 0
    assert "cannot list resource" in kubectl("get", "secrets", "-n", "kube-system", **variables).stderr


def test_no_token_for_an_account_that_does_not_exist(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(RequestFailed, match="no token for ServiceAccount default/nobody: 404 Not Found"):
        service_account_kubeconfig(sandbox.kubeconfig, "default", "nobody", tmp_path / "kubeconfig")
    assert not (tmp_path / "kubeconfig").exists()


def test_objects_are_stored(sandbox: Sandbox) -> None:
    client = s3(sandbox)
    client.put_object(Bucket=sandbox.bucket, Key="stored/object", Body=b"content")
    assert client.get_object(Bucket=sandbox.bucket, Key="stored/object")["Body"].read() == b"content"
    client.delete_object(Bucket=sandbox.bucket, Key="stored/object")


@pytest.mark.parametrize(
    ("changes", "bucket", "code"),
    [
        ({}, "no-such-bucket", "NoSuchBucket"),
        ({"aws_access_key_id": "unknown"}, "finetune", "InvalidAccessKeyId"),
        ({"aws_secret_access_key": "wrong"}, "finetune", "SignatureDoesNotMatch"),
    ],
)
def test_store_names_what_is_wrong(sandbox: Sandbox, changes: dict[str, str], bucket: str, code: str) -> None:
    with pytest.raises(ClientError) as refusal:
        s3(sandbox, **changes).put_object(Bucket=bucket, Key="key", Body=b"")
    assert refusal.value.response["Error"]["Code"] == code


def test_environment_is_for_a_shell(sandbox: Sandbox, command: Run) -> None:
    answer = command("env", "--state-dir", sandbox.state_dir)
    assert answer.stderr == ""
    words = shlex.split(answer.stdout)
    assert words[0] == "export"
    assert dict(word.split("=", 1) for word in words[1:]) == sandbox.environment()
    assert answer.stdout.startswith(f"export KUBECONFIG={sandbox.kubeconfig} AWS_ENDPOINT_URL=http://127.0.0.1:")
    shell = subprocess.run(["sh", "-c", f"{answer.stdout}\necho $FINETUNE_SANDBOX_BUCKET"], capture_output=True)
    assert shell.stdout == b"finetune\n"


def test_status_of_a_healthy_sandbox(sandbox: Sandbox, command: Run) -> None:
    answer = command("status", "--state-dir", sandbox.state_dir)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith(f"Running in {sandbox.state_dir}\n")
    rows = {line.split()[0]: line.split()[1] for line in answer.stdout.splitlines()[3:]}
    names = ("etcd", "seaweedfs", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "node-agent")
    assert rows == dict.fromkeys(names, "ready")


def test_logs_by_part(sandbox: Sandbox, command: Run) -> None:
    answer = command("logs", "kube-apiserver", "--lines", "3", "--state-dir", sandbox.state_dir)
    lines = answer.stdout.splitlines()
    assert lines[0] == f"--- the end of {sandbox.state_dir}/logs/kube-apiserver.log ---"
    assert len(lines) == 4


def test_secrets_are_for_the_owner_only(sandbox: Sandbox) -> None:
    assert stat.S_IMODE(sandbox.state_dir.stat().st_mode) == 0o700
    for path in (sandbox.kubeconfig, sandbox.state_dir / "state.json", *(sandbox.state_dir / "pki").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_every_port_is_on_the_loopback_interface(sandbox: Sandbox) -> None:
    """Connecting from another of this machine's addresses would mean that a part listens on all of them."""
    listening = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout.splitlines()
    pids = {part.process.pid for part in sandbox.state.parts}
    addresses = {line.split()[3].rsplit(":", 1)[0] for line in listening if any(f"pid={pid}," in line for pid in pids)}
    assert addresses == {"127.0.0.1"}


def test_a_second_up_is_refused(sandbox: Sandbox, command: Run) -> None:
    answer = command("up", "--state-dir", sandbox.state_dir)
    assert answer.returncode == 1
    assert f"AlreadyRunning: a sandbox runs in {sandbox.state_dir} already" in answer.stderr


def test_two_at_once_and_nothing_left_of_the_second(sandbox: Sandbox, kubectl: Run, tmp_path: Path) -> None:
    """In a folder that existed before and whose name is longer than a socket's may be."""
    folder = tmp_path / ("long-" * 20)
    folder.mkdir(parents=True)
    with Sandbox.up(folder, attached=True) as second:
        assert not set(sandbox.state.ports.values()) & set(second.state.ports.values())
        created = kubectl("create", "namespace", "second", KUBECONFIG=str(second.kubeconfig))
        assert created.returncode == 0, created.stderr
        assert "NotFound" in kubectl("get", "namespace", "second").stderr
        s3(second).put_object(Bucket="finetune", Key="second", Body=b"")
        with pytest.raises(ClientError, match="InvalidAccessKeyId"):
            s3(second, aws_access_key_id=sandbox.state.access_key).list_buckets()
    assert folder.exists()
    assert not list(folder.iterdir())
    assert not [process for process in second.state.processes() if process.alive()]
    assert processes.marked(folder) == []
    assert not [path for path in store_sockets(second.state.ports) if path.exists()]
    assert str(folder) not in Path("/proc/self/mountinfo").read_text()
    for port in second.state.ports.values():
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert kubectl("get", "namespace", "finetune-system").returncode == 0


def test_without_a_sandbox_every_command_says_so(command: Run, tmp_path: Path) -> None:
    for name in ("env", "status", "logs"):
        answer = command(name, "--state-dir", tmp_path / "none")
        assert (answer.returncode, answer.stdout) == (3, "")
        assert answer.stderr == f"NotRunning: no sandbox in {tmp_path}/none\n"
    down = command("down", "--state-dir", tmp_path / "none")
    assert (down.returncode, down.stderr) == (0, f"No sandbox in {tmp_path}/none\n")


def test_foreign_folders_are_left_alone(command: Run, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    answer = command("up", "--state-dir", tmp_path)
    assert answer.returncode == 1
    assert "is not empty and holds no sandbox: name another --state-dir" in answer.stderr
    assert command("down", "--state-dir", tmp_path).returncode == 0
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["up", "--nodes", "0"], "--nodes must be at least 1"),
        (["up", "--nodes", "two"], "invalid int value: 'two'"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_wrong_usage(command: Run, arguments: list[str], message: str) -> None:
    answer = command(*arguments)
    assert answer.returncode == 2
    assert message in answer.stderr


def test_help_names_the_exit_codes(command: Run) -> None:
    answer = command("--help")
    assert answer.returncode == 0
    assert "69  no control plane can be had on this machine" in answer.stdout
