"""Turns the pydantic models into CustomResourceDefinitions with structural schemas.

Structural schemas (https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/)
know no ``$ref``, no ``null`` type and no ``title``; pydantic writes all three.

The schemas of whole objects take a while to make and are made once: who gets one must not change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from finetune_api import GROUP, KIND, PLURAL, VERSION
from finetune_api.base import EFFECTIVE_RULES, WRITTEN_RULES, validations
from finetune_api.profile import PROFILE_KIND, PROFILE_PLURAL, FineTuneProfile, FineTuneProfileSpec
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
    *(
        (
            f"{absent}self.{path}.source != 'job://' + self.metadata.name",
            f"{path}.source names the job itself, whose result it would wait for; name another job",
        )
        for path, absent in (
            ("spec.model", ""),
            *(
                (
                    f"spec.method.{path}",
                    f"!has(self.spec.method) || !has(self.spec.method.{path.partition('.')[0]}) || "
                    f"!has(self.spec.method.{path}) || ",
                )
                for path in ("lora.initialAdapter", "dpo.referenceModel", "kto.referenceModel")
            ),
        )
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


_PROFILE_COLUMNS = (
    {"name": "Default", "type": "boolean", "jsonPath": ".spec.default"},
    {"name": "GPU", "type": "string", "jsonPath": ".spec.gpu.type"},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    {"name": "Image", "type": "string", "jsonPath": ".spec.trainerImage", "priority": 1},
)
_IDENTITY = {
    "apiVersion": {"type": "string", "description": "Version of the schema of this object."},
    "kind": {"type": "string", "description": "Kind of this object."},
    "metadata": {"type": "object"},
}
# Fields of a job's spec that no profile gives.
_EACH_JOBS_OWN = frozenset({"profileRef", "suspend", "managedBy"})
_EACH_JOBS_OWN_IN_GROUPS = (
    "model.source",
    "model.name",
    "dataset.train",
    "method.lora.initialAdapter",
    "method.dpo.referenceModel",
    "method.kto.referenceModel",
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
    rules = [rule for origin in origins for rule in origin.get(WRITTEN_RULES, ())]
    return merged | {WRITTEN_RULES: rules} if rules else merged


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
    """Groups of fields that all may be left out default to these fields' defaults."""
    nullable = any(option.get("type") == "null" for option in origin.get("anyOf", ()))
    if required or nullable or schema.get("type") != "object" or "properties" not in schema:
        return schema
    fields = schema["properties"].items()
    return schema | {"default": {name: field["default"] for name, field in fields if "default" in field}}


def schema_of(model: type[Any]) -> Schema:
    """The structural schema of a document model."""
    schema = model.model_json_schema(by_alias=True)
    return structural(schema, schema.get("$defs", {}))


def without(schema: Schema, *keys: str) -> Schema:
    """A structural schema without some of its keywords, at any depth."""
    result = {key: value for key, value in schema.items() if key not in keys}
    if "properties" in result:
        result["properties"] = {name: without(child, *keys) for name, child in result["properties"].items()}
    for inner in ("items", "additionalProperties"):
        if isinstance(result.get(inner), dict):
            result[inner] = without(result[inner], *keys)
    return result


def _telling_defaults(schema: Schema) -> Schema:
    """The schema with each default told in its field's description, which ``kubectl explain`` shows."""
    result = schema | {
        key: {name: _telling_defaults(child) for name, child in schema[key].items()}
        for key in ("properties",)
        if key in schema
    }
    if isinstance(result.get("items"), dict):
        result["items"] = _telling_defaults(result["items"])
    default = default_text(schema)
    if default and "Default:" not in schema.get("description", ""):
        result["description"] = f"{schema['description']} Default: {default}."
    return result


def default_text(schema: Schema) -> str:
    """The default of a field in words; empty where it has none, or is a group of fields."""
    default = schema.get("default")
    if default is None or isinstance(default, dict):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return ", ".join(map(str, default)) if isinstance(default, list) else str(default)


