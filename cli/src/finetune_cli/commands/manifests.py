"""Commands over manifest files that need no cluster: validate and plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune_cli.options import Manifest, PlanOutput
from finetune_cli.output import Output, as_list, print_error, show, write_document

if TYPE_CHECKING:
    from finetune_cli.field_errors import FieldError
    from finetune_cli.validation import Validated

# The validation's libraries take longer to load than all the rest: they are imported by the commands that use them.


def validate_command(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Manifests; - reads standard input.")],
) -> None:
    """Check manifests by the rules of the FineTuneJob's own definition, without a cluster."""
    from finetune_cli.errors import InvalidManifestError
    from finetune_cli.files import job_documents
    from finetune_cli.validation import job_title, validate

    valid = True
    for file in files:
        for manifest in job_documents(file):
            errors = validate(manifest).errors
            valid = valid and not errors
            if errors:
                _print_errors(file, manifest, errors)
            else:
                print(f"{file}: {job_title(manifest)} is valid")
    if not valid:
        raise typer.Exit(InvalidManifestError.exit_code)


def _print_errors(file: str, manifest: dict[str, Any], errors: tuple[FieldError, ...]) -> None:
    from finetune_cli.errors import InvalidManifestError
    from finetune_cli.validation import job_title

    print_error(str(InvalidManifestError(f"{file}: {job_title(manifest)} is invalid:", errors)))


def plan_command(file: Manifest, output: PlanOutput = Output.TABLE) -> None:
    """Show what a manifest comes to, without a cluster: pods, GPUs, steps, every field's value and origin.

    Exits with 10 when the manifest is invalid.
    """
    from finetune_cli.errors import InvalidManifestError, UsageError
    from finetune_cli.files import job_documents
    from finetune_cli.validation import validate

    if output not in (Output.TABLE, Output.JSON, Output.YAML):
        raise UsageError(f"--output {output.value}: a plan is shown as table, json or yaml")
    manifests = job_documents(file)
    checked = [(manifest, validate(manifest)) for manifest in manifests]
    if output is Output.TABLE:
        for manifest, validated in checked:
            _show_plan(file, manifest, validated)
    else:
        documents = [_document(manifest, validated) for manifest, validated in checked]
        write_document(documents[0] if len(documents) == 1 else as_list(documents), output)
    if any(validated.errors for _, validated in checked):
        raise typer.Exit(InvalidManifestError.exit_code)


def _show_plan(file: str, manifest: dict[str, Any], validated: Validated) -> None:
    from finetune_api.job import FineTuneJob
    from finetune_cli.effective import effective_fields
    from finetune_cli.render.plans import plan_page

    if validated.errors:
        _print_errors(file, manifest, validated.errors)
    else:
        job = FineTuneJob.from_manifest(validated.manifest)
        show(plan_page(job, effective_fields(manifest, job)))


def _document(manifest: dict[str, Any], validated: Validated) -> dict[str, Any]:
    from finetune_api.job import FineTuneJob
    from finetune_cli.effective import effective_fields, plan_document
    from finetune_cli.files import name_in

    if validated.errors:
        return {"valid": False, "name": name_in(manifest), "errors": [str(error) for error in validated.errors]}
    job = FineTuneJob.from_manifest(validated.manifest)
    return plan_document(job, effective_fields(manifest, job))
