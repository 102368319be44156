"""Validates a FineTuneJob without a cluster, by the rules of its own CustomResourceDefinition. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from finetune_api.base import DNS_LABEL_PATTERN
from finetune_api.crd import effective_job_schema
from finetune_api.job import FineTuneJob
from finetune_cli.cel import rule_errors
from finetune_cli.errors import InvalidManifestError
from finetune_cli.field_errors import FieldError, invalid, required
from finetune_cli.structural import Schema, schema_errors, unknown_fields, with_defaults

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


@cache
def _job_schema() -> Schema:
    return effective_job_schema()


def validate(manifest: dict[str, Any]) -> Validated:
    """Checks one FineTuneJob as ``kubectl create`` with strict validation and then the operator would, all errors at
    once."""
    schema = _job_schema()
    # Of a status that is sent along with a new object, the API server knows the fields' names and drops the values.
    document = with_defaults({name: child for name, child in manifest.items() if name != "status"}, schema)
    found = [
        *unknown_fields(manifest, schema),
        *_metadata_errors(document.get("metadata")),
        *schema_errors(document, schema),
    ]
    blocked = [error.path for error in found if error.blocking]
    return Validated(document, (*found, *rule_errors(document, schema, blocked)))


def read_job(manifest: dict[str, Any], origin: str) -> FineTuneJob:
    """The job of a manifest that passes :func:`validate`.

    Raises:
        InvalidManifestError: it does not; ``origin`` says where it came from.
    """
    validated = validate(manifest)
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
