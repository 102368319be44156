"""Base model and scalar types shared by every document of the contract."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

DECIMAL_PATTERN = r"^(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?$"
SIGNED_DECIMAL_PATTERN = DECIMAL_PATTERN.replace("^", "^-?", 1)
FRACTION_PATTERN = r"^(0(\.[0-9]+)?|1(\.0+)?)$"
QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
DNS_LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"


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


def validations(*rules: tuple[str, str]) -> dict[str, Any]:
    """JSON-schema extension for CEL rules, each a pair of expression and message."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in rules]}


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
