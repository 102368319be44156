"""A job:// model without a cluster: the finished job comes from a file."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from finetune_api.job import FineTuneJob
from finetune_cli.errors import CliError, UnsupportedHereError, UsageError
from finetune_cli.local.planning import Places, prepare_plan
from finetune_cli.local.upstream import local_upstreams
from finetune_cli.validation import read_job
from support.job_manifests import MANIFEST, edited

DIGEST = "sha256:" + "c" * 64
STATUS = {
    "runID": "r-0123456789abcdef0123",
    "artifact": {
        "uri": "s3://finetune/artifacts/default/sft/r-0123456789abcdef0123",
        "kind": "adapter",
        "manifestDigest": DIGEST,
        "contentDigest": DIGEST,
        "files": 7,
        "bytes": 9,
    },
}


def job(source: str = "job://sft", **method: Any) -> FineTuneJob:
    return read_job(edited({"spec/model/source": source, "spec/method": method or {}}), "job.yaml")


def resource(name: str = "sft", status: dict[str, Any] | None = None) -> dict[str, Any]:
    """The resource of a finished job."""
    return copy.deepcopy(MANIFEST) | {"metadata": {"name": name}, "status": STATUS if status is None else status}


def test_the_finished_job_is_read_from_its_resource() -> None:
    upstreams = local_upstreams(job(), {"sft.yaml": resource()})
    assert upstreams["model"].uri == STATUS["artifact"]["uri"]  # type: ignore[index]
    plan = prepare_plan(job(), Places("file:///data", {}, False, upstreams), 4242)
    assert plan.upstreams == upstreams
    assert plan.spec.model.source == "s3://finetune/models/tiny"
    assert plan.stores["adapter"].endpoint_url == "file:///data"


def test_other_models_need_no_other_job() -> None:
    assert local_upstreams(job("s3://finetune/models/tiny"), {}) == {}


REFUSED: list[Any] = [
    pytest.param(
        job(),
        None,
        UsageError,
        "spec.model.source is the result of the job 'sft': run that job first with --status-file FILE, then this one "
        "with --upstream FILE",
        id="none given",
    ),
    pytest.param(
        job("s3://finetune/models/tiny"),
        resource(),
        UsageError,
        "--upstream sft.yaml is the job 'sft'; no source of the job is a job://",
        id="no use for it",
    ),
    pytest.param(
        job(),
        resource("other"),
        UsageError,
        "--upstream sft.yaml is the job 'other'; spec.model.source names 'sft'",
        id="another job",
    ),
    pytest.param(
        job(), resource(status={}), UsageError, "--upstream sft.yaml: the job 'sft' is not Complete", id="not finished"
    ),
    pytest.param(
        job(), {"kind": "x"}, UsageError, "--upstream sft.yaml is not the resource of a FineTuneJob", id="no resource"
    ),
    pytest.param(
        job(lora={"rank": 4}),
        resource(),
        UnsupportedHereError,
        "spec.method.lora.rank is 4, and the adapter of the job 'sft', which is continued, has 16",
        id="another shape",
    ),
]


@pytest.mark.parametrize(("asked", "given", "error", "message"), REFUSED)
def test_what_cannot_be_started_from_is_refused(
    asked: FineTuneJob, given: dict[str, Any] | None, error: type[CliError], message: str
) -> None:
    with pytest.raises(error) as refused:
        local_upstreams(asked, {} if given is None else {"sft.yaml": given})
    assert str(refused.value).startswith(message)
