"""Validates a FineTuneJob without a cluster, by the rules of its own CustomResourceDefinition. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from finetune_api.applicable import laid_under
from finetune_api.base import DNS_LABEL_PATTERN
from finetune_api.bounds import out_of_bounds
from finetune_api.crd import effective_job_schema, job_schema, profile_schema
from finetune_api.effective import given_by
from finetune_api.job import FineTuneJob
from finetune_api.profile import PROFILE_KIND, FineTuneProfile, FineTuneProfileSpec
from finetune_cli.cel import rule_errors
from finetune_cli.errors import InvalidManifestError
from finetune_cli.field_errors import FieldError, invalid, required
from finetune_cli.structural import schema_errors, unknown_fields, with_defaults

_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_SUBDOMAIN_MESSAGE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    f"end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)
_LABEL_MESSAGE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)


@dataclass(frozen=True)
class Validated:
    """A manifest with its defaults, and what is wrong with it."""

    manifest: dict[str, Any]
    errors: tuple[FieldError, ...]


def validate(manifest: dict[str, Any], profile: FineTuneProfileSpec | None = None) -> Validated:
    """Checks one FineTuneJob as ``kubectl create`` with strict validation and then the operator would, all errors at
    once; under a profile, with its defaults and bounds."""
    schema = effective_job_schema()
    # Of a status that is sent along with a new object, the API server knows the fields' names and drops the values.
    written = {name: child for name, child in manifest.items() if name != "status"}
    # What is null is left out, to the API server as to a profile.
    document = with_defaults(_under(profile, with_defaults(written, job_schema())), schema)
    found = [
        *unknown_fields(manifest, schema),
        *_metadata_errors(document.get("metadata")),
        *schema_errors(document, schema),
    ]
    blocked = [error.path for error in found if error.blocking]
    found += rule_errors(document, schema, blocked)
    return Validated(document, (*found, *(() if blocked else _bound_errors(document, profile))))


def _under(profile: FineTuneProfileSpec | None, manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest with what a profile gives it; as it is where it cannot be read."""
    if profile is None or any(error.blocking for error in schema_errors(manifest, job_schema())):
        return manifest
    spec = manifest["spec"]
    given = given_by(profile, spec, (manifest.get("metadata") or {}).get("namespace", "default"))
    return manifest | {"spec": laid_under(given, spec)}


def _bound_errors(document: dict[str, Any], profile: FineTuneProfileSpec | None) -> list[FieldError]:
    if profile is None:
        return []
    job = FineTuneJob.from_manifest(document)
    found = out_of_bounds(job.spec, profile, job.metadata.namespace)
    return [FieldError(item.field, str(item)) for item in found]


def read_profile(manifest: dict[str, Any], origin: str) -> FineTuneProfile:
    """The profile of a manifest.

    Raises:
        InvalidManifestError: it breaks the rules of its definition; ``origin`` says where it came from.
    """
    schema = profile_schema()
    found = [
        *unknown_fields(manifest, schema),
        *_metadata_errors(manifest.get("metadata")),
        *schema_errors(manifest, schema),
    ]
    found += rule_errors(manifest, schema, [error.path for error in found if error.blocking])
    if found:
        raise InvalidManifestError(f"{origin}: {PROFILE_KIND} is invalid:", found)
    return FineTuneProfile.model_validate(manifest)


def read_job(manifest: dict[str, Any], origin: str, profile: FineTuneProfileSpec | None = None) -> FineTuneJob:
    """The job of a manifest that passes :func:`validate`.

    Raises:
        InvalidManifestError: it does not; ``origin`` says where it came from.
    """
    validated = validate(manifest, profile)
    if validated.errors:
        raise InvalidManifestError(f"{origin}: {job_title(manifest)} is invalid:", validated.errors)
    return FineTuneJob.from_manifest(validated.manifest)


def job_title(manifest: dict[str, Any]) -> str:
    """The name that the API server's errors give a job."""
    metadata = manifest.get("metadata")
    name = metadata.get("name", "") if isinstance(metadata, dict) else ""
    return f'FineTuneJob.finetune.dev "{name}"'


def _metadata_errors(metadata: Any) -> list[FieldError]:
    """What the API server checks in the metadata of every kind of object."""
    if not isinstance(metadata, dict) or not metadata.get("name"):
        return [required("metadata.name", "name or generateName is required")]
    errors = []
    name, namespace = metadata["name"], metadata.get("namespace", "default")
    if not isinstance(name, str) or not re.fullmatch(_SUBDOMAIN, name):
        errors.append(invalid("metadata.name", name, _SUBDOMAIN_MESSAGE))
    if not isinstance(namespace, str) or not re.search(DNS_LABEL_PATTERN[:-1] + r"\Z", namespace):
        errors.append(invalid("metadata.namespace", namespace, _LABEL_MESSAGE))
    return errors
