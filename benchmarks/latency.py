"""How fast the operator is: apply to pods, trainer to status, and what it needs at rest.

The peer in the same run is a pair of bare batch Jobs, one after the other: the least that any controller needs which
runs a check before it creates training pods.

Run: ``make bench``, or ``python -m benchmarks.latency --jobs 20``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from finetune_sandbox import Sandbox
from finetune_sandbox.installation import OperatorProcess, install, kubectl

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT / "tests"))

from support.operated import Object, Platform, eventually  # noqa: E402
from support.tiny_model import write_chat_rows, write_tiny_model  # noqa: E402


@dataclass(frozen=True)
class Result:
    """Figures of one run, in seconds and MiB."""

    jobs: int
    apply_to_pods_median: float
    apply_to_pods_p95: float
    bare_jobs_median: float
    ratio: float
    status_lag_median: float
    status_lag_max: float
    operator_rss_mib: float


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * len(ordered) * 100) // 100) - 1))]


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def bare_job(name: str, namespace: str) -> Object:
    """A Job whose only pod starts an interpreter and ends: no check can be cheaper."""
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "main", "image": "none", "command": ["python", "-c", "pass"], "securityContext": security}
    pod = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": {"spec": pod}}}


def _bare_pair(platform: Platform, namespace: str, index: int) -> None:
    """One Job to its end, then another until its pod is there."""
    first, second = f"bare-{index}-check", f"bare-{index}-train"
    platform.kubectl("create", "-f", "-", stdin=yaml.safe_dump(bare_job(first, namespace)))
    platform.kubectl("wait", "--for=condition=Complete", f"job/{first}", "-n", namespace, "--timeout=60s")
    platform.kubectl("create", "-f", "-", stdin=yaml.safe_dump(bare_job(second, namespace)))
    _await_pod(platform, namespace, f"job-name={second}")


def _await_pod(platform: Platform, namespace: str, selector: str) -> None:
    """Returns as soon as a pod of the selector exists. A watch, since polling would be part of what is measured."""
    platform.kubectl("wait", "--for=create", "pod", "-l", selector, "-n", namespace, "--timeout=60s")


def _apply_and_await_pods(platform: Platform, namespace: str, name: str) -> None:
    platform.submit(namespace, name, hyperparameters={"maxSteps": 100_000, "seed": int(name.rpartition("-")[2])})
    _await_pod(platform, namespace, f"finetune.dev/job={name},finetune.dev/stage=train")


def measure_latency(platform: Platform, jobs: int) -> tuple[list[float], list[float]]:
    """Interleaved samples of ours and of the bare pair, in seconds, on an otherwise idle cluster."""
    namespace = platform.new_namespace()
    ours, bare = [], []
    for index in range(jobs):
        name = f"latency-{index}"
        ours.append(_seconds(lambda name=name: _apply_and_await_pods(platform, namespace, name)))
        platform.kubectl("delete", "ftj", name, "-n", namespace)
        eventually(lambda: not platform.kubectl("get", "pods", "-n", namespace, "-o", "name"), 60)
        bare.append(_seconds(lambda index=index: _bare_pair(platform, namespace, index)))
        platform.kubectl("delete", "jobs", "--all", "-n", namespace)
        eventually(lambda: not platform.kubectl("get", "pods", "-n", namespace, "-o", "name"), 60)
    return ours, bare


def measure_lag(platform: Platform, seconds: float) -> list[float]:
    """How old the progress in the status is, sampled while a job trains, in seconds."""
    namespace = platform.new_namespace()
    platform.submit(namespace, "lag", hyperparameters={"maxSteps": 100_000})
    platform.wait(namespace, "lag", lambda job: "progress" in (job.get("status") or {}))
    samples, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        updated = platform.job(namespace, "lag")["status"]["progress"]["updated"]
        samples.append((datetime.now(UTC) - datetime.fromisoformat(updated)).total_seconds())
        time.sleep(0.5)
    platform.kubectl("delete", "namespace", namespace, "--wait=false")
    return samples


def run(kubeconfig: Path, store: dict[str, str], jobs: int) -> Result:
    """All measurements on one cluster."""
    install(kubeconfig, PROJECT)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        operator = OperatorProcess.start(kubeconfig, root / "operator")
        try:
            platform = Platform(kubeconfig, store, store["FINETUNE_SANDBOX_BUCKET"], "benchmark", operator)
            platform.upload_folder("models/tiny", write_tiny_model(root / "tiny"))
            platform.upload("data/train.jsonl", write_chat_rows(root / "train.jsonl", 40).read_bytes())
            resting = operator.resident_bytes() / 2**20
            ours, bare = measure_latency(platform, jobs)
            lag = measure_lag(platform, 40)
        finally:
            operator.stop()
    median, peer = statistics.median(ours), statistics.median(bare)
    return Result(jobs, median, percentile(ours, 0.95), peer, median / peer, statistics.median(lag), max(lag), resting)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--output", type=Path, default=PROJECT / "benchmarks" / "results" / "latency.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Sandbox.up(Path(folder) / "state", attached=True) as sandbox:
        result: dict[str, Any] = asdict(run(sandbox.kubeconfig, sandbox.environment(), options.jobs))
        version = json.loads(kubectl(sandbox.kubeconfig, "version", "-o", "json"))["serverVersion"]["gitVersion"]
    for name, value in result.items():
        print(f"{name:24} {value:.3f}" if isinstance(value, float) else f"{name:24} {value}")
    options.output.write_text(json.dumps({"kubernetes": version, **result}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
