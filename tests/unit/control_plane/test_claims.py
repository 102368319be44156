"""What pods may claim to have published."""

from __future__ import annotations

import pytest

from finetune_api.outcomes import StageOutcome
from finetune_operator.claims import foreign
from support.builders import NAME, NAMESPACE, RUN_ID, artifact, job, published_outcome
from support.world import World

OWN = f"s3://results/team/{NAMESPACE}/{NAME}/{RUN_ID}"


def test_the_own_folder_is_believed() -> None:
    assert foreign(job(), RUN_ID, artifact()) is None


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://results/team/team-b/{NAME}/{RUN_ID}",
        f"s3://results/team/{NAMESPACE}/other/{RUN_ID}",
        f"s3://results/team/{NAMESPACE}/{NAME}/r-ffffffffffffffffffff",
        f"{OWN}/../{RUN_ID}",
        f"{OWN}/more",
        "s3://elsewhere/model",
        "",
    ],
)
def test_any_other_is_not(uri: str) -> None:
    found = foreign(job(), RUN_ID, artifact().model_copy(update={"uri": uri}))
    assert found is not None
    assert repr(uri) in found.message
    assert repr(OWN) in found.message


def test_without_a_run_nothing_is_believed() -> None:
    assert foreign(job(), None, artifact()) is not None


def test_a_job_whose_pod_claims_another_folder_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    claimed = artifact().model_copy(update={"uri": "s3://elsewhere/model"})
    outcome = published_outcome().model_copy(update={"artifact": claimed})
    assert isinstance(outcome, StageOutcome)
    monkeypatch.setattr("support.world.published_outcome", lambda: outcome)
    world = World()
    world.run_to_the_end()
    assert (world.status.state, world.status.artifact) == ("Failed", None)
    assert world.status.failure is not None
    assert "s3://elsewhere/model" in world.status.failure.message
