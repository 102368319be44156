"""The command line: ``finetune``, also found by kubectl as ``kubectl finetune``."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from finetune_api.job import FineTuneJob
from finetune_cli.errors import CliError, InvalidManifestError, UnsupportedHereError, UsageError
from finetune_cli.field_errors import FieldError
from finetune_cli.local.display import StatusLines
from finetune_cli.local.planning import HUB_TOKEN_VARIABLE, Places, parse_claims, parse_store_url, secret_names
from finetune_cli.local.run import LocalRun, Machine
from finetune_cli.local.status import resource
from finetune_cli.local.upstream import local_upstream
from finetune_cli.manifests import as_yaml, load_documents, select_jobs
from finetune_cli.validation import job_title, read_job, validate

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Checks FineTuneJobs and runs them on this machine, without a cluster.",
    epilog="Exit codes: 0 valid or Complete; 2 wrong usage; 10 the manifest or the request is wrong; 11 data; 12 out "
    "of memory; 13 diverged; 14 storage; 15 rendezvous; 16 hung; 17 preempted; 18 GPUs missing; 19 artifact not "
    "intact; 20 internal; 130 and 143 stopped by SIGINT and SIGTERM.",
)
_Manifest = Annotated[str, typer.Argument(metavar="FILE", help="Manifest in YAML or JSON; - reads standard input.")]


@app.command("validate")
def validate_command(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Manifests; - reads standard input.")],
) -> None:
    """Check manifests by the rules of the FineTuneJob's own definition, without a cluster."""
    console, valid = Console(stderr=True), True
    for file in files:
        for manifest in _job_documents(file, console):
            errors = validate(manifest).errors
            valid = valid and not errors
            _print_verdict(console, file, manifest, errors)
    if not valid:
        raise typer.Exit(InvalidManifestError.exit_code)


def _print_verdict(console: Console, file: str, manifest: dict[str, Any], errors: tuple[FieldError, ...]) -> None:
    if errors:
        _print_error(console, str(InvalidManifestError(f"{file}: {job_title(manifest)} is invalid:", errors)))
    else:
        print(f"{file}: {job_title(manifest)} is valid")


@app.command("run")
def run_command(
    file: _Manifest,
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
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace, where the manifest names none.")
    ] = None,
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
        str | None,
        typer.Option(
            metavar="FILE",
            help="For a job:// model: the finished job, as --status-file or kubectl wrote it.",
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
    if not local:
        raise UsageError("only --local runs are served; to run on a cluster use kubectl apply -f FILE")
    console = Console(stderr=True)
    job = _one_job(file, name, namespace, console)
    places = Places(
        store_url=parse_store_url(store) if store else None,
        claims=parse_claims(pvc or []),
        hub_token=HUB_TOKEN_VARIABLE in os.environ,
        upstream=local_upstream(job, _upstream_resource(upstream, console), upstream or ""),
    )
    _check_trainer()
    _print_notes(console, job)
    with ExitStack() as stack:
        folder = workdir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="finetune-")))
        folder.mkdir(parents=True, exist_ok=True)
        machine = Machine(folder.resolve(), os.environ, cpu_in_place_of_gpus)
        run = LocalRun(job, places, machine, StatusLines(console))
        code = _execute(run, console, status_file)
    raise typer.Exit(code)


def _execute(run: LocalRun, console: Console, status_file: Path | None) -> int:
    complete = False
    try:
        code = run.execute()
        complete = code == 0
        return code
    finally:
        if not complete and run.logs:
            console.print(run.logs, markup=False, highlight=False, soft_wrap=True)
        _print_result(run, status_file)


def _print_result(run: LocalRun, status_file: Path | None) -> None:
    if run.status.conditions:
        text = as_yaml(resource(run.job, run.status))
        sys.stdout.write(text)
        if status_file:
            status_file.write_text(text)


def _print_notes(console: Console, job: FineTuneJob) -> None:
    names = secret_names(job.spec)
    if names:
        text = f"Secrets ({', '.join(names)}) cannot be read without a cluster: credentials come from the environment."
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _check_trainer() -> None:
    for package in ("finetune_trainer", "torch"):
        if importlib.util.find_spec(package) is None:
            raise UnsupportedHereError(
                f"the trainer is not installed ({package} is missing): pip install 'finetune-operator[trainer]'"
            )


def _one_job(file: str, name: str | None, namespace: str | None, console: Console) -> FineTuneJob:
    manifests = _job_documents(file, console)
    named = [manifest for manifest in manifests if name is None or _name(manifest) == name]
    if len(named) != 1:
        names = ", ".join(_name(manifest) for manifest in manifests)
        raise UsageError(f"{file} has {len(named)} matching FineTuneJobs (it holds: {names}); choose one with --name")
    job = read_job(named[0], file)
    declared = named[0]["metadata"].get("namespace")
    if namespace and declared and namespace != declared:
        raise UsageError(f"--namespace {namespace}: the manifest says {declared}")
    if not namespace:
        return job
    return job.model_copy(update={"metadata": job.metadata.model_copy(update={"namespace": namespace})})


def _upstream_resource(file: str | None, console: Console) -> dict[str, Any] | None:
    if file is None:
        return None
    found = _job_documents(file, console)
    if len(found) != 1:
        raise UsageError(f"--upstream {file} has {len(found)} FineTuneJobs; it must hold one")
    return found[0]


def _name(manifest: dict[str, Any]) -> str:
    metadata = manifest.get("metadata")
    return str(metadata.get("name", "")) if isinstance(metadata, dict) else ""


def _job_documents(file: str, console: Console) -> tuple[dict[str, Any], ...]:
    try:
        found = select_jobs(load_documents(_read(file)))
    except (UsageError, InvalidManifestError) as error:
        error.args = (f"{file}: {error}",)
        raise
    for note in found.notes:
        console.print(f"{file}: {note}", markup=False, highlight=False, soft_wrap=True)
    return found.jobs


def _read(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"cannot be read: {reason}") from error


def _print_error(console: Console, text: str) -> None:
    console.print(f"error: {text}", style="red", markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """Entry point: errors of the user are printed without a traceback and end the process with their exit code."""
    try:
        app()
    except CliError as error:
        _print_error(Console(stderr=True), str(error))
        sys.exit(error.exit_code)
