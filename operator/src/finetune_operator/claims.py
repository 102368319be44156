"""Whether what a pod claims to have published is this run's own. Pure.

A pod runs libraries over data and models of others: what it says is checked as far as it can be. Jobs on jobs and the
command line read from the folder that the status names, with credentials of their own.
"""

from __future__ import annotations

from finetune_api.errors import InvalidSource
from finetune_api.job import FineTuneJob
from finetune_api.layout import run_prefix
from finetune_api.outcomes import Failure, FailureClass
from finetune_api.results import Artifact


def foreign(job: FineTuneJob, run_id: str | None, artifact: Artifact) -> Failure | None:
    """Why an artifact cannot be that of a run; None when it lies where the run publishes."""
    try:
        own = str(run_prefix(job.spec.output.destination, job.metadata.namespace, job.metadata.name, run_id or ""))
    except InvalidSource as error:
        own = str(error)
    if run_id and artifact.uri == own:
        return None
    return Failure(
        failure_class=FailureClass.INTERNAL,
        message=f"a pod claims to have published {artifact.uri!r}, and this run publishes at {own!r} only",
        remedy="See what ran in the pod (image, model, who may create pods in the namespace) before you run it again.",
    )
