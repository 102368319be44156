"""Options that several commands share, and what a shell offers for them."""

from __future__ import annotations

from typing import Annotated

import typer

from finetune_cli.cluster.target import Target
from finetune_cli.errors import UsageError
from finetune_cli.output import ListOutput, Output


def _target(context: typer.Context) -> Target:
    """The target as far as the command line that is being completed says it."""
    said = context.params
    return Target(said.get("kubeconfig"), said.get("context"), said.get("namespace"))


def complete_job(context: typer.Context, incomplete: str) -> list[str]:
    """Names of jobs that begin like this; none when the cluster cannot be asked."""
    # Imported here, as in every command: the client takes longer than all the rest, and only some need it.
    from finetune_cli.cluster.calls import JOBS
    from finetune_cli.cluster.kube import connect
    from finetune_cli.errors import CliError

    try:
        kube = connect(_target(context))
        jobs = kube.list(JOBS, kube.namespace)
    except CliError:
        return []
    return [name for job in jobs if (name := job["metadata"]["name"]).startswith(incomplete)]


def complete_context(context: typer.Context, incomplete: str) -> list[str]:
    """Contexts of the kubeconfig that begin like this."""
    from finetune_cli.cluster.kube import context_names

    try:
        names = context_names(_target(context))
    except Exception:  # A shell that completes must not show an error, whatever is wrong with the file.
        return []
    return [name for name in names if name.startswith(incomplete)]


def _not_empty(value: str | None) -> str | None:
    """A name as it was given.

    Raises:
        UsageError: it is empty, as a variable of a script that was never set. To the API server it means all jobs.
    """
    if value is not None and not value.strip():
        raise UsageError("the name of the job is empty; kubectl finetune list shows the names")
    return value


Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", metavar="NAME", help="Namespace. Default: that of the context, else default."),
]
Context = Annotated[
    str | None,
    typer.Option("--context", metavar="NAME", help="Context of the kubeconfig.", autocompletion=complete_context),
]
Kubeconfig = Annotated[
    str | None,
    typer.Option(
        "--kubeconfig", metavar="FILE", help="Kubeconfig. Default: the files in KUBECONFIG, else ~/.kube/config."
    ),
]
JobName = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Name of the FineTuneJob.", autocompletion=complete_job, callback=_not_empty),
]
ProfileFile = Annotated[
    str | None, typer.Option("--profile", metavar="FILE", help="The FineTuneProfile that the job runs under.")
]
ManifestNamespace = Annotated[
    str | None, typer.Option("--namespace", "-n", metavar="NAME", help="Namespace, where the manifest names none.")
]
PageOutput = Annotated[Output, typer.Option("--output", "-o", help="Form of the output.")]
_RESULT = "Name of a FineTuneJob, s3:// folder of a run or a job, or a folder that was downloaded."
ArtifactName = Annotated[
    str, typer.Argument(metavar="JOB|URI", help=_RESULT, autocompletion=complete_job, callback=_not_empty)
]
OtherArtifactName = Annotated[
    str, typer.Argument(metavar="JOB|URI", help=_RESULT, autocompletion=complete_job, callback=_not_empty)
]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="S3 endpoint, or file:///folder, in place of the job's. Credentials are those of the environment.",
    ),
]
ListFormat = Annotated[ListOutput, typer.Option("--output", "-o", help="Form of the output.")]
Selector = Annotated[
    str, typer.Option("--selector", "-l", metavar="LABELS", help="Only jobs with these labels, such as team=a.")
]
Manifest = Annotated[str, typer.Argument(metavar="FILE", help="Manifest in YAML or JSON; - reads standard input.")]
