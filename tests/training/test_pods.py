"""Training pods as processes: how they meet, end, are stopped and lose each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.outcomes import ExitCode
from finetune_api.plan import RunPlan
from finetune_api.status import Origin
from finetune_trainer.data.splits import SplitsSummary
from support.listener import endpoint_of, listening
from support.tiny_model import write_tiny_model
from support.training_runs import fork_pod, make_plan, make_spec, start_pod, write_prepared_data
from support.warm import Program

# Far more than any of this takes; it only keeps a broken run from hanging the suite.
BOUND_SECONDS = 240
ENDLESS = 1_000_000
Pod = Program | subprocess.Popen[str]

pytestmark = pytest.mark.timeout(600)


class Site:
    """A store with model and data, and the pods that were started over it; they are gone when the test is over."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / "store"
        self.pods: list[Pod] = []
        write_tiny_model(self.store / "bucket" / "model")
        # Fewer held-out rows than processes.
        self.summary: SplitsSummary = write_prepared_data(self.store / "bucket" / "prepared", validation_rows=1)

    def plan(self, **options: Any) -> RunPlan:
        return make_plan(self.store, make_spec(**options), self.summary)

    def start(self, plan: RunPlan, name: str, node: int = 0, **environment: str) -> Pod:
        return self._kept(fork_pod(plan, self.folder / name, node, **environment))

    def start_cold(self, plan: RunPlan, name: str, **environment: str) -> Pod:
        """A pod that imports everything itself."""
        return self._kept(start_pod(plan, self.folder / name, **environment))

    def _kept(self, pod: Pod) -> Pod:
        self.pods.append(pod)
        return pod

    def outcome(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / name / "termination-log").read_text())
        return found

    def log(self, name: str) -> str:
        return (self.folder / name / "log").read_text()

    def wait_for(self, name: str, text: str) -> None:
        wait_until(lambda: text in self.log(name), lambda: f"no {text!r} in\n{self.log(name)}")

    def close(self) -> None:
        for pod in self.pods:
            for process in [pod.pid, *descendants(pod.pid)]:
                terminate(process)
            pod.wait(timeout=BOUND_SECONDS)


def wait_until(condition: Callable[[], bool], message: Callable[[], str]) -> None:
    deadline = time.monotonic() + BOUND_SECONDS
    while not condition():
        assert time.monotonic() < deadline, message()
        time.sleep(0.1)


