"""Commands over manifest files that need no cluster: validate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune_cli.output import print_error

if TYPE_CHECKING:
    from finetune_cli.field_errors import FieldError


def validate_command(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Manifests; - reads standard input.")],
) -> None:
    """Check manifests by the rules of the FineTuneJob's own definition, without a cluster."""
    from finetune_cli.errors import InvalidManifestError
    from finetune_cli.files import job_documents
    from finetune_cli.validation import validate

    valid = True
    for file in files:
        for manifest in job_documents(file):
            errors = validate(manifest).errors
            valid = valid and not errors
            _print_verdict(file, manifest, errors)
    if not valid:
        raise typer.Exit(InvalidManifestError.exit_code)


def _print_verdict(file: str, manifest: dict[str, Any], errors: tuple[FieldError, ...]) -> None:
    from finetune_cli.errors import InvalidManifestError
    from finetune_cli.validation import job_title

    if errors:
        print_error(str(InvalidManifestError(f"{file}: {job_title(manifest)} is invalid:", errors)))
    else:
        print(f"{file}: {job_title(manifest)} is valid")
