"""Commands over manifest files that need no cluster: validate and plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from finetune_cli.options import Manifest, ManifestNamespace, PageOutput, ProfileFile
from finetune_cli.output import Output, as_list, print_error, show, write_document

if TYPE_CHECKING:
    from finetune_api.effective import Effective
    from finetune_api.job import FineTuneJob
    from finetune_api.profile import FineTuneProfile
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


def plan_command(
    file: Manifest,
    profile: ProfileFile = None,
    namespace: ManifestNamespace = None,
    output: PageOutput = Output.TABLE,
) -> None:
    """Show what a manifest comes to, without a cluster: pods, GPUs, steps, every field's value and origin.

    Exits with 10 when the manifest is invalid, or out of the profile's bounds.
    """
    from finetune_cli.errors import InvalidManifestError
    from finetune_cli.files import in_namespace, job_documents, profile_of
    from finetune_cli.validation import validate

    planned = []
    for manifest in (in_namespace(document, namespace) for document in job_documents(file)):
        under = profile_of(profile, manifest)
        planned.append(Planned(manifest, validate(manifest, under.spec if under else None), under))
    if output is Output.TABLE:
        for item in planned:
            _show_plan(file, item)
    else:
        documents = [_document(item) for item in planned]
        write_document(documents[0] if len(documents) == 1 else as_list(documents), output)
    if any(item.checked.errors for item in planned):
        raise typer.Exit(InvalidManifestError.exit_code)


class Planned(NamedTuple):
    """A manifest as it was written, with what is wrong with it and what it runs under."""

    manifest: dict[str, Any]
    checked: Validated
    profile: FineTuneProfile | None

    def effective(self) -> tuple[FineTuneJob, tuple[Effective, ...]]:
        """The job, which is valid, with every field and its origin."""
        from finetune_api.job import FineTuneJob
        from finetune_cli.effective import effective_fields

        job = FineTuneJob.from_manifest(self.checked.manifest)
        return job, effective_fields(self.manifest, job, self.profile.spec if self.profile else None)


def _show_plan(file: str, item: Planned) -> None:
    from finetune_cli.render.plans import plan_page

    if item.checked.errors:
        _print_errors(file, item.manifest, item.checked.errors)
    else:
        show(plan_page(*item.effective(), item.profile.metadata.name if item.profile else ""))


def _document(item: Planned) -> dict[str, Any]:
    from finetune_cli.effective import plan_document
    from finetune_cli.files import name_in

    errors = [str(error) for error in item.checked.errors]
    return (
        {"valid": False, "name": name_in(item.manifest), "errors": errors}
        if errors
        else plan_document(*item.effective())
    )
