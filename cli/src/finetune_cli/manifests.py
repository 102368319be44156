"""Reads and writes Kubernetes manifests as kubectl does, between text and plain JSON values.

PyYAML and kubectl's YAML differ in scalars: ``2e-4`` is a number for kubectl and text for PyYAML, ``1:30`` the other
way round. The resolvers here follow go.yaml.in/yaml/v2 (``resolve.go``), which sigs.k8s.io/yaml uses.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import yaml

from finetune_api import API_VERSION, GROUP, KIND
from finetune_cli.errors import InvalidManifestError, UsageError
from finetune_cli.field_errors import invalid

MAX_VALUES = 100_000
_MERGE = "tag:yaml.org,2002:merge"

_BOOLEANS = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"^[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)$")
# No type of kubectl's YAML, but one of most other readers.
_TIMESTAMP = re.compile(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].*)?$")
_FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?$")


@dataclass(frozen=True)
class JobDocuments:
    """The FineTuneJobs of one file, and what else was in it."""

    jobs: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]


class _Loader(yaml.SafeLoader):
    """A safe loader with kubectl's scalars that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag != _MERGE and lines.setdefault(key.value, key.start_mark.line) != key.start_mark.line:
                problem = f'key "{key.value}" already set in map'
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        self.flatten_mapping(node)
        node.value = [(_text_key(self.construct_object(key), key), value) for key, value in node.value]
        return super().construct_mapping(node, deep=deep)


def _text_key(value: object, node: yaml.Node) -> yaml.ScalarNode:
    """A key as text, which is all that JSON has: ``1`` and ``true`` are different keys there, equal ones in Python."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return yaml.ScalarNode("tag:yaml.org,2002:str", text, node.start_mark, node.end_mark)


def _boolean(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> bool:
    return _BOOLEANS[loader.construct_scalar(node)]


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    digits = text.lstrip("+-")
    old_octal = len(digits) > 1 and digits.isdigit() and digits.startswith("0")
    return int(text, 8) if old_octal else int(text, 0)


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float | int:
    """A JSON number: one without a fraction is an integer to the API server, however it was written."""
    value = float(str(loader.construct_scalar(node)).replace("_", ""))
    return int(value) if value.is_integer() else value


def _prepare_loader() -> None:
    _Loader.yaml_implicit_resolvers = {}
    _Loader.add_implicit_resolver(
        "tag:yaml.org,2002:bool", re.compile(f"^({'|'.join(_BOOLEANS)})$"), list("yYnNtTfFoO")
    )
    _Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(~|null|Null|NULL|)$"), ["~", "n", "N", ""])
    _Loader.add_implicit_resolver(_MERGE, re.compile(r"^<<$"), ["<"])
    _Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))
    _Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
    _Loader.add_constructor("tag:yaml.org,2002:bool", _boolean)
    _Loader.add_constructor("tag:yaml.org,2002:int", _integer)
    _Loader.add_constructor("tag:yaml.org,2002:float", _number)


_prepare_loader()


class _Dumper(yaml.SafeDumper):
    """Quotes what kubectl or another reader would not take for text, and writes lists in full instead of by aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.yaml_implicit_resolvers = {key: list(known) for key, known in _Loader.yaml_implicit_resolvers.items()}
_Dumper.add_implicit_resolver("tag:yaml.org,2002:timestamp", _TIMESTAMP, list("0123456789"))


def load_documents(text: str) -> list[Any]:
    """Every non-empty document of a YAML text, as JSON values.

    Raises:
        UsageError: the text is no YAML, or a map has one key twice.
    """
    budget = _Budget(MAX_VALUES)
    try:
        documents = list(yaml.load_all(text, Loader=_Loader))
        return [_as_json(document, budget) for document in documents if document is not None]
    except yaml.YAMLError as error:
        raise UsageError(f"not readable as YAML: {_described(error)}") from error
    except ValueError as error:
        raise UsageError(f"not readable as YAML: {error}") from error
    except RecursionError as error:
        raise UsageError("not readable as YAML: it is nested too deep, or an alias contains itself") from error


class _Budget:
    """Bounds the values of a file: aliases can write billions of them in a few lines."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise UsageError(f"not readable as YAML: more than {MAX_VALUES} values, aliases expanded")


def _described(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    return f"line {mark.line + 1}: {problem}" if mark is not None and problem else str(error)


def _as_json(value: Any, budget: _Budget) -> Any:
    """A copy without shared parts."""
    budget.spend()
    if isinstance(value, dict):
        return {key: _as_json(child, budget) for key, child in value.items()}
    if isinstance(value, list):
        return [_as_json(child, budget) for child in value]
    return value


def as_yaml(document: dict[str, Any]) -> str:
    """A resource as YAML that kubectl reads back as it was, keys in the given order."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def select_jobs(documents: list[Any]) -> JobDocuments:
    """Takes the FineTuneJobs out of a file's documents; other resources are left out with a note each.

    Raises:
        UsageError: no FineTuneJob, or a document that is no Kubernetes object.
        InvalidManifestError: a FineTuneJob of another API version, or another kind of this API group.
    """
    jobs: list[dict[str, Any]] = []
    notes: list[str] = []
    for number, document in enumerate(_items(documents), start=1):
        if not isinstance(document, dict):
            raise UsageError(f"document {number} is no Kubernetes object: expected a map with apiVersion and kind")
        version, kind = document.get("apiVersion"), document.get("kind")
        if version == API_VERSION and kind == KIND:
            jobs.append(document)
        elif kind == KIND or str(version).partition("/")[0] == GROUP:
            raise InvalidManifestError(f"document {number} is no {API_VERSION} {KIND}", _type_errors(version, kind))
        else:
            notes.append(f"document {number} ({version} {kind}) is not a {KIND} and was left out")
    if not jobs:
        raise UsageError(f"no {KIND} of apiVersion {API_VERSION} found; " + ("; ".join(notes) or "the file is empty"))
    return JobDocuments(tuple(jobs), tuple(notes))


def _items(documents: list[Any]) -> list[Any]:
    """The documents with every ``List`` replaced by its items, as kubectl does."""
    result: list[Any] = []
    for document in documents:
        is_list = isinstance(document, dict) and document.get("kind") == "List"
        result.extend(document.get("items") or () if is_list else (document,))
    return result


def _type_errors(version: object, kind: object) -> list[Any]:
    return [
        *([invalid("apiVersion", version, f"must be {API_VERSION}")] if version != API_VERSION else []),
        *([invalid("kind", kind, f"must be {KIND}")] if kind != KIND else []),
    ]
