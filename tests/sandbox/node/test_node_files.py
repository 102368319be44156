"""Logs, hosts files, generated volumes, configuration: what the agent reads and writes."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

import pytest

from finetune_sandbox.node.config import NodeSpec, load_config
from finetune_sandbox.node.containers import ContainerFolder, termination_message
from finetune_sandbox.node.errors import ContainerCreateError, InvalidNodeConfig, VolumeError
from finetune_sandbox.node.hosts import PodName, choose_address, host_names, hostname, hosts_file
from finetune_sandbox.node.hosts_files import HostsFiles
from finetune_sandbox.node.kube import Kube
from finetune_sandbox.node.logs import LogQuery, LogWriter, format_record, log_path, read_log
from finetune_sandbox.node.machine import base_environment
from finetune_sandbox.node.mounts import volume_mounts
from finetune_sandbox.node.namespaces import remedies
from finetune_sandbox.node.nodes import Endpoint, lease_object, node_object
from finetune_sandbox.node.payload import VolumeFile
from finetune_sandbox.node.provisioner import is_released, volume_object, wants_volume
from finetune_sandbox.node.rootfs import Mount
from finetune_sandbox.node.server import LogTail, parse_query
from finetune_sandbox.node.times import micro_time, parse_time, timestamp
from finetune_sandbox.node.volumes import host_path, write_payload
from finetune_sandbox.trees import remove_tree

AT = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, datetime.UTC)


def test_times() -> None:
    assert timestamp(AT) == "2026-01-02T03:04:05Z"
    assert micro_time(AT) == "2026-01-02T03:04:05.678901Z"
    assert parse_time("2026-01-02T03:04:05Z") == AT.replace(microsecond=0)
    assert parse_time("2026-01-02T03:04:05.678901999Z") == AT
    assert parse_time("2026-01-02T03:04:05.5Z") == AT.replace(microsecond=500000)


def written(path: Path, *pieces: tuple[str, bytes]) -> bytes:
    changes: list[None] = []
    log = LogWriter(path, lambda: changes.append(None))
    for stream, data in pieces:
        log.write(stream, data)
    log.close()
    assert changes
    return path.read_bytes()


def test_log_records_have_time_stream_and_completeness(tmp_path: Path) -> None:
    content = written(tmp_path / "0.log", ("stdout", b"one\ntw"), ("stderr", b"oops\n"), ("stdout", b"o\nrest"))
    fields = [record.split(b" ", 3)[1:] for record in content.splitlines()]
    assert fields == [
        [b"stdout", b"F", b"one"],
        [b"stderr", b"F", b"oops"],
        [b"stdout", b"F", b"two"],
        [b"stdout", b"P", b"rest"],
    ]
    assert format_record(AT, "stdout", b"x", True) == b"2026-01-02T03:04:05.678901000Z stdout F x\n"


def test_long_lines_are_written_in_parts_and_read_as_one(tmp_path: Path) -> None:
    line = b"x" * 40000
    content = written(
        tmp_path / "0.log", ("stdout", line[:30000]), ("stdout", line[30000:] + b"\n"), ("stdout", b"y\n")
    )
    assert len(content.splitlines()) == 4
    assert read_log(content, LogQuery()) == line + b"\ny\n"
    assert read_log(content, LogQuery(tail_lines=1)) == b"y\n"
    assert read_log(content, LogQuery(tail_lines=2)) == line + b"\ny\n"


def log_of(*lines: bytes) -> bytes:
    times = [AT + datetime.timedelta(seconds=number) for number in range(len(lines))]
    return b"".join(format_record(at, "stdout", line, True) for at, line in zip(times, lines, strict=True))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (LogQuery(), b"a\nb\rb\nc\n"),
        (LogQuery(tail_lines=2), b"b\rb\nc\n"),
        (LogQuery(tail_lines=0), b""),
        (LogQuery(tail_lines=9), b"a\nb\rb\nc\n"),
        (LogQuery(limit_bytes=3), b"a\nb"),
        (LogQuery(since=AT + datetime.timedelta(seconds=1)), b"b\rb\nc\n"),
        (LogQuery(tail_lines=1, timestamps=True), b"2026-01-02T03:04:07.678901000Z c\n"),
    ],
)
def test_reading_of_logs(query: LogQuery, expected: bytes) -> None:
    assert read_log(log_of(b"a", b"b\rb", b"c"), query) == expected


def test_following_gives_each_line_once_and_no_half_line(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    tail = LogTail(path, LogQuery(tail_lines=1, limit_bytes=5))
    assert tail.read() == b""
    content = log_of(b"a", b"b", b"c", b"d")
    path.write_bytes(content[: len(log_of(b"a", b"b")) + 4])
    assert [tail.read(), tail.read(), tail.exhausted] == [b"b\n", b"", False]
    path.write_bytes(content)
    assert [tail.read(), tail.exhausted] == [b"c\nd", True]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, LogQuery()),
        ({"tailLines": "3", "timestamps": "true"}, LogQuery(tail_lines=3, timestamps=True)),
        ({"sinceSeconds": "5", "limitBytes": "9"}, LogQuery(since=AT - datetime.timedelta(seconds=5), limit_bytes=9)),
        ({"sinceTime": "2026-01-02T03:04:05Z"}, LogQuery(since=AT.replace(microsecond=0))),
    ],
)
def test_log_options(options: dict[str, str], expected: LogQuery) -> None:
    assert parse_query(options, AT) == expected


def test_log_paths_are_the_kubelets(tmp_path: Path) -> None:
    pod = {"namespace": "n", "name": "p", "uid": "u"}
    assert log_path(tmp_path, pod, "main", 2) == tmp_path / "n_p_u" / "main" / "2.log"


@pytest.mark.parametrize(
    ("message", "policy", "code", "expected"),
    [
        (b"done", "File", 0, "done"),
        (b"x" * 5000, "File", 0, "x" * 4096),
        (b"", "File", 1, ""),
        (b"", "FallbackToLogsOnError", 1, "last\nwords\n"),
        (b"", "FallbackToLogsOnError", 0, ""),
        (b"own", "FallbackToLogsOnError", 1, "own"),
    ],
)
def test_termination_message(tmp_path: Path, message: bytes, policy: str, code: int, expected: str) -> None:
    folder = ContainerFolder(tmp_path / "run")
    folder.make()
    folder.message.write_bytes(message)
    log = tmp_path / "0.log"
    log.write_bytes(log_of(b"last", b"words"))
    assert termination_message({"terminationMessagePolicy": policy}, folder, log, code) == expected


RANK_0 = PodName("team", "tune-0", "tune", "127.1.1.1")
RANK_1 = PodName("team", "tune-1", "tune", "127.1.1.2")
LONELY = PodName("team", "lonely", "", "127.1.1.3")
ELSEWHERE = PodName("other", "tune-0", "tune", "127.1.1.4")


def test_names_of_a_pod() -> None:
    assert host_names(RANK_0) == [
        "tune-0.tune.team.svc.cluster.local",
        "tune-0.tune.team.svc",
        "tune-0.tune.team",
        "tune-0.tune",
        "tune-0",
    ]
    assert host_names(LONELY) == ["lonely"]


def test_hosts_file_has_the_pods_of_the_namespace_that_can_be_named() -> None:
    aliases = [{"ip": "10.0.0.1", "hostnames": ["registry", "mirror"]}]
    services = ["127.3.3.3\tapi.system.svc"]
    assert hosts_file(RANK_1, [RANK_1, ELSEWHERE, LONELY, RANK_0], aliases, services).splitlines()[1:] == [
        "127.0.0.1\tlocalhost",
        "127.1.1.2\t" + "\t".join(host_names(RANK_1)),
        "127.1.1.1\t" + "\t".join(host_names(RANK_0)),
        "127.3.3.3\tapi.system.svc",
        "10.0.0.1\tregistry\tmirror",
    ]


def test_hosts_files_change_in_place_as_pods_come_and_go(tmp_path: Path) -> None:
    files, path = HostsFiles(), tmp_path / "0" / "hosts"
    files.add("u0", RANK_0, path, [])
    alone, inode = path.read_text(), path.stat().st_ino
    files.add("u1", RANK_1, tmp_path / "1" / "hosts", [])
    assert "127.1.1.2\ttune-1.tune.team.svc.cluster.local" in path.read_text()
    files.remove("u1")
    assert (path.read_text(), path.stat().st_ino) == (alone, inode)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [({}, "pod-name"), ({"hostname": "rank-0"}, "rank-0"), ({"hostname": "a" * 62 + "-b"}, "a" * 62)],
)
def test_host_name(spec: dict[str, str], expected: str) -> None:
    assert hostname({"metadata": {"name": "pod-name"}, "spec": spec}) == expected


def test_addresses_are_distinct_and_stay_the_same() -> None:
    taken: set[str] = set()
    for number in range(2000):
        taken.add(choose_address(f"uid-{number}", taken))
    assert len(taken) == 2000
    assert all(address.startswith("127.") and not address.startswith("127.0.") for address in taken)
    assert choose_address("uid-0", ()) == choose_address("uid-0", ())
    assert choose_address("uid-0", {choose_address("uid-0", ())}) != choose_address("uid-0", ())


def test_generated_volume_is_replaced_in_one_step(tmp_path: Path) -> None:
    folder = tmp_path / "volume"
    write_payload(folder, {"a": VolumeFile(b"1", 0o640), "deep/b": VolumeFile(b"2", 0o644)})
    first = os.readlink(folder / "..data")
    assert (folder / "a").read_bytes() == b"1"
    assert (folder / "a").stat().st_mode & 0o777 == 0o640
    assert (folder / "deep" / "b").read_bytes() == b"2"
    write_payload(folder, {"a": VolumeFile(b"1", 0o640), "deep/b": VolumeFile(b"2", 0o644)})
    assert os.readlink(folder / "..data") == first
    write_payload(folder, {"a": VolumeFile(b"3", 0o640), "c": VolumeFile(b"4", 0o644)})
    second = os.readlink(folder / "..data")
    assert (folder / "a").read_bytes() == b"3"
    assert sorted(os.listdir(folder)) == sorted([second, "..data", "a", "c"])


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ({"path": "made", "type": "DirectoryOrCreate"}, ""),
        ({"path": "made", "type": "FileOrCreate"}, ""),
        ({"path": "file"}, ""),
        ({"path": "file", "type": "File"}, ""),
        ({"path": "file", "type": "Directory"}, "is not a directory"),
        ({"path": "none"}, "is not a file or directory"),
        ({"path": "file/x", "type": "DirectoryOrCreate"}, "Not a directory"),
    ],
)
def test_host_paths(tmp_path: Path, source: dict[str, str], error: str) -> None:
    (tmp_path / "file").touch()
    absolute = {**source, "path": str(tmp_path / source["path"])}
    if error:
        with pytest.raises(VolumeError, match=error):
            host_path(absolute)
    else:
        assert host_path(absolute).exists()


def test_a_tree_that_was_made_unreadable_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "pod"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").touch()
    (folder / "link").symlink_to(tmp_path)
    (folder / "a" / "b").chmod(0)
    (folder / "a").chmod(0)
    remove_tree(folder)
    remove_tree(folder)
    assert list(tmp_path.iterdir()) == []


def mounts_of(volume: dict[str, Any], path: Path, **mount: Any) -> list[Mount]:
    container = {"volumeMounts": [{"name": "v", "mountPath": "/m", **mount}]}
    return volume_mounts(container, [{"name": "v", **volume}], {"v": path}, {"POD": "p-0"})


def test_volume_mounts(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    empty: dict[str, Any] = {"emptyDir": {}}
    assert mounts_of(empty, tmp_path) == [Mount(str(tmp_path), "/m")]
    assert mounts_of(empty, tmp_path, readOnly=True) == [Mount(str(tmp_path), "/m", read_only=True)]
    assert mounts_of({"configMap": {}}, tmp_path) == [Mount(str(tmp_path), "/m", read_only=True)]
    claim = {"persistentVolumeClaim": {"claimName": "c", "readOnly": True}}
    assert mounts_of(claim, tmp_path) == [Mount(str(tmp_path), "/m", read_only=True)]
    assert mounts_of(empty, tmp_path, subPath="file") == [Mount(str(tmp_path / "file"), "/m", is_file=True)]
    assert mounts_of(empty, tmp_path, subPathExpr="runs/$(POD)") == [Mount(str(tmp_path / "runs/p-0"), "/m")]
    assert (tmp_path / "runs" / "p-0").is_dir()


def test_a_sub_path_cannot_leave_its_volume(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "link").symlink_to(tmp_path)
    with pytest.raises(ContainerCreateError, match="it leaves the volume"):
        mounts_of({"emptyDir": {}}, volume, subPath="link/x")


def test_nothing_but_path_and_language_comes_from_the_agents_environment() -> None:
    agent = {"PATH": "/agent/bin", "LANG": "de_DE.UTF-8", "AWS_SECRET_ACCESS_KEY": "x", "KUBECONFIG": "y"}
    environment = base_environment(agent, "/home/me")
    assert environment.pop("PATH").endswith(":/agent/bin")
    assert environment == {"HOME": "/home/me", "LANG": "de_DE.UTF-8"}


CONFIG: dict[str, Any] = {
    "kubeconfig": "/s/kubeconfig",
    "stateDir": "/s/pods",
    "logDir": "/s/logs",
    "serving": {"certificate": "/s/tls.crt", "key": "/s/tls.key"},
    "clientCA": "/s/ca.crt",
    "port": 10250,
    "nodes": [{"name": "sandbox-0", "cpu": "64", "memory": "64Gi", "gpus": 8}],
    "simulate": False,
    "preload": "",
    "clusterCA": "/s/ca.crt",
    "apiServer": "https://127.0.0.1:6443",
    "readyFile": "/s/ready",
}


def test_configuration(tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    path.write_text(json.dumps(CONFIG))
    config = load_config(path)
    assert config.nodes == (NodeSpec("sandbox-0", "64", "64Gi", 8),)
    assert (config.port, config.simulate, config.key) == (10250, False, Path("/s/tls.key"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read"),
        (json.dumps({key: value for key, value in CONFIG.items() if key != "port"}), "port is missing"),
        (json.dumps(CONFIG | {"nodes": []}), "nodes must name at least one node"),
        (json.dumps(CONFIG | {"port": "many"}), "invalid literal"),
    ],
)
def test_configuration_that_does_not_fit(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "node.json"
    path.write_text(content)
    with pytest.raises(InvalidNodeConfig, match=message):
        load_config(path)


@pytest.mark.parametrize("content", ["", "current-context: none\ncontexts: []", "- x"])
def test_a_kubeconfig_that_does_not_fit(tmp_path: Path, content: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(content)
    with pytest.raises(InvalidNodeConfig, match="cannot use the kubeconfig"):
        Kube.connect(path)


def test_nodes_say_what_the_scheduler_counts_with() -> None:
    node = node_object(NodeSpec("sandbox-1", "8", "16Gi", 4), Endpoint(10250, "v1.36.0"), AT)
    expected = {"cpu": "8", "memory": "16Gi", "pods": "110", "ephemeral-storage": "1Ti", "nvidia.com/gpu": "4"}
    assert node["status"]["capacity"] == node["status"]["allocatable"] == expected
    assert node["metadata"]["labels"]["kubernetes.io/hostname"] == "sandbox-1"
    assert node["status"]["daemonEndpoints"] == {"kubeletEndpoint": {"Port": 10250}}
    ready = [(each["type"], each["status"]) for each in node["status"]["conditions"] if each["type"] == "Ready"]
    assert ready == [("Ready", "True")]
    assert "nvidia.com/gpu" not in NodeSpec("n", "8", "16Gi", 0).resources()
    assert lease_object("sandbox-1", "u", AT)["spec"] == {
        "holderIdentity": "sandbox-1",
        "leaseDurationSeconds": 40,
        "renewTime": "2026-01-02T03:04:05.678901Z",
    }


CLAIM: dict[str, Any] = {
    "metadata": {"name": "models", "namespace": "team", "uid": "u"},
    "spec": {
        "storageClassName": "sandbox",
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "5Gi"}},
    },
    "status": {"phase": "Pending"},
}


@pytest.mark.parametrize(
    ("spec", "metadata", "status", "expected"),
    [
        ({}, {}, {}, True),
        ({"storageClassName": "other"}, {}, {}, False),
        ({"volumeName": "mine"}, {}, {}, False),
        ({}, {"deletionTimestamp": "x"}, {}, False),
        ({}, {}, {"phase": "Bound"}, False),
    ],
)
def test_claims_that_want_a_volume(
    spec: dict[str, Any], metadata: dict[str, Any], status: dict[str, Any], expected: bool
) -> None:
    claim = {key: CLAIM[key] | change for key, change in (("spec", spec), ("metadata", metadata), ("status", status))}
    assert wants_volume(claim) is expected


def test_volume_of_a_claim(tmp_path: Path) -> None:
    volume = volume_object(CLAIM, tmp_path)
    assert volume["metadata"]["name"] == "pvc-u"
    assert volume["spec"]["hostPath"] == {"path": str(tmp_path), "type": "DirectoryOrCreate"}
    assert volume["spec"]["claimRef"]["uid"] == "u"
    assert not is_released(volume | {"status": {"phase": "Bound"}})
    assert is_released(volume | {"status": {"phase": "Released"}})
    assert not is_released({"metadata": {}, "spec": volume["spec"], "status": {"phase": "Released"}})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"/proc/sys/user/max_user_namespaces": "0"}, ["run `sysctl -w user.max_user_namespaces=15000` as root"]),
        (
            {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1", "/proc/sys/user/max_user_namespaces": "9"},
            ["run `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0` as root"],
        ),
    ],
)
def test_a_refusal_names_the_setting(settings: dict[str, str], expected: list[str]) -> None:
    assert remedies(settings) == expected
    assert "docker run --privileged" in remedies({})[0]
