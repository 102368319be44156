"""The life of pods on a running sandbox, seen through kubectl as any user sees it."""

from __future__ import annotations

import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

LOOP = "while :; do sleep 0.05; done"


@pytest.mark.parametrize(
    ("script", "phase", "expected"),
    [
        ("exit 0", "Succeeded", {"exitCode": 0, "reason": "Completed"}),
        ("exit 7", "Failed", {"exitCode": 7, "reason": "Error"}),
        ("printf why > /dev/termination-log; exit 2", "Failed", {"exitCode": 2, "reason": "Error", "message": "why"}),
        # Kubernetes turns $$ into $, so that the shell sees its own process ID.
        ("kill -9 $$$$", "Failed", {"exitCode": 137, "reason": "Error", "signal": 9}),
    ],
)
def test_how_a_container_ended(space: Any, script: str, phase: str, expected: dict[str, Any]) -> None:
    space.pod("p", ["sh", "-c", script])
    status = space.ended("p")
    terminated = status["containerStatuses"][0]["state"]["terminated"]
    assert status["phase"] == phase
    assert {key: terminated.get(key) for key in expected} == expected
    assert terminated["startedAt"] <= terminated["finishedAt"]
    conditions = {condition["type"]: condition["status"] for condition in status["conditions"]}
    assert conditions["PodScheduled"] == "True"
    assert conditions["Ready"] == "False"


def test_a_command_that_does_not_exist(space: Any) -> None:
    space.pod("p", ["no-such-program"])
    terminated = space.ended("p")["containerStatuses"][0]["state"]["terminated"]
    assert (terminated["exitCode"], terminated["reason"]) == (128, "StartError")
    assert terminated["message"] == 'exec: "no-such-program": executable file not found in $PATH'


def test_a_container_without_a_command_waits_with_the_reason(space: Any) -> None:
    space.pod("p")
    assert 'container "main" has no command' in space.waiting("p", "CreateContainerError")["message"]


def test_a_missing_secret_is_named_and_waited_for(space: Any) -> None:
    space.pod(
        "p", ["sh", "-c", "echo $OUT_KEY"], container={"envFrom": [{"prefix": "OUT_", "secretRef": {"name": "s"}}]}
    )
    assert space.waiting("p", "CreateContainerConfigError")["message"] == 'secret "s" not found'
    space.run("create", "secret", "generic", "s", "--from-literal=KEY=value")
    assert space.ended("p")["phase"] == "Succeeded"
    assert space.run("logs", "p") == "value\n"


def test_a_missing_volume_source_is_an_event_and_waited_for(space: Any) -> None:
    volumes = [{"name": "v", "configMap": {"name": "late"}}]
    mounts = [{"name": "v", "mountPath": "/etc/finetune"}]
    space.pod("p", ["cat", "/etc/finetune/a"], container={"volumeMounts": mounts}, volumes=volumes)

    def told(events: dict[str, Any]) -> bool:
        return any(item["reason"] == "FailedMount" for item in events["items"])

    events = space.until("events", "--field-selector=involvedObject.name=p", told)
    message = next(item["message"] for item in events["items"] if item["reason"] == "FailedMount")
    assert message == 'MountVolume.SetUp failed for volume "v" : configmap "late" not found'
    assert space.waiting("p", "ContainerCreating") == {"reason": "ContainerCreating"}
    space.run("create", "configmap", "late", "--from-literal=a=here")
    assert space.ended("p")["phase"] == "Succeeded"
    assert space.run("logs", "p") == "here"


