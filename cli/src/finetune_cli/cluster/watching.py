"""Follows a job to its end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

from finetune_cli import jobview
from finetune_cli.documents import Object, text_at
from finetune_cli.errors import HiccupError, MissingObjectError, StillRunningError
from finetune_cli.render.watching import Seen

# The operator writes progress at most every 5 s.
INTERVAL_SECONDS = 2.0


def follow(
    seen: Seen,
    fetch: Callable[[], Object],
    show: Callable[[Seen], None],
    complete: Callable[[Seen], Seen] = lambda seen: seen,
    pause: Callable[[float], None] = time.sleep,
    limit: float = math.inf,
) -> Seen:
    """Asks for a job again and again until it is Complete or Failed. An API server that does not answer is asked again.

    Args:
        seen: what is known of the job.
        fetch: asks for the job.
        show: shows what has been seen.
        complete: adds points that are missing in the curves.
        pause: waits some seconds.
        limit: seconds after which nobody waits any more.

    Raises:
        MissingObjectError: the job was deleted, or deleted and created anew.
        ClusterError: the cluster will not answer any more, such as for want of rights.
        StillRunningError: the job had not ended when the time was over.
    """
    deadline = time.monotonic() + limit
    show(seen)
    while not jobview.is_final(seen.job):
        left = deadline - time.monotonic()
        if left <= 0:
            raise StillRunningError(
                f"{jobview.name_of(seen.job)} is still {jobview.state_of(seen.job)} at the end of --timeout; it goes on"
            )
        pause(min(INTERVAL_SECONDS, left))
        try:
            seen = complete(seen.with_job(_same(fetch(), seen.job)))
        except HiccupError as error:
            seen = replace(seen, trouble=f"{error}; trying again")
        except MissingObjectError as error:
            raise MissingObjectError(_gone(seen.job)) from error
        show(seen)
    return seen


def _same(job: Object, before: Object) -> Object:
    if text_at(job, "metadata", "uid") != text_at(before, "metadata", "uid"):
        raise MissingObjectError("another job has the name")
    return job


def _gone(job: Object) -> str:
    where = text_at(job, "status", "artifact", "uri") or text_at(job, "spec", "output", "destination")
    return (
        f"{jobview.name_of(job)} was deleted while it was {jobview.state_of(job)}; what it published is kept at {where}"
    )
