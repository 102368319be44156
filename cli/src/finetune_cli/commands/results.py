"""Commands that read published results from the store: plot, report, artifacts, compare."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune_cli.cluster.target import Target
from finetune_cli.commands.jobs import connected
from finetune_cli.documents import Object
from finetune_cli.options import (
    ArtifactName,
    Context,
    Kubeconfig,
    Namespace,
    OtherArtifactName,
    PageOutput,
    StoreUrl,
)
from finetune_cli.output import Output, console, errors, note, show, write_document

if TYPE_CHECKING:
    from finetune_cli.render.results import Side
    from finetune_cli.store.artifact import PublishedArtifact
    from finetune_cli.store.interface import Store
    from finetune_cli.store.references import FindJob, Reference

_CHART_WIDTH = 100
artifacts = typer.Typer(no_args_is_help=True, help="List, download and verify published artifacts.")


def _finder(target: Target) -> FindJob:
    """Asks the cluster for a job when a reference names one: an s3:// folder needs no cluster."""

    def find(name: str) -> Object:
        from finetune_cli.cluster.calls import JOBS

        kube = connected(target)
        return kube.get(JOBS, kube.namespace, name)

    return find


def _referred(name: str, store: str | None, target: Target) -> Reference:
    from finetune_cli.local.planning import parse_store_url
    from finetune_cli.store.references import resolve

    return resolve(name, parse_store_url(store) if store else None, _finder(target))


def _opened(reference: Reference) -> tuple[Store, PublishedArtifact]:
    from finetune_cli.store.references import opened

    return opened(reference)


def _record(store: Store, artifact: PublishedArtifact, name: str) -> bytes:
    """A record that the artifact's manifest lists."""
    from finetune_cli.errors import StoreError

    if not artifact.has(name):
        raise StoreError(f"{artifact.location} has no {name}")
    return store.read(artifact.location.child(name))


def plot_command(
    name: ArtifactName,
    metric: Annotated[
        str, typer.Option("--metric", metavar="NAME", help="What to draw, such as loss, learningRate or gradNorm.")
    ] = "loss",
    output: PageOutput = Output.TABLE,
    store: StoreUrl = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Draw a curve of a published run in the terminal, from metrics.jsonl in the store."""
    from finetune_cli.errors import UsageError
    from finetune_cli.render.results import curve_page
    from finetune_cli.store.artifact import METRICS
    from finetune_cli.store.metrics import parse_metrics

    reference = _referred(name, store, Target(kubeconfig, context, namespace))
    metrics = parse_metrics(_record(*_opened(reference), METRICS))
    if metric not in metrics.names:
        raise UsageError(f"--metric {metric}: the run has {', '.join(metrics.names) or 'no measurements'}")
    steps, evaluations = metrics.steps.get(metric, ()), metrics.evaluations.get(metric, ())
    if output in (Output.JSON, Output.YAML):
        write_document({"metric": metric, "steps": _pairs(steps), "evaluations": _pairs(evaluations)}, output)
    else:
        show(curve_page(reference.title, metric, steps, evaluations, _width()))


def _pairs(points: tuple[tuple[float, float], ...]) -> list[dict[str, float]]:
    return [{"step": int(step), "value": value} for step, value in points]


def _width() -> int:
    out = console()
    return min(out.width, _CHART_WIDTH) if out.is_terminal else _CHART_WIDTH


def report_command(
    name: ArtifactName,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Where to write it. Default: report.html here.")
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    store: StoreUrl = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Fetch the report of a published run (report.html: curves, configuration, evaluation)."""
    from finetune_cli.store.artifact import REPORT

    reference = _referred(name, store, Target(kubeconfig, context, namespace))
    target = file or Path(REPORT)
    _write(target, _record(*_opened(reference), REPORT))
    print(target)
    if open_it:
        webbrowser.open(target.resolve().as_uri())


def _write(target: Path, content: bytes) -> None:
    from finetune_cli.errors import UsageError

    try:
        target.write_bytes(content)
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}") from error


