"""Where things lie in object storage."""

from __future__ import annotations

import pytest

from finetune_api.errors import InvalidSource
from finetune_api.layout import data_prefix, digest_cache, job_prefix, latest_pointer, probe_object, run_prefix
from support.builders import digest

RUN = "r-0123456789abcdef0123"


@pytest.mark.parametrize(
    ("destination", "root"),
    [("s3://bucket", "s3://bucket"), ("s3://bucket/a/b", "s3://bucket/a/b"), ("s3://bucket/a/", "s3://bucket/a")],
)
def test_every_object_lies_below_the_destination(destination: str, root: str) -> None:
    assert str(job_prefix(destination, "ns", "job")) == f"{root}/ns/job"
    assert str(run_prefix(destination, "ns", "job", RUN)) == f"{root}/ns/job/{RUN}"
    assert str(latest_pointer(destination, "ns", "job")) == f"{root}/ns/job/latest.json"
    assert str(data_prefix(destination, "ns", digest("a"))) == f"{root}/ns/_data/{'a' * 64}"
    assert str(digest_cache(destination, "ns", "key")) == f"{root}/ns/_digests/key.json"
    assert str(probe_object(destination, "ns", "job", "uid")) == f"{root}/ns/_probe/job-uid"


def test_no_job_can_be_named_like_a_folder_of_the_namespace() -> None:
    shared = (
        data_prefix("s3://b", "ns", "x"),
        digest_cache("s3://b", "ns", "x"),
        probe_object("s3://b", "ns", "j", "u"),
    )
    assert all(location.key.split("/")[1].startswith("_") for location in shared)


def test_destination_elsewhere_is_refused() -> None:
    with pytest.raises(InvalidSource):
        job_prefix("pvc://claim/folder", "ns", "job")