def test_init_containers_run_first_and_share_volumes(space: Any) -> None:
    mounts = [{"name": "w", "mountPath": "/workspace"}]
    init = {
        "name": "init",
        "image": "none",
        "command": ["sh", "-c", "echo prepared > /workspace/a"],
        "volumeMounts": mounts,
    }
    space.pod(
        "p", ["cat", "/workspace/a"], container={"volumeMounts": mounts}, initContainers=[init],
        volumes=[{"name": "w", "emptyDir": {}}],
    )  # fmt: skip
    status = space.ended("p")
    assert status["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 0
    assert space.run("logs", "p", "-c", "main") == "prepared\n"


def test_a_failed_init_container_fails_the_pod(space: Any) -> None:
    init = {"name": "init", "image": "none", "command": ["false"]}
    space.pod("p", ["true"], initContainers=[init])
    status = space.ended("p")
    assert status["phase"] == "Failed"
    assert "waiting" in status["containerStatuses"][0]["state"]


def test_restarts_are_counted_and_backed_off(space: Any) -> None:
    space.pod("p", ["sh", "-c", "echo run; exit 3"], restartPolicy="OnFailure")
    assert "back-off 10s restarting failed container=main" in space.waiting("p", "CrashLoopBackOff")["message"]
    status = space.get("pod", "p")["status"]["containerStatuses"][0]
    assert (status["restartCount"], status["lastState"]["terminated"]["exitCode"]) == (1, 3)
    assert space.run("logs", "p") == space.run("logs", "p", "--previous") == "run\n"
    assert space.get("pod", "p")["status"]["phase"] == "Running"


def test_deletion_is_graceful(space: Any) -> None:
    space.pod(
        "p", ["sh", "-c", f"trap 'echo stopping; exit 5' TERM; echo up; {LOOP}"], terminationGracePeriodSeconds=60
    )
    space.state("p", "running")
    space.until("pod", "p", lambda _: space.run("logs", "p") == "up\n")
    with subprocess.Popen(space.line("logs", "-f", "p"), stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout
        # It follows from here on.
        assert follower.stdout.readline() == "up\n"
        space.run("delete", "pod", "p", "--wait=true")
        assert follower.communicate()[0] == "stopping\n"
    assert "not found" in space.failure("get", "pod", "p")


def test_a_pod_that_ignores_the_signal_is_killed_after_its_grace_period(space: Any) -> None:
    space.pod("p", ["sh", "-c", f"trap '' TERM; echo up; {LOOP}"], terminationGracePeriodSeconds=1)
    space.state("p", "running")
    space.run("delete", "pod", "p", "--wait=true")
    assert "not found" in space.failure("get", "pod", "p")


def test_a_forced_deletion_ends_the_process_at_once(space: Any, tmp_path: Path) -> None:
    marker = tmp_path / "beat"
    volumes = [{"name": "h", "hostPath": {"path": str(tmp_path)}}]
    script = "trap '' TERM; while :; do date +%N > /out/beat; sleep 0.02; done"
    mounts = [{"name": "h", "mountPath": "/out"}]
    space.pod(
        "p",
        ["sh", "-c", script],
        container={"volumeMounts": mounts},
        volumes=volumes,
        terminationGracePeriodSeconds=600,
    )
    while not marker.exists():
        space.get("pod", "p")
    space.run("delete", "pod", "p", "--force", "--grace-period=0")
    beats = [marker.read_text(), ""]
    while beats[0] != beats[1]:
        space.failure("get", "pod", "p")
        beats = [marker.read_text(), beats[0]]
    assert beats[0] == beats[1]


def test_active_deadline(space: Any) -> None:
    space.pod("p", ["sleep", "600"], activeDeadlineSeconds=1)
    status = space.ended("p")
    assert (status["phase"], status["reason"]) == ("Failed", "DeadlineExceeded")
    assert status["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 143


def test_a_job_succeeds_and_its_pods_are_counted(space: Any) -> None:
    space.apply(job("j", ["sh", "-c", "test $JOB_COMPLETION_INDEX -lt 2"], completions=2))
    status = space.until("job", "j", lambda found: found["status"].get("succeeded") == 2)["status"]
    assert status["completedIndexes"] == "0,1"


def job(name: str, command: list[str], completions: int) -> dict[str, Any]:
    container = {"name": "main", "image": "none", "command": command}
    pod = {"subdomain": name, "restartPolicy": "Never", "containers": [container]}
    spec = {"completions": completions, "parallelism": completions, "completionMode": "Indexed", "backoffLimit": 0}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": spec | {"template": {"spec": pod}},
    }


MEET = """
import os, socket, time
index, job = int(os.environ["JOB_COMPLETION_INDEX"]), "j"
own = socket.gethostbyname(socket.gethostname())
assert socket.gethostname() == f"{job}-{index}" and own.startswith("127."), own
if index == 0:
    with socket.create_server((own, 45678)) as server:
        connection, peer = server.accept()
        connection.sendall(own.encode())
        print("met", peer[0])
else:
    while True:
        try:
            with socket.create_connection(("j-0.j", 45678)) as connection:
                full_name = f"j-0.j.{os.environ['SPACE']}.svc.cluster.local"
                print("heard of", connection.recv(99).decode() == socket.gethostbyname(full_name))
            break
        except OSError:
            time.sleep(0.05)
"""


def test_pods_of_an_indexed_job_find_each_other_by_name(space: Any) -> None:
    manifest = job("j", ["python", "-c", MEET], completions=2)
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    container["env"] = [{"name": "SPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}]
    space.apply(manifest)
    space.until("job", "j", lambda found: found["status"].get("succeeded") == 2)
    logs = space.run("logs", "-l", "job-name=j")
    assert "heard of True" in logs
    assert "met 127.0.0.1" in logs


def test_all_reduce_with_torchrun_between_two_pods(space: Any) -> None:
    program = (
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "value = torch.tensor([dist.get_rank() + 1.0])\n"
        "dist.all_reduce(value)\n"
        "print('sum', value.item(), 'of', dist.get_world_size())\n"
        "dist.destroy_process_group()\n"
    )
    space.run("create", "configmap", "program", f"--from-literal=main.py={program}")
    port = free_port()
    line = (
        "exec torchrun --nnodes 2 --nproc-per-node 1 --node-rank $JOB_COMPLETION_INDEX "
        f"--master-addr j-0.j --master-port {port} /program/main.py"
    )
    manifest = job("j", ["sh", "-c", line], completions=2)
    pod = manifest["spec"]["template"]["spec"]
    pod["containers"][0]["volumeMounts"] = [{"name": "program", "mountPath": "/program"}]
    pod["volumes"] = [{"name": "program", "configMap": {"name": "program"}}]
    space.apply(manifest)
    space.until("job", "j", lambda found: found["status"].get("succeeded") == 2)
    assert space.run("logs", "-l", "job-name=j").splitlines() == ["sum 3.0 of 2"] * 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


def test_following_a_log_ends_with_the_container(space: Any) -> None:
    space.pod("p", ["sh", "-c", "for i in 1 2 3; do echo line $i; sleep 0.2; done; printf unfinished"])
    space.until("pod", "p", lambda pod: pod["status"]["phase"] != "Pending")
    assert space.run("logs", "-f", "p") == "line 1\nline 2\nline 3\nunfinished"


def test_selecting_from_a_log(space: Any) -> None:
    space.pod("p", ["sh", "-c", "echo one; echo two >&2; echo three"])
    space.ended("p")
    assert sorted(space.run("logs", "p").split()) == ["one", "three", "two"]
    assert len(space.run("logs", "p", "--tail=1").splitlines()) == 1
    assert space.run("logs", "p", "--limit-bytes=2") == space.run("logs", "p")[:2]
    assert "T" in space.run("logs", "p", "--timestamps", "--tail=1").split(" ")[0]
    assert "previous terminated container" in space.failure("logs", "p", "--previous")


def test_a_deleted_node_comes_back(space: Any) -> None:
    before = space.get("node", "sandbox-1")["metadata"]["uid"]
    space.run("delete", "node", "sandbox-1")

    def back(found: dict[str, Any]) -> bool:
        nodes = {item["metadata"]["name"]: item for item in found["items"]}
        node = nodes.get("sandbox-1")
        return node is not None and node["metadata"]["uid"] != before and not node["spec"].get("taints")

    nodes = space.until("nodes", "--sort-by=.metadata.name", back)["items"]
    conditions = {each["type"]: each["status"] for each in nodes[1]["status"]["conditions"]}
    assert conditions["Ready"] == "True"
    assert nodes[1]["status"]["allocatable"]["nvidia.com/gpu"] == "8"
    leases = replace(space, namespace="kube-node-lease")

    def owned(found: dict[str, Any]) -> bool:
        owners = {item["metadata"]["name"]: item["metadata"]["ownerReferences"] for item in found["items"]}
        return "sandbox-1" in owners and owners["sandbox-1"][0]["uid"] == nodes[1]["metadata"]["uid"]

    assert leases.until("leases", "--sort-by=.metadata.name", owned)["items"][1]["spec"]["renewTime"]


def test_gpus_are_numbers_that_the_scheduler_counts(space: Any) -> None:
    gpus = {"resources": {"limits": {"nvidia.com/gpu": "8"}}}
    for name in ("a", "b", "c"):
        space.pod(name, ["sh", "-c", f"echo $FINETUNE_SIMULATED_GPUS; {LOOP}"], container=gpus)
    for name in ("a", "b"):
        space.state(name, "running")
    assert space.run("logs", "a") == "8\n"

    def unschedulable(pod: dict[str, Any]) -> bool:
        return any(each["reason"] == "Unschedulable" for each in pod["status"].get("conditions") or [])

    message = space.until("pod", "c", unschedulable)["status"]["conditions"][0]["message"]
    assert "2 Insufficient nvidia.com/gpu" in message
    space.run("delete", "pod", "a", "--wait=false")
    assert space.state("c", "running")["startedAt"]