def terminate(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def children(process: int) -> list[int]:
    """Processes that the main thread of a process has started."""
    try:
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def descendants(process: int) -> list[int]:
    """Processes started by a process, directly or not."""
    return [found for child in children(process) for found in (child, *descendants(child))]


def workers(pod: Pod) -> list[int]:
    """Training processes of a pod: children of the process that imported for all of them."""
    (parent,) = children(pod.pid)
    return children(parent)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


@pytest.fixture
def reports() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """URL of a listener for progress, and what it heard."""
    with listening() as found:
        yield found


def test_two_pods_publish_the_same_artifact_twice_and_report(
    site: Site, reports: tuple[str, list[dict[str, Any]]]
) -> None:
    url, heard = reports
    endpoint = endpoint_of(url, site.folder)
    options: dict[str, Any] = {"stage": 3, "nodes": 2, "maxSteps": 4}
    outcomes = []
    # GPUs that are numbers only, as on the sandbox's nodes, must give what processes on the CPU give.
    for name, gpus in (("cpu", 0), ("simulated", 1)):
        plan = site.plan(gpus=gpus, **options)
        assert plan.prepared
        # Resources are no part of a run: both are the same one.
        prepared = plan.prepared.model_copy(update={"run_id": "r-" + "0" * 20})
        origins = {"spec.hyperparameters.maxSteps": Origin.MANIFEST}
        plan = plan.model_copy(update={"progress": endpoint, "prepared": prepared, "origins": origins})
        simulated = {"FINETUNE_SIMULATED_GPUS": "1"} if gpus else {}
        pods = [site.start(plan, f"{name}-{node}", node, **simulated) for node in (0, 1)]
        assert [pod.wait(timeout=BOUND_SECONDS) for pod in pods] == [0, 0], site.log(f"{name}-0")
        outcomes.append(site.outcome(f"{name}-0"))
        assert site.outcome(f"{name}-1") == {"stage": "train"}
    first, second = outcomes
    assert first["stage"] == "publish"
    assert first["artifact"]["kind"] == "adapter"
    assert first["artifact"]["contentDigest"] == second["artifact"]["contentDigest"]
    assert first["evaluation"] == second["evaluation"]
    assert float(first["evaluation"]["lossAfter"]) != float(first["evaluation"]["lossBefore"])
    assert "step 4/4" in site.log("cpu-0")
    assert "spec.hyperparameters.maxSteps = 4 (manifest)" in site.log("cpu-0")
    assert heard[0]["stage"] == "train"
    assert (heard[-1]["stage"], heard[-1]["progress"]["percent"]) == ("publish", 100)


def test_a_pod_without_its_gpus_says_so(site: Site) -> None:
    pod = site.start(site.plan(gpus=2), "pod", CUDA_VISIBLE_DEVICES="")
    assert pod.wait(timeout=BOUND_SECONDS) == ExitCode.DEVICE_MISSING
    failure = site.outcome("pod")["failure"]
    assert failure["class"] == "DeviceMissing"
    assert failure["message"] == "the pod asked for 2 GPUs and sees 0"


def test_a_pod_whose_peers_do_not_come_names_them(site: Site) -> None:
    pod = site.start(site.plan(nodes=4, processes=1), "pod", FINETUNE_RENDEZVOUS_TIMEOUT="1")
    assert pod.wait(timeout=BOUND_SECONDS) == ExitCode.RENDEZVOUS
    assert site.outcome("pod")["failure"]["message"] == "node 1, node 2, node 3 of 4 did not come within 1 s"


def test_a_launcher_that_runs_alone_fails_the_job(site: Site) -> None:
    plan, workspace = site.plan(nodes=2), site.folder / "workspace"
    (workspace / "outcomes").mkdir(parents=True)
    (workspace / "plan.json").write_text(plan.to_json())
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--module", "finetune_trainer", "worker"]
    ended = subprocess.run(
        [*launcher, "--plan", str(workspace / "plan.json")],
        env={**os.environ, "FINETUNE_WORKSPACE": str(workspace), "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        timeout=BOUND_SECONDS,
        check=False,
    )
    failure = json.loads((workspace / "outcomes" / "rank-0.json").read_text())["failure"]
    assert ended.returncode != 0
    assert failure["class"] == "Rendezvous"
    assert failure["message"] == "1 training processes found each other, the plan has 2 (2 pods of 1)"


def test_a_plan_that_deepspeed_would_train_wrongly_is_refused(site: Site) -> None:
    pod = site.start(site.plan(precision="bf16", stage=0), "pod")
    assert pod.wait(timeout=BOUND_SECONDS) == ExitCode.USER_ERROR
    assert "bf16 with ZeRO stage 0" in site.outcome("pod")["failure"]["message"]


# What a library might do: the process that would fork the ranks has a second thread.
THREAD = "import threading, time; threading.Thread(target=time.sleep, args=(9999,), name='other', daemon=True).start()"


def test_diverging_is_a_failure_of_its_own_also_of_a_rank_that_is_not_forked(site: Site) -> None:
    options: dict[str, Any] = {"tuning": "full", "stage": 0, "learningRate": "1e30", "warmupSteps": 0}
    (site.folder / "sitecustomize.py").write_text(THREAD)
    pod = site.start_cold(site.plan(**options), "pod", PYTHONPATH=str(site.folder))
    assert pod.wait(timeout=BOUND_SECONDS) == ExitCode.DIVERGED, site.log("pod")
    failure = site.outcome("pod")["failure"]
    assert failure["message"] == "the gradient norm of step 2 is nan"
    assert "spec.hyperparameters.learningRate" in failure["remedy"]
    assert "the ranks are started afresh, since libraries have started threads: " in site.log("pod")


def test_sigterm_stops_everything_and_is_no_success(site: Site) -> None:
    plan = site.plan(processes=2, maxSteps=ENDLESS)
    assert plan.prepared is not None
    pod = site.start(plan, "pod")
    site.wait_for("pod", f"step 2/{ENDLESS}")
    processes = workers(pod)
    pod.send_signal(signal.SIGTERM)
    assert pod.wait(timeout=BOUND_SECONDS) == ExitCode.PREEMPTED
    assert site.outcome("pod")["failure"]["class"] == "Preempted"
    assert len(processes) == 2
    assert not [process for process in processes if Path(f"/proc/{process}").exists()]
    checkpoints = site.store / "bucket" / "runs" / "team" / "tiny" / "_checkpoints" / plan.prepared.run_id
    (saved,) = checkpoints.iterdir()
    assert {file.name for file in saved.iterdir()} >= {"COMMITTED", "rank-00000.safetensors", "rank-00001.safetensors"}
    assert not (site.store / "bucket" / "runs" / "team" / "tiny" / "latest.json").exists()


def test_a_killed_rank_ends_all_pods(site: Site) -> None:
    plan = site.plan(nodes=2, processes=1, maxSteps=ENDLESS)
    pods = [site.start(plan, f"pod-{node}", node) for node in (0, 1)]
    site.wait_for("pod-0", f"step 2/{ENDLESS}")
    (victim,) = workers(pods[1])
    os.kill(victim, signal.SIGKILL)
    assert [pod.wait(timeout=BOUND_SECONDS) for pod in pods] == [ExitCode.RENDEZVOUS, 128 + signal.SIGKILL]
    assert "rank 0 lost contact with another process" in site.outcome("pod-0")["failure"]["message"]
    assert not (site.folder / "pod-1" / "termination-log").exists()


def test_a_frozen_rank_is_found_and_everybodys_stacks_are_kept(site: Site) -> None:
    plan = site.plan(nodes=2, processes=1, maxSteps=ENDLESS)
    pods = [site.start(plan, f"pod-{node}", node) for node in (0, 1)]
    site.wait_for("pod-0", f"step 5/{ENDLESS}")
    (victim,) = workers(pods[1])
    os.kill(victim, signal.SIGSTOP)
    frozen = time.monotonic()
    assert pods[1].wait(timeout=BOUND_SECONDS) == ExitCode.HUNG, site.log("pod-1")
    # 15 s, or three times a slow step of a machine that has other work too; and the saving of the stacks.
    assert time.monotonic() - frozen > 15
    failure = site.outcome("pod-1")["failure"]
    assert failure["class"] == "Hung"
    assert "rank 1 gives no sign of life" in failure["message"]
    # The other one was ended by the loss of its peer, or by its own watchdog.
    assert pods[0].wait(timeout=BOUND_SECONDS) in (ExitCode.RENDEZVOUS, ExitCode.HUNG)
    assert plan.prepared
    kept = site.store / "bucket" / "runs" / "team" / "tiny" / plan.prepared.run_id / "diagnostics" / "attempt-1"
    assert sorted(path.name for path in kept.iterdir()) == ["rank-0.txt", "rank-1.txt"]
    assert all("_step" in path.read_text() for path in kept.iterdir())


def test_a_killed_launcher_leaves_no_worker(site: Site) -> None:
    pod = site.start(site.plan(maxSteps=ENDLESS), "pod")
    site.wait_for("pod", f"step 1/{ENDLESS}")
    processes = workers(pod)
    pod.kill()
    pod.wait(timeout=BOUND_SECONDS)
    assert len(processes) == 1
    wait_until(lambda: not any(Path(f"/proc/{process}").exists() for process in processes), lambda: "a worker lives on")