@artifacts.command("list")
def list_files_command(
    name: ArtifactName,
    output: PageOutput = Output.TABLE,
    store: StoreUrl = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List the files of an artifact, with sizes and SHA-256."""
    from finetune_cli.render.results import FileLine, file_table

    _, artifact = _opened(_referred(name, store, Target(kubeconfig, context, namespace)))
    if output in (Output.JSON, Output.YAML):
        write_document({"uri": str(artifact.location), "manifestDigest": artifact.digest, **artifact.manifest}, output)
        return
    note(str(artifact.location))
    show(file_table([FileLine(file.name, file.size, file.role, file.sha256) for file in artifact.files]))


@artifacts.command("download")
def download_command(
    name: ArtifactName,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Folder for the files. Default: named as the job or run."
        ),
    ] = None,
    store: StoreUrl = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Download an artifact and check every file. Started again, it goes on where it broke off."""
    from finetune_cli.render.words import size
    from finetune_cli.store.references import is_job_name
    from finetune_cli.store.transfer import download

    reference = _referred(name, store, Target(kubeconfig, context, namespace))
    opened, artifact = _opened(reference)
    target = folder or Path(name if is_job_name(name) else artifact.location.key.rpartition("/")[2])
    with _bar("downloading", artifact.total_bytes) as moved:
        fetched = download(opened, artifact, target, moved)
    there = artifact.total_bytes - fetched
    known = f", {size(there)} of it from before" if there else ""
    note(f"{len(artifact.files)} files, {size(artifact.total_bytes)}{known}; every SHA-256 is that of the manifest")
    print(target)


@artifacts.command("verify")
def verify_command(
    name: ArtifactName,
    store: StoreUrl = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Read every file of an artifact again and check its SHA-256. Exits with 19 when one is not as published."""
    from finetune_cli.errors import DamagedArtifactError
    from finetune_cli.render.words import size
    from finetune_cli.store.transfer import verify

    reference = _referred(name, store, Target(kubeconfig, context, namespace))
    opened, artifact = _opened(reference)
    with _bar("verifying", artifact.total_bytes) as moved:
        faults = verify(opened, artifact, moved)
    if reference.digest and artifact.digest != reference.digest:
        faults["manifest.json"] = "is not the one that the job's status names"
    if faults:
        told = "\n".join(f"* {file} {fault}" for file, fault in faults.items())
        raise DamagedArtifactError(f"{reference.place(artifact)} is not intact:\n{told}")
    print(f"{reference.place(artifact)} is intact: {len(artifact.files)} files, {size(artifact.total_bytes)}")


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar over bytes, on standard error where that is a terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn(what), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    out = errors()
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


def compare_command(
    first: ArtifactName,
    second: OtherArtifactName,
    store: StoreUrl = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Compare two results: what was asked for differently, evaluation and loss side by side."""
    from finetune_cli.render.results import comparison

    target = Target(kubeconfig, context, namespace)
    left, right = _sides(first, second, store, target)
    show(comparison(left, right, _width()))


def _sides(first: str, second: str, store: str | None, target: Target) -> tuple[Side, Side]:
    """Both sides in the same terms: specs of two jobs, or definitions of two artifacts where one has no job."""
    from finetune_cli.comparing import side_of_artifact, side_of_job
    from finetune_cli.store.references import is_job_name

    if is_job_name(first) and is_job_name(second):
        find = _finder(target)
        jobs = [find(first), find(second)]
        left, right = (side_of_job(job, _losses_of_job(job, store)) for job in jobs)
        return left, right
    sides = []
    for name in (first, second):
        opened, artifact = _opened(_referred(name, store, target))
        sides.append(side_of_artifact(name.rpartition("/")[2] or name, artifact, _losses(opened, artifact)))
    return sides[0], sides[1]


def _losses(store: Store, artifact: PublishedArtifact) -> tuple[tuple[float, float], ...]:
    from finetune_cli.store.artifact import METRICS
    from finetune_cli.store.metrics import parse_metrics

    return parse_metrics(_record(store, artifact, METRICS)).steps.get("loss", ())


def _losses_of_job(job: Object, store: str | None) -> tuple[tuple[float, float], ...]:
    """The loss curve of a job's artifact. A comparison goes without it where the store cannot be read."""
    from finetune_cli.errors import CliError
    from finetune_cli.store.references import resolve

    try:
        return _losses(*_opened(resolve(job["metadata"]["name"], store, lambda _: job)))
    except CliError as error:
        note(f"without the loss curve of {job['metadata']['name']}: {error}")
        return ()
