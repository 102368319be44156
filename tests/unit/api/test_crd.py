"""The generated CRD: rules of structural schemas, bounds, descriptions, and that the committed files are current."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
import yaml
from pydantic import Field

from finetune_api.base import EFFECTIVE_RULES, WRITTEN_RULES, Document, Quantity, validations
from finetune_api.crd import (
    Schema,
    default_text,
    effective_spec_schema,
    job_crd,
    job_schema,
    profile_crd,
    profile_schema,
    schema_of,
)
from finetune_api.spec import FineTuneJobSpec
from support.clusters import PROJECT

# The API server owns these; they are not described by us.
_FOREIGN = ("/metadata", "/apiVersion", "/kind")


def _walk(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from _walk(child, f"{path}/{name}")
    for part in ("items", "additionalProperties"):
        if isinstance(schema.get(part), dict):
            yield from _walk(schema[part], f"{path}/{part}")


NODES = list(_walk(job_schema()))
PROFILE_NODES = [(f"/profile{path}", node) for path, node in _walk(profile_schema())]
_AS_IT_IS = "x-kubernetes-preserve-unknown-fields"
OURS = [
    (path, node)
    for path, node in (*NODES, *PROFILE_NODES)
    if path.removeprefix("/profile") not in _FOREIGN and _AS_IT_IS not in node
]


def _breaking(condition: Any) -> list[str]:
    return [path for path, node in OURS if condition(node)]


def test_the_schema_was_walked() -> None:
    paths = {path for path, _ in NODES}
    assert {"/spec/dataset/train/items/s3/credentialsSecretRef/name", "/status/conditions/items/type"} <= paths


def test_no_key_that_structural_schemas_do_not_know() -> None:
    foreign = {"$ref", "$defs", "title", "const", "prefixItems", "definitions", "oneOf", "nullable", "examples"}
    assert _breaking(lambda node: foreign & set(node)) == []


def test_no_null_and_no_union_but_int_or_string() -> None:
    assert _breaking(lambda node: "anyOf" in node and "x-kubernetes-int-or-string" not in node) == []
    assert _breaking(lambda node: node.get("type") == "null") == []


def test_every_node_has_exactly_one_type() -> None:
    kinds = {"string", "integer", "boolean", "object", "array"}
    assert _breaking(lambda node: node.get("type") not in kinds and "x-kubernetes-int-or-string" not in node) == []


def test_no_floats() -> None:
    assert _breaking(lambda node: node.get("type") == "number") == []
    assert [path for path, node in NODES if isinstance(node.get("default"), float)] == []


def test_every_field_has_a_description() -> None:
    inner = ("/items", "/additionalProperties")
    missing = [path for path, node in OURS if not node.get("description") and not path.endswith(inner)]
    assert missing == []


def test_descriptions_are_sentences() -> None:
    assert (
        _breaking(lambda node: node.get("description") and not re.search(r"[.!]$", node["description"].strip())) == []
    )


def test_every_string_is_bounded() -> None:
    def unbounded(node: Schema) -> bool:
        return node.get("type") == "string" and not {"maxLength", "enum", "format"} & set(node)

    # A pattern without a repetition bounds its length too.
    def open_ended(node: Schema) -> bool:
        return unbounded(node) and not re.fullmatch(r"\^[^*+]*\$", node.get("pattern", "*"))

    assert _breaking(open_ended) == []


def test_every_quantity_is_bounded_as_the_model_bounds_it() -> None:
    quantities = [node for _, node in OURS if "x-kubernetes-int-or-string" in node]
    assert quantities
    assert all(node.get("maxLength") == 32 and node.get("minimum") == 0 for node in quantities)


def test_every_list_and_map_is_bounded() -> None:
    assert _breaking(lambda node: node.get("type") == "array" and "maxItems" not in node) == []
    assert _breaking(lambda node: "additionalProperties" in node and "maxProperties" not in node) == []


def test_every_integer_of_the_spec_is_bounded() -> None:
    spec = [(path, node) for path, node in OURS if path.startswith("/spec") and node.get("type") == "integer"]
    assert [path for path, node in spec if not {"minimum", "maximum"} <= set(node)] == []


def test_every_list_says_how_it_merges() -> None:
    assert _breaking(lambda node: node.get("type") == "array" and "x-kubernetes-list-type" not in node) == []
    for path, node in OURS:
        for key in node.get("x-kubernetes-list-map-keys", ()):
            assert key in node["items"]["required"], path


def test_no_name_that_yaml_reads_as_a_boolean() -> None:
    booleans = {"n", "y", "on", "off", "yes", "no", "true", "false"}
    assert [path for path, _ in NODES if path.rpartition("/")[2].lower() in booleans] == []


def test_required_fields_exist_and_have_no_default() -> None:
    for path, node in OURS:
        for name in node.get("required", ()):
            assert "default" not in node["properties"][name], f"{path}/{name}"


def test_the_api_server_fills_in_nothing() -> None:
    assert [path for path, node in NODES if {"default", EFFECTIVE_RULES} & set(node)] == []


def test_every_default_is_told_in_its_description() -> None:
    told = dict(NODES)
    defaults = {path: default_text(node) for path, node in _walk(effective_spec_schema(), "/spec")}
    silent = [path for path, text in defaults.items() if text and "Default:" not in told[path]["description"]]
    assert silent == []
    assert told["/spec/hyperparameters/learningRate"]["description"].endswith("Default: 2e-4.")


def test_what_a_profile_may_give_is_not_required() -> None:
    spec = job_schema()["properties"]["spec"]
    assert spec["required"] == ["model", "dataset"]
    assert "required" not in spec["properties"]["output"]


def test_every_rule_has_a_message_that_names_a_field() -> None:
    rules = [(path, rule) for path, node in NODES for rule in node.get("x-kubernetes-validations", ())]
    assert len(rules) >= 20
    assert [path for path, rule in rules if not rule["message"] or "\n" in rule["message"]] == []
    assert all(re.search(r"[a-z]\w*[.:]?[A-Za-z]*", rule["message"]) for _, rule in rules)


def test_everything_but_the_run_policy_is_immutable() -> None:
    def immutable(node: Schema) -> bool:
        return any(rule["rule"] == "self == oldSelf" for rule in node.get("x-kubernetes-validations", ()))

    properties = job_schema()["properties"]["spec"]["properties"]
    policy = {"suspend", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "priorityClassName"}
    # By rules of the whole spec, since a rule of a field does not see that it comes or goes.
    policy |= {"queueName", "managedBy"}
    assert {name for name, node in properties.items() if not immutable(node)} == policy


def test_printer_columns() -> None:
    columns = job_crd()["spec"]["versions"][0]["additionalPrinterColumns"]
    shown = [column["name"] for column in columns if not column.get("priority")]
    assert shown == ["State", "Progress", "ETA", "Loss", "Age"]


@pytest.mark.parametrize(
    "column", job_crd()["spec"]["versions"][0]["additionalPrinterColumns"], ids=lambda c: c["name"]
)
def test_printer_columns_show_fields_that_exist(column: dict[str, Any]) -> None:
    assert column["jsonPath"].replace(".", "/") in {path for path, _ in NODES} | {"/metadata/creationTimestamp"}


RULES = (WRITTEN_RULES, EFFECTIVE_RULES)


class _Inner(Document):
    """Inner."""

    model_config = Document.model_config | {"json_schema_extra": validations(("self.size >= 1", "size is too small"))}

    size: Annotated[Quantity, Field(default="1", description="Size.")]


class _Outer(Document):
    """Outer."""

    inner: Annotated[
        _Inner,
        Field(
            default_factory=_Inner, description="Own words.", json_schema_extra=validations(("self == oldSelf", "no"))
        ),
    ]
    absent: Annotated[_Inner | None, Field(default=None, description="May be absent.")]
    labels: Annotated[dict[str, Annotated[str, Field(max_length=3)]] | None, Field(default=None, description="Map.")]


def test_references_are_inlined_with_the_words_and_rules_of_both_places() -> None:
    inner = schema_of(_Outer)["properties"]["inner"]
    assert inner["description"] == "Own words."
    assert [rule["message"] for rule in inner["x-kubernetes-validations"]] == ["size is too small", "no"]
    assert inner["default"] == {"size": "1"}
    assert inner["properties"]["size"]["x-kubernetes-int-or-string"] is True


def test_optional_groups_stay_absent() -> None:
    properties = schema_of(_Outer)["properties"]
    assert "default" not in properties["absent"]
    assert properties["absent"]["type"] == "object"
    assert properties["labels"]["additionalProperties"] == {"maxLength": 3, "type": "string"}


def test_defaults_of_the_schema_are_those_of_the_models() -> None:
    """The command line fills in those of the schema, the operator those of the models; both must come to the same."""

    required = {
        "model": {"source": "hf://a/b"},
        "dataset": {"train": [{"source": "s3://abc/d"}]},
        "output": {"destination": "s3://abc"},
    }
    model = FineTuneJobSpec.model_validate(required).to_wire()
    groups = effective_spec_schema()["properties"].items()
    defaults = {name: node["default"] for name, node in groups if "default" in node}
    assert {name: model[name] for name in defaults} == defaults


def test_committed_files_are_current() -> None:
    command = [sys.executable, str(PROJECT / "scripts" / "generate_crds.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_committed_file_reads_back_as_what_was_generated() -> None:
    """Whichever YAML parser reads it: 2e-4 must not become a number."""
    committed = yaml.safe_load((PROJECT / "crds" / "finetune.dev_finetunejobs.yaml").read_text())
    assert committed == job_crd()
    profiles = yaml.safe_load((PROJECT / "crds" / "finetune.dev_finetuneprofiles.yaml").read_text())
    assert profiles == profile_crd()


def test_a_profile_gives_every_field_that_a_job_may_leave_out() -> None:
    """And none of what each job says itself."""
    spec = dict(_walk(job_schema()["properties"]["spec"]))
    own = {"/profileRef", "/profileRef/name", "/suspend", "/managedBy", "/model/source", "/model/name"}
    lists = (
        "/dataset/train",
        "/method/lora/initialAdapter",
        "/method/dpo/referenceModel",
        "/method/kto/referenceModel",
    )
    left_out = {path for path in spec if path not in own and not path.startswith(lists)}
    assert {path for path, _ in _walk(profile_schema()["properties"]["spec"]["properties"]["defaults"])} == left_out


def test_defaults_of_a_profile_are_no_whole_spec() -> None:
    nodes = [node for path, node in PROFILE_NODES if path.startswith("/profile/spec/defaults")]
    assert [node for node in nodes if {"required", "default", *RULES} & set(node)] == []
