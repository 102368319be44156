"""Commands that change jobs on a cluster: submit, suspend, resume, cancel."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from finetune_cli.cluster.target import Target
from finetune_cli.commands.jobs import connected, watch
from finetune_cli.errors import UsageError
from finetune_cli.options import Context, JobName, Kubeconfig, Manifest, Namespace
from finetune_cli.output import note


def submit_command(
    file: Manifest,
    namespace: Namespace = None,
    watched: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow the job to its end, and exit as watch does.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Let the API server check the manifest and change nothing.")
    ] = False,
    force_conflicts: Annotated[
        bool, typer.Option("--force-conflicts", help="Take over fields that another manager, such as Argo CD, owns.")
    ] = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Create the jobs of a manifest, or change what may be changed of them (server-side apply)."""
    from finetune_cli.cluster.submission import submitted
    from finetune_cli.files import in_namespace, job_documents

    if watched and dry_run:
        raise UsageError("--watch and --dry-run: a dry run makes no job that could be watched; use one of them")
    manifests = [in_namespace(manifest, namespace) for manifest in job_documents(file)]
    if watched and len(manifests) != 1:
        raise UsageError(f"--watch follows one job; {file} has {len(manifests)}")
    kube = connected(Target(kubeconfig, context, namespace))
    for manifest in manifests:
        job, change = submitted(kube, manifest, force_conflicts, dry_run)
        print(f"finetunejob.finetune.dev/{job['metadata']['name']} {change.value}" + (" (dry run)" if dry_run else ""))
    if watched:
        raise typer.Exit(watch(kube, job["metadata"]["namespace"], job["metadata"]["name"]))


def suspend_command(
    name: JobName, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None
) -> None:
    """End a job's pods and free their resources, until it is resumed."""
    from finetune_cli.cluster.submission import set_suspended

    print(set_suspended(connected(Target(kubeconfig, context, namespace)), name, True))


def resume_command(
    name: JobName, namespace: Namespace = None, context: Context = None, kubeconfig: Kubeconfig = None
) -> None:
    """Start a suspended job again."""
    from finetune_cli.cluster.submission import set_suspended

    print(set_suspended(connected(Target(kubeconfig, context, namespace)), name, False))


def cancel_command(
    name: JobName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Delete a job and its pods, after asking. What it published stays in the store."""
    from finetune_cli.cluster.calls import JOBS
    from finetune_cli.cluster.submission import kept_after_cancel

    kube = connected(Target(kubeconfig, context, namespace))
    job = kube.get(JOBS, kube.namespace, name)
    note(kept_after_cancel(job))
    if not yes:
        _confirm(name)
    kube.delete(JOBS, kube.namespace, name, job["metadata"]["uid"])
    print(f"finetunejob.finetune.dev/{name} deleted")


def _confirm(name: str) -> None:
    """Asks at the terminal; anything but yes ends the command with exit code 1."""
    if not sys.stdin.isatty():
        raise UsageError(f"nobody is here to confirm; to cancel {name} without being asked use --yes")
    typer.confirm(f"Cancel {name}?", abort=True)
