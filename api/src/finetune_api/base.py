"""Base model and scalar types shared by every document of the contract."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

# A document as JSON has it.
Object = dict[str, Any]

DECIMAL_PATTERN = r"^(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?$"
SIGNED_DECIMAL_PATTERN = DECIMAL_PATTERN.replace("^", "^-?", 1)
FRACTION_PATTERN = r"^(0(\.[0-9]+)?|1(\.0+)?)$"
QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
DNS_LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
LABEL_KEY_PATTERN = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
DNS_SUBDOMAIN_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"


class Document(BaseModel):
    """An immutable value with camelCase field names on the wire; unknown fields are refused."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, use_attribute_docstrings=False
    )

    def to_wire(self) -> dict[str, Any]:
        """The JSON document: camelCase keys, absent optional fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def to_json(self) -> str:
        """Compact JSON of :meth:`to_wire`."""
        return self.model_dump_json(by_alias=True, exclude_none=True)


WRITTEN_RULES = "x-kubernetes-validations"
EFFECTIVE_RULES = "x-finetune-effective-validations"


def _rules(key: str, rules: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    return {key: [{"rule": rule, "message": message} for rule, message in rules]}


def validations(*rules: tuple[str, str]) -> dict[str, Any]:
    """JSON-schema extension for CEL rules, each a pair of expression and message.

    The API server holds them against a manifest as it was written, where a field that is left out may still come from a
    profile; the operator and the command line hold them against the effective spec, which has every default. So a rule
    about what a field defaults to counts :func:`where_written`.
    """
    return _rules(WRITTEN_RULES, rules)


def effective_validations(*rules: tuple[str, str]) -> dict[str, Any]:
    """Rules for the effective spec alone: they ask for a field that a profile may give."""
    return _rules(EFFECTIVE_RULES, rules)


def is_written(field: str) -> str:
    """CEL for: a field, such as ``hyperparameters.precision``, is there, with every group that it is in."""
    parts = field.split(".")
    return " && ".join(f"has(self.{'.'.join(parts[: end + 1])})" for end in range(len(parts)))


def where_written(condition: str, *fields: str) -> str:
    """CEL for: a condition holds, unless one of the fields that it reads is left out."""
    absent = " || ".join(f"!({is_written(field)})" for field in fields)
    return f"{absent} || ({condition})"


def _integer_to_string(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


# The CRD holds no floats: a decimal travels as a string, so that no client rounds it on the way.
DecimalString = Annotated[str, Field(pattern=DECIMAL_PATTERN, max_length=32)]
SignedDecimalString = Annotated[str, Field(pattern=SIGNED_DECIMAL_PATTERN, max_length=32)]
FractionString = Annotated[str, Field(pattern=FRACTION_PATTERN, max_length=32)]
Quantity = Annotated[
    str,
    BeforeValidator(_integer_to_string),
    Field(pattern=QUANTITY_PATTERN, max_length=32),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": QUANTITY_PATTERN,
            "maxLength": 32,
            "minimum": 0,
        }
    ),
]
ResourceName = Annotated[str, Field(pattern=DNS_SUBDOMAIN_PATTERN, min_length=1, max_length=253)]

_SUFFIXES = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate("kMGTP", start=1)},
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTP", start=1)},
}


def quantity_value(quantity: str) -> Decimal:
    """The number that a Kubernetes quantity stands for, such as 1500m or 4Gi, in base units."""
    digits = quantity.rstrip("mkMGTPKi")
    return Decimal(digits) * _SUFFIXES[quantity[len(digits) :]]
