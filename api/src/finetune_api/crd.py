"""Turns the pydantic models into CustomResourceDefinitions with structural schemas.

Structural schemas (https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/)
know no ``$ref``, no ``null`` type and no ``title``; pydantic writes all three.
"""

from __future__ import annotations

from typing import Any

from finetune_api import GROUP, KIND, PLURAL, VERSION
from finetune_api.base import validations
from finetune_api.spec import MAX_NAME_LENGTH, FineTuneJobSpec
from finetune_api.status import FineTuneJobStatus

Schema = dict[str, Any]

# additionalProperties: false is no part of a structural schema: the API server prunes unknown fields, or refuses them
# under the strict field validation that kubectl asks for. `const` is written as an enum of one.
_DROPPED = frozenset({"title", "$defs", "additionalProperties"})

_JOB_RULES = (
    (
        f"self.metadata.name.size() <= {MAX_NAME_LENGTH}",
        f"metadata.name must be at most {MAX_NAME_LENGTH} characters, since names of pods are made from it",
    ),
    (
        "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must be a DNS label: lower-case letters, digits and '-', starting with a letter",
    ),
    (
        "self.spec.model.source != 'job://' + self.metadata.name",
        "spec.model.source names the job itself, whose result it would wait for; name another job",
    ),
)

_PRINTER_COLUMNS = (
    {"name": "State", "type": "string", "jsonPath": ".status.state"},
    {
        "name": "Progress",
        "type": "string",
        "jsonPath": ".status.progress.percent",
        "description": "Steps done, in percent.",
    },
    {"name": "ETA", "type": "string", "jsonPath": ".status.progress.eta"},
    {"name": "Loss", "type": "string", "jsonPath": ".status.progress.loss"},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    {"name": "Run", "type": "string", "jsonPath": ".status.runID", "priority": 1},
    {"name": "Artifact", "type": "string", "jsonPath": ".status.artifact.uri", "priority": 1},
)


def structural(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """One pydantic JSON schema as a structural schema: references inlined, nullable unions collapsed."""
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        merged = target | {key: value for key, value in schema.items() if key != "$ref"}
        return structural(_with_all_validations(merged, target, schema), definitions)
    options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    if len(options) == 1 and "x-kubernetes-int-or-string" not in schema:
        rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
        return structural(options[0] | rest, definitions)
    return _normalized(schema, definitions)


def _with_all_validations(merged: Schema, *origins: Schema) -> Schema:
    rules = [rule for origin in origins for rule in origin.get("x-kubernetes-validations", ())]
    return merged | {"x-kubernetes-validations": rules} if rules else merged


def _normalized(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    result = {key: value for key, value in schema.items() if key not in _DROPPED}
    if "const" in result:
        result["enum"] = [result.pop("const")]
    if "properties" in schema:
        required = schema.get("required", ())
        result["properties"] = {
            name: _with_object_default(structural(child, definitions), name in required, child)
            for name, child in schema["properties"].items()
        }
    if isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = structural(schema["additionalProperties"], definitions)
    if "items" in schema:
        result["items"] = structural(schema["items"], definitions)
    return result


def _with_object_default(schema: Schema, required: bool, origin: Schema) -> Schema:
    """Groups of fields that all may be left out default to these fields' defaults.

    The API server would fill them into ``{}`` as well, but checks the rules of a default before it does.
    """
    nullable = any(option.get("type") == "null" for option in origin.get("anyOf", ()))
    if required or nullable or schema.get("type") != "object" or "properties" not in schema:
        return schema
    fields = schema["properties"].items()
    return schema | {"default": {name: field["default"] for name, field in fields if "default" in field}}


def schema_of(model: type[Any]) -> Schema:
    """The structural schema of a document model."""
    schema = model.model_json_schema(by_alias=True)
    return structural(schema, schema.get("$defs", {}))


def _without_defaults(schema: Schema) -> Schema:
    """A status is written by the operator alone: defaults would only add noise to every patch, and what it repeats of
    a spec was checked there."""
    result = {key: value for key, value in schema.items() if key not in ("default", "x-kubernetes-validations")}
    if "properties" in result:
        result["properties"] = {name: _without_defaults(child) for name, child in result["properties"].items()}
    if isinstance(result.get("items"), dict):
        result["items"] = _without_defaults(result["items"])
    return result


def job_schema() -> Schema:
    """OpenAPI v3 schema of the whole FineTuneJob."""
    return {
        "type": "object",
        "description": "Fine-tunes a model on a dataset and publishes a verified artifact to S3-compatible storage.",
        "required": ["spec"],
        **validations(*_JOB_RULES),
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of the schema of this object."},
            "kind": {"type": "string", "description": "Kind of this object."},
            "metadata": {"type": "object"},
            "spec": schema_of(FineTuneJobSpec),
            "status": _without_defaults(schema_of(FineTuneJobStatus)),
        },
    }


def job_crd() -> dict[str, Any]:
    """The CustomResourceDefinition of FineTuneJob."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["ftj"],
                "categories": ["all", "finetune"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": list(_PRINTER_COLUMNS),
                    "schema": {"openAPIV3Schema": job_schema()},
                }
            ],
        },
    }
