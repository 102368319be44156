"""What an operator needs that starts on a cluster with thousands of jobs, and what it needs from then on.

Jobs are finished, each with a pod that is still there, but for a few that are suspended. With ``--source`` operators of
other commits are measured on the same cluster, one after the other.

Run: ``python -m benchmarks.scale --jobs 5000``. It takes about ten minutes, most of it to make the jobs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kubernetes import client, config

from finetune_api import API_VERSION, GROUP, KIND, PLURAL, VERSION
from finetune_sandbox import Sandbox
from finetune_sandbox.installation import OperatorProcess, install

PROJECT = Path(__file__).resolve().parent.parent
NAMESPACE, SUSPENDED = "team", 50
_AT, _TICKS = "2026-01-01T00:00:00Z", os.sysconf("SC_CLK_TCK")
_THREADS = 8
_REQUEST = re.compile(r"finetune_api_request_seconds_count\{(.*)\} (\S+)")

Object = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """Figures of one operator.

    Attributes:
        settle_seconds: from its start until it has said that the suspended jobs are suspended.
        start_cpu_seconds: CPU time until then.
        start_requests: requests until then.
        cpu_per_minute: CPU-seconds per minute from then on, while nothing happens.
        requests_per_minute: the same of requests.
        rss_mib: resident memory in the end.
    """

    source: str
    jobs: int
    settle_seconds: float
    start_cpu_seconds: float
    start_requests: int
    cpu_per_minute: float
    requests_per_minute: float
    rss_mib: float


def finished_status() -> Object:
    """The status of a job that has long been complete, as the operator leaves it."""
    said = ("Validated", "Prepared", "ArtifactVerified", "Complete")
    conditions = [
        {
            "type": kind,
            "status": "True" if kind in said else "False",
            "reason": "Published",
            "message": "",
            "lastTransitionTime": _AT,
            "observedGeneration": 1,
        }
        for kind in (*said, "Running", "Suspended", "Failed", "Reconciling", "Stalled")
    ]
    return {"state": "Complete", "observedGeneration": 1, "startTime": _AT, "conditions": conditions}


def job(number: int, suspend: bool) -> Object:
    """A job; those that are not suspended get the status of finished ones."""
    spec = {
        "model": {"source": "hf://example/model"},
        "dataset": {"train": [{"source": "s3://data/train.jsonl"}]},
        "output": {"destination": "s3://out/here"},
        "suspend": suspend,
    }
    metadata = {"name": f"job-{number}", "namespace": NAMESPACE}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}


def pod_of(made: Object) -> Object:
    """A pod with a child's labels. Gated, so that no scheduler looks at it."""
    name, uid = made["metadata"]["name"], made["metadata"]["uid"]
    labels = {f"{GROUP}/job": name, f"{GROUP}/job-uid": uid, f"{GROUP}/stage": "train", f"{GROUP}/attempt": "1"}
    spec = {"schedulingGates": [{"name": "example.com/never"}], "containers": [{"name": "trainer", "image": "none"}]}
    return {"metadata": {"name": f"{name}-train-1", "labels": labels}, "spec": spec}


def seed(kubeconfig: Path, jobs: int) -> None:
    """Makes the jobs."""
    api = config.new_client_from_config(str(kubeconfig))
    objects, core = client.CustomObjectsApi(api), client.CoreV1Api(api)
    core.create_namespace({"metadata": {"name": NAMESPACE}})

    def make(number: int) -> None:
        suspend = number < SUSPENDED
        made = objects.create_namespaced_custom_object(GROUP, VERSION, NAMESPACE, PLURAL, job(number, suspend))
        core.create_namespaced_pod(NAMESPACE, pod_of(made))
        if not suspend:
            body = {"status": finished_status()}
            objects.patch_namespaced_custom_object_status(
                GROUP, VERSION, NAMESPACE, PLURAL, made["metadata"]["name"], body
            )

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(make, range(jobs)))


def suspended(kubeconfig: Path) -> int:
    """How many jobs an operator has said are suspended."""
    objects = client.CustomObjectsApi(config.new_client_from_config(str(kubeconfig)))
    said = 0
    for number in range(SUSPENDED):
        found = objects.get_namespaced_custom_object(GROUP, VERSION, NAMESPACE, PLURAL, f"job-{number}")
        said += (found.get("status") or {}).get("state") == "Suspended"
    return said


def forget(kubeconfig: Path) -> None:
    """Takes away what an operator said of the suspended jobs."""
    objects = client.CustomObjectsApi(config.new_client_from_config(str(kubeconfig)))
    for number in range(SUSPENDED):
        objects.patch_namespaced_custom_object_status(
            GROUP, VERSION, NAMESPACE, PLURAL, f"job-{number}", {"status": None}
        )


@contextmanager
def running(kubeconfig: Path, folder: Path, source: str) -> Iterator[OperatorProcess]:
    """An operator of some sources."""
    if source:
        os.environ["PYTHONPATH"] = source
    try:
        operator = OperatorProcess.start(kubeconfig, folder)
    finally:
        os.environ.pop("PYTHONPATH", None)
    try:
        yield operator
    finally:
        operator.stop()


def cpu_seconds(operator: OperatorProcess) -> float:
    """CPU time of the process so far, proc_pid_stat(5)."""
    assert operator.process
    fields = Path(f"/proc/{operator.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def requests(operator: OperatorProcess) -> Counter[str]:
    """Requests to the API server so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{operator.health_port}/metrics") as answer:
        lines = _REQUEST.findall(answer.read().decode())
    return Counter({labels: int(float(value)) for labels, value in lines})


def measure(kubeconfig: Path, folder: Path, source: str, jobs: int, minutes: float) -> Result:
    """Starts an operator, waits until it has settled, and watches it at rest."""
    forget(kubeconfig)
    started = time.monotonic()
    with running(kubeconfig, folder, source) as operator:
        while suspended(kubeconfig) < SUSPENDED:
            time.sleep(0.5)
        settled, cpu, asked = time.monotonic() - started, cpu_seconds(operator), requests(operator)
        # What the start has left to do is no rest.
        time.sleep(60)
        resting, asked_then = cpu_seconds(operator), requests(operator)
        time.sleep(60 * minutes)
        more = requests(operator) - asked_then
        print(more.most_common(8), file=sys.stderr)
        return Result(
            source=source or "this one",
            jobs=jobs,
            settle_seconds=round(settled, 1),
            start_cpu_seconds=round(cpu, 1),
            start_requests=asked.total(),
            cpu_per_minute=round((cpu_seconds(operator) - resting) / minutes, 2),
            requests_per_minute=round(more.total() / minutes),
            rss_mib=round(operator.resident_bytes() / 2**20),
        )


def results(jobs: int, minutes: float, sources: Iterable[str]) -> Iterator[Result]:
    """Figures of one operator after the other on one cluster."""
    with tempfile.TemporaryDirectory() as name, Sandbox.up(Path(name, "state"), nodes=1, simulate=True) as sandbox:
        install(sandbox.kubeconfig, PROJECT)
        seed(sandbox.kubeconfig, jobs)
        for number, source in enumerate(sources):
            yield measure(sandbox.kubeconfig, Path(name, f"operator-{number}"), source, jobs, minutes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--minutes", type=float, default=3.0, help="how long an operator is watched at rest")
    parser.add_argument("--source", action="append", default=[], help="operator/src of another commit; measured first")
    options = parser.parse_args(arguments)
    for result in results(options.jobs, options.minutes, [*options.source, ""]):
        print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    main()
