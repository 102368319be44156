"""Scalars of the contract: decimals, fractions, quantities, and documents as a whole."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from finetune_api.base import DecimalString, Document, FractionString, Quantity, ResourceName, quantity_value

DECIMAL = TypeAdapter[str](DecimalString)
FRACTION = TypeAdapter[str](FractionString)
QUANTITY = TypeAdapter[str](Quantity)
RESOURCE_NAME = TypeAdapter[str](ResourceName)


def _accepts(adapter: TypeAdapter[str], value: object) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("text", ["0", "1", "10", "0.5", "2e-4", "1E5", "1.5e+10", "2e-004"])
def test_decimal_accepts(text: str) -> None:
    assert _accepts(DECIMAL, text)


@pytest.mark.parametrize(
    "text", ["", "-1", "01", ".5", "1.", "1e", "1e1234", "nan", "inf", "1,5", " 1", "1\n", 2e-4, 1]
)
def test_decimal_refuses(text: object) -> None:
    assert not _accepts(DECIMAL, text)


@given(st.text(alphabet="0123456789.eE+-", max_size=12))
def test_accepted_decimals_are_numbers_that_are_not_negative(text: str) -> None:
    if _accepts(DECIMAL, text):
        assert Decimal(text) >= 0


@pytest.mark.parametrize("text", ["0", "1", "0.1", "0.000", "1.0"])
def test_fraction_accepts(text: str) -> None:
    assert _accepts(FRACTION, text)


@pytest.mark.parametrize("text", ["1.1", "2", "-0.1", "1e-1", "0.", ".1", "10%", ""])
def test_fraction_refuses(text: str) -> None:
    assert not _accepts(FRACTION, text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("2", 2),
        ("1500m", Decimal("1.5")),
        ("0.5", Decimal("0.5")),
        ("3k", 3000),
        ("2M", 2_000_000),
        ("1G", 10**9),
        ("1T", 10**12),
        ("1P", 10**15),
        ("1Ki", 1024),
        ("4Mi", 4 * 2**20),
        ("4Gi", 4 * 2**30),
        ("1.5Gi", 1.5 * 2**30),
        ("2Ti", 2 * 2**40),
        ("1Pi", 2**50),
    ],
)
def test_value_of_a_quantity(text: str, value: object) -> None:
    assert _accepts(QUANTITY, text)
    assert quantity_value(text) == value


@pytest.mark.parametrize("text", ["", "-1", "1K", "1 Gi", "1gi", "Gi", "1e3", "1.Gi", True, 1.5, -1])
def test_quantity_refuses(text: object) -> None:
    assert not _accepts(QUANTITY, text)


@given(st.from_regex(r"\A[0-9]{1,6}(\.[0-9]{1,3})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?\Z"))
def test_every_accepted_quantity_has_a_value(text: str) -> None:
    assert _accepts(QUANTITY, text)
    assert quantity_value(text) >= 0


def test_quantity_may_be_written_as_an_integer() -> None:
    assert QUANTITY.validate_python(2) == "2"


@pytest.mark.parametrize("name", ["-a", "a-", "A", "a_b", "", "a" * 254])
def test_resource_name_refuses(name: str) -> None:
    assert not _accepts(RESOURCE_NAME, name)


class _Sample(Document):
    two_words: int = 1
    absent: str | None = None


def test_documents_use_camel_case_and_leave_absent_fields_out() -> None:
    assert _Sample(two_words=3).to_wire() == {"twoWords": 3}
    assert _Sample(two_words=3).to_json() == '{"twoWords":3}'


def test_documents_refuse_unknown_fields() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        _Sample.model_validate({"twoWords": 1, "typo": 2})


def test_documents_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="Instance is frozen"):
        _Sample().two_words = 2  # type: ignore[misc]