def _written(spec: Schema) -> Schema:
    """The schema of a spec as a user writes it.

    The API server fills in no defaults: what a user left out must stay apart from what was written, since a profile may
    give it, and the object stays what is in Git. For the same reason a field that the effective spec needs is not
    required where a profile may hold it.
    """
    schema = without(_telling_defaults(spec), "default", EFFECTIVE_RULES)
    output = {key: value for key, value in schema["properties"]["output"].items() if key != "required"}
    required = [name for name in schema["required"] if name != "output"]
    return schema | {"required": required, "properties": schema["properties"] | {"output": output}}


@cache
def effective_spec_schema() -> Schema:
    """The schema of an effective spec, with every default and every rule."""
    return schema_of(FineTuneJobSpec)


@cache
def job_schema() -> Schema:
    """OpenAPI v3 schema of the whole FineTuneJob, as the API server holds it against manifests."""
    return _job_schema(_written(effective_spec_schema()))


@cache
def effective_job_schema() -> Schema:
    """The same of a FineTuneJob whose spec is effective."""
    return _job_schema(effective_spec_schema())


def _job_schema(spec: Schema) -> Schema:
    # A status is written by the operator alone: defaults would only add noise to every patch, and what it repeats of a
    # spec was checked there.
    status = without(schema_of(FineTuneJobStatus), "default", WRITTEN_RULES, EFFECTIVE_RULES)
    return {
        "type": "object",
        "description": "Fine-tunes a model on a dataset and publishes a verified artifact to S3-compatible storage.",
        "required": ["spec"],
        **validations(*_JOB_RULES),
        "properties": {
            **_IDENTITY,
            "spec": spec,
            "status": status,
        },
    }


def _defaults_schema() -> Schema:
    """What a profile may give a job: the job's spec without what each job says itself, and without rules, which are
    held against the effective spec."""
    spec = without(_written(effective_spec_schema()), "required", WRITTEN_RULES)
    fields = {name: child for name, child in spec["properties"].items() if name not in _EACH_JOBS_OWN}
    return _without_fields(spec | {"properties": fields}, *_EACH_JOBS_OWN_IN_GROUPS)


def _without_fields(schema: Schema, *paths: str) -> Schema:
    """An object's schema without some fields, each given by its path."""
    properties = dict(schema["properties"])
    for path in paths:
        name, _, rest = path.partition(".")
        if rest:
            properties[name] = _without_fields(properties[name], rest)
        else:
            del properties[name]
    return schema | {"properties": properties}


@cache
def profile_schema() -> Schema:
    """OpenAPI v3 schema of the whole FineTuneProfile."""
    spec = without(_telling_defaults(schema_of(FineTuneProfileSpec)), "default")
    described = {"description": spec["properties"]["defaults"]["description"]}
    spec["properties"]["defaults"] = _defaults_schema() | described
    return {
        "type": "object",
        "description": (FineTuneProfile.__doc__ or "").strip(),
        "required": ["spec"],
        "properties": {**_IDENTITY, "spec": spec},
    }


def profile_crd() -> dict[str, Any]:
    """The CustomResourceDefinition of FineTuneProfile."""
    names = {"kind": PROFILE_KIND, "plural": PROFILE_PLURAL, "shortNames": ["ftp"], "categories": ["finetune"]}
    return _crd("Cluster", names, _PROFILE_COLUMNS, profile_schema(), {})


def job_crd() -> dict[str, Any]:
    """The CustomResourceDefinition of FineTuneJob."""
    names = {"kind": KIND, "plural": PLURAL, "shortNames": ["ftj"], "categories": ["all", "finetune"]}
    return _crd("Namespaced", names, _PRINTER_COLUMNS, job_schema(), {"subresources": {"status": {}}})


def _crd(
    scope: str, names: dict[str, Any], columns: Sequence[dict[str, Any]], schema: Schema, rest: dict[str, Any]
) -> dict[str, Any]:
    kind = names["kind"]
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        **rest,
        "additionalPrinterColumns": list(columns),
        "schema": {"openAPIV3Schema": schema},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names['plural']}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": scope,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": names["plural"],
                "singular": kind.lower(),
                "shortNames": names["shortNames"],
                "categories": names["categories"],
            },
            "versions": [version],
        },
    }
