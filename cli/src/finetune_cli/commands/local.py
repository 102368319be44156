"""The command that needs no cluster at all: run --local."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finetune_cli.errors import UsageError
from finetune_cli.options import Manifest, ManifestNamespace, ProfileFile


def run_command(
    file: Manifest,
    local: Annotated[bool, typer.Option("--local", help="Run on this machine, as processes.")] = False,
    store: Annotated[
        str | None,
        typer.Option(metavar="URL", help="S3 endpoint, or file:///folder, in place of every endpoint of the manifest."),
    ] = None,
    pvc: Annotated[
        list[str] | None,
        typer.Option(metavar="CLAIM=FOLDER", help="Folder in place of a PersistentVolumeClaim. Repeatable."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Which job, when the file has several.")] = None,
    namespace: ManifestNamespace = None,
    profile: ProfileFile = None,
    workdir: Annotated[
        Path | None,
        typer.Option(
            help="Folder to keep plans, logs and workspaces in. Default: a temporary one, removed at the end."
        ),
    ] = None,
    status_file: Annotated[
        Path | None, typer.Option(help="Also write the final resource, with its status, to this file as YAML.")
    ] = None,
    upstream: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="For a job:// source: the finished job, as --status-file or kubectl wrote it. Repeatable.",
        ),
    ] = None,
    cpu_in_place_of_gpus: Annotated[
        bool, typer.Option("--cpu-in-place-of-gpus", help="Compute on the CPU what the manifest asks GPUs for.")
    ] = False,
) -> None:
    """Take a job through its stages on this machine: validate, prepare, train, evaluate, publish, verify.

    Credentials come from the environment (AWS_ACCESS_KEY_ID and so on, HF_TOKEN), since Secrets need a cluster.

    Progress goes to standard error, the final resource as YAML to standard output. The exit code is 0 only when the job
    is Complete.
    """
    from finetune_api.weights import MODEL
    from finetune_cli.files import one_document, profile_of
    from finetune_cli.local.command import first_plan, places_of, run_locally
    from finetune_cli.validation import read_job

    if not local:
        raise UsageError("only --local runs are served; to run on a cluster use finetune submit FILE")
    manifest = one_document(file, name, namespace)
    under = profile_of(profile, manifest)
    job = read_job(manifest, file, under.spec if under else None)
    places = places_of(job, store, pvc or [], upstream or [])
    plan = first_plan(manifest, job, under, places.upstreams.get(MODEL))
    raise typer.Exit(run_locally(job, plan, places, workdir, status_file, cpu_in_place_of_gpus))
