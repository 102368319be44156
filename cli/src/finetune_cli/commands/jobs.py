"""Commands that read jobs from a cluster: list, describe, watch, logs."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from finetune_cli.cluster.target import Target
from finetune_cli.documents import Object
from finetune_cli.durations import seconds_of
from finetune_cli.errors import UsageError
from finetune_cli.options import Context, JobName, Kubeconfig, ListFormat, Namespace, Selector
from finetune_cli.output import ListOutput, Output, as_list, console, note, show, write_document

if TYPE_CHECKING:
    from rich.live import Live

    from finetune_cli.cluster.kube import Kube
    from finetune_cli.render.watching import Seen

# What only some commands need is imported in them: the Kubernetes client alone takes longer than all the rest.


class LogStage(StrEnum):
    """Stages that have pods of their own."""

    PREPARE = "prepare"
    TRAIN = "train"


def connected(target: Target) -> Kube:
    """The cluster that is meant."""
    from finetune_cli.cluster.kube import connect

    return connect(target)


def list_command(
    namespace: Namespace = None,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Jobs of all namespaces.")] = False,
    selector: Selector = "",
    output: ListFormat = ListOutput.TABLE,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List jobs: state, progress, loss, GPUs, model."""
    from finetune_cli import jobview
    from finetune_cli.cluster.calls import JOBS
    from finetune_cli.render.joblist import job_table

    kube = connected(Target(kubeconfig, context, namespace))
    jobs = kube.list(JOBS, None if all_namespaces else kube.namespace, selector)
    if output in (ListOutput.JSON, ListOutput.YAML):
        write_document(as_list(jobs), Output(output.value))
    elif output is ListOutput.NAME:
        print("".join(f"{JOBS}.finetune.dev/{jobview.name_of(job)}\n" for job in jobs), end="")
    elif jobs:
        wide = output is ListOutput.WIDE
        show(job_table(jobs, datetime.now(UTC), wide, all_namespaces), whole=wide)
    else:
        note("No FineTuneJobs found" + ("." if all_namespaces else f" in namespace {kube.namespace}."))


def describe_command(
    name: JobName, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None
) -> None:
    """Show all that is known of a job: stages, attempts, plan, failure with its remedy, artifact, Events."""
    from finetune_cli.cluster.calls import JOBS
    from finetune_cli.cluster.jobs import events_of
    from finetune_cli.render.describe import description

    kube = connected(Target(kubeconfig, context, namespace))
    job = kube.get(JOBS, kube.namespace, name)
    show(description(job, events_of(kube, job), datetime.now(UTC)))


def watch_command(
    name: JobName,
    timeout: Annotated[
        str,
        typer.Option(
            "--timeout",
            metavar="DURATION",
            help="Watch no longer than this, such as 90s, 30m or 2h30m; then exit with 5.",
        ),
    ] = "",
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Follow a job to its end: progress, loss curve, tokens/s, ETA. Plain lines where there is no terminal.

    Exits with 0 when the job is Complete, with the code of its failure class when it has failed.
    """
    limit = seconds_of(timeout, "--timeout") if timeout else math.inf
    kube = connected(Target(kubeconfig, context, namespace))
    raise typer.Exit(watch(kube, kube.namespace, name, limit))


def watch(kube: Kube, namespace: str, name: str, limit: float = math.inf) -> int:
    """Shows a job until it has ended and returns the exit code that stands for how."""
    from rich.live import Live

    from finetune_cli import jobview
    from finetune_cli.cluster.calls import JOBS
    from finetune_cli.cluster.history import logged_losses
    from finetune_cli.cluster.watching import follow
    from finetune_cli.render.watching import Seen

    def fetch() -> Object:
        return kube.get(JOBS, namespace, name)

    def complete(seen: Seen) -> Seen:
        return seen.with_losses(*logged_losses(kube, seen.job, seen.missing)) if seen.missing else seen

    job = fetch()
    out = console()
    if not out.is_terminal:
        return jobview.exit_code_of(follow(Seen({}).with_job(job), fetch, PlainLines(), limit=limit).job)
    first = Seen({}, *logged_losses(kube, job)).with_job(job)
    with Live(console=out, auto_refresh=False, vertical_overflow="crop") as live:
        return jobview.exit_code_of(follow(first, fetch, _picture(live), complete, limit=limit).job)


def _picture(live: Live) -> Callable[[Seen], None]:
    from finetune_cli.render.watching import picture

    def draw(seen: Seen) -> None:
        columns, lines = shutil.get_terminal_size()
        live.update(picture(seen, columns, lines, datetime.now(UTC)), refresh=True)

    return draw


class PlainLines:
    """Prints a line each time a job says something new."""

    def __init__(self) -> None:
        self._last = ""
        self._trouble = ""

    def __call__(self, seen: Seen) -> None:
        from finetune_cli.render.watching import line

        text = line(seen.job)
        if text != self._last:
            print(f"{datetime.now(UTC):%H:%M:%S}  {text}", flush=True)
        if seen.trouble and not self._trouble:
            note(seen.trouble)
        self._last, self._trouble = text, seen.trouble


def logs_command(
    name: JobName,
    rank: Annotated[int, typer.Option("--rank", min=0, help="Training process, over all pods.")] = 0,
    stage: Annotated[
        LogStage | None, typer.Option("--stage", help="Stage. Default: train, or prepare while there is no other.")
    ] = None,
    attempt: Annotated[int | None, typer.Option("--attempt", min=1, help="Attempt. Default: the newest.")] = None,
    previous: Annotated[
        bool, typer.Option("--previous", "-p", help="The attempt before the newest, while its pods exist.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the pod ends.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", min=0, metavar="LINES", help="Only the last lines.")] = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Print the log of one rank: finds the pod that runs it."""
    from finetune_api.outcomes import Stage
    from finetune_cli.cluster.calls import JOBS
    from finetune_cli.cluster.jobs import pods_of
    from finetune_cli.cluster.podlogs import Wanted, lines, of_rank, source_of
    from finetune_cli.jobview import attempt_of

    kube = connected(Target(kubeconfig, context, namespace))
    job = kube.get(JOBS, kube.namespace, name)
    if previous:
        attempt = before(attempt_of(job), attempt)
    source = source_of(job, pods_of(kube, job), Wanted(rank, Stage(stage.value) if stage else None, attempt))
    note(source.title)
    for text in of_rank(lines(kube.log(kube.namespace, source.pod, follow, tail)), source.rank):
        sys.stdout.buffer.write(text)
        sys.stdout.flush()


def before(newest: int, attempt: int | None) -> int:
    """The attempt before the newest.

    Raises:
        UsageError: there is none, or another one was named too.
    """
    if attempt is not None:
        raise UsageError("--previous and --attempt name different attempts; use one of them")
    if newest < 2:
        raise UsageError("--previous: there is no attempt before this one")
    return newest - 1
