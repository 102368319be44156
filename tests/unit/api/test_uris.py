"""Reading source URIs and destinations."""

from __future__ import annotations

import pytest

from finetune_api.errors import ApiError, InvalidSource
from finetune_api.uris import (
    ClaimLocation,
    DataLocation,
    HubFiles,
    HubModel,
    Location,
    S3Location,
    WebFile,
    parse_data_source,
    parse_destination,
    parse_source,
)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://bucket/key", S3Location("bucket", "key")),
        ("s3://bucket/a/b.jsonl", S3Location("bucket", "a/b.jsonl")),
        ("s3://bucket/a/", S3Location("bucket", "a")),
        ("s3://bucket", S3Location("bucket", "")),
        ("s3://bucket/", S3Location("bucket", "")),
        ("s3://bucket/a..b/c.d", S3Location("bucket", "a..b/c.d")),
        ("pvc://claim", ClaimLocation("claim", "")),
        ("pvc://claim/models/tiny/", ClaimLocation("claim", "models/tiny")),
        ("hf://org/name", HubModel("org/name")),
        ("hf://gpt2", HubModel("gpt2")),
        ("hf://org/name/", HubModel("org/name")),
    ],
)
def test_source_is_read(uri: str, expected: Location) -> None:
    assert parse_source(uri) == expected


@pytest.mark.parametrize(
    ("uri", "complaint"),
    [
        ("", "is not a source"),
        ("bucket/key", "is not a source"),
        ("s3:/bucket/key", "is not a source"),
        ("s3://", "is not a source"),
        ("s3:///key", "is not a source"),
        ("gs://bucket/key", "unknown scheme 'gs'"),
        ("://x/y", "unknown scheme ''"),
        ("pvc://claim/../../etc/passwd", "must not contain '.' or '..'"),
        ("s3://bucket/./key", "must not contain '.' or '..'"),
        ("hf://org/..", "must not contain '.' or '..'"),
    ],
)
def test_source_that_cannot_be_read_is_refused_with_the_reason(uri: str, complaint: str) -> None:
    with pytest.raises(InvalidSource, match=complaint.replace(".", r"\.")) as refused:
        parse_source(uri)
    assert repr(uri) in str(refused.value)
    assert isinstance(refused.value, ApiError)


@pytest.mark.parametrize("uri", ["s3://bucket/a/b", "s3://bucket", "pvc://claim/a", "pvc://claim", "hf://org/name"])
def test_location_prints_as_the_uri_it_was_read_from(uri: str) -> None:
    assert str(parse_source(uri)) == uri


@pytest.mark.parametrize(
    ("start", "parts", "key"),
    [
        ("s3://bucket/a", ("b", "c"), "a/b/c"),
        ("s3://bucket", ("b",), "b"),
        ("s3://bucket/a", (), "a"),
        ("s3://bucket/a", ("", "c"), "a/c"),
    ],
)
def test_child_of_a_location(start: str, parts: tuple[str, ...], key: str) -> None:
    assert parse_destination(start).child(*parts) == S3Location("bucket", key)


@pytest.mark.parametrize("uri", ["pvc://claim/path", "hf://org/name"])
def test_destination_must_be_an_s3_location(uri: str) -> None:
    with pytest.raises(InvalidSource, match="cannot be written to: use s3://bucket/prefix"):
        parse_destination(uri)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://bucket/rows/", S3Location("bucket", "rows")),
        ("pvc://claim/rows.jsonl", ClaimLocation("claim", "rows.jsonl")),
        ("hf://org/name", HubFiles("org/name", "")),
        ("hf://org/name/data/train/", HubFiles("org/name", "data/train")),
        ("https://host/a/../rows.jsonl", WebFile("https://host/a/../rows.jsonl")),
    ],
)
def test_source_of_data_is_read(uri: str, expected: DataLocation) -> None:
    assert parse_data_source(uri) == expected
    assert str(expected) == uri.rstrip("/")


@pytest.mark.parametrize("uri", ["job://other", "http://host/rows.jsonl", "hf://org/name/../x", "rows.jsonl"])
def test_what_is_no_data(uri: str) -> None:
    with pytest.raises(InvalidSource):
        parse_data_source(uri)
