"""What the chart accepts as values, and that the documents tell of all of them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from functools import reduce
from typing import Any

import pytest
import yaml

from support.clusters import PROJECT
from support.helm import CHART, IMAGES, run, settings

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
# Values whose parts Kubernetes defines, documented as a whole.
WHOLE = {"resources", "affinity"}


def leaves(values: dict[str, Any], schema: dict[str, Any] = SCHEMA, path: str = "") -> Iterator[str]:
    """Paths of all values that are to be documented: those that are not groups of others."""
    for key, value in values.items():
        inner = schema["properties"][key]
        if "properties" in inner and key not in WHOLE:
            yield from leaves(value, inner, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def objects(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of the schema that has named properties."""
    if "properties" in schema:
        yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from objects(inner, f"{path}.{name}")
    if "items" in schema:
        yield from objects(schema["items"], f"{path}[]")


def test_every_value_is_documented() -> None:
    spec = importlib.util.spec_from_file_location("generator", PROJECT / "scripts" / "generate_values_reference.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    told = [path for path, _ in generator.documented((CHART / "values.yaml").read_text())]
    assert told == list(leaves(VALUES))


def test_the_schema_knows_the_values_and_no_others() -> None:
    for path, schema in objects(SCHEMA):
        keys = path.split(".")[1:]
        if "[]" not in path and (not keys or keys[0] not in WHOLE):
            known = reduce(lambda inner, key: inner[key], keys, VALUES)
            assert set(schema["properties"]) - {"global"} == set(known), path


def test_no_object_of_the_schema_accepts_unknown_keys() -> None:
    assert [path for path, schema in objects(SCHEMA) if schema.get("additionalProperties") is not False] == []


TYPOS = {
    "imagePullSecret=[]": "imagePullSecret",
    "image.repo=x": "repo",
    "crds.enable=true": "enable",
    "serviceAccount.anotations.a=b": "anotations",
    "resources.limit.cpu=1": "limit",
    "trainer.image.digest=sha256:abc": "trainer/image/digest",
    "progress.port=0": "progress/port",
    "progress.url=http://plain": "progress/url",
    "logFormat=text": "logFormat",
    "watchNamespaces[0]=Team": "watchNamespaces/0",
    "image.pullPolicy=always": "image/pullPolicy",
    "crds.enabled=maybe": "crds/enabled",
}


@pytest.mark.parametrize("typo", TYPOS)
def test_typos_are_refused_by_name(typo: str) -> None:
    result = run("template", "release", str(CHART), *settings((*IMAGES, typo)))
    assert result.returncode != 0
    assert "values don't meet the specifications of the schema" in result.stderr
    assert TYPOS[typo] in result.stderr


@pytest.mark.parametrize("which", [0, 1])
def test_an_image_has_to_be_named(which: int) -> None:
    result = run("template", "release", str(CHART), *settings((IMAGES[which],)))
    assert result.returncode != 0
    missing = ("trainer.image.repository", "image.repository")[which]
    assert f"{missing} is empty: set it to where the image was pushed" in result.stderr
