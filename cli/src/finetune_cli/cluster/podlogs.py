"""Which pod a rank runs in, and which lines of its log are that rank's. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from finetune_api import GROUP
from finetune_api.outcomes import Stage
from finetune_cli import jobview
from finetune_cli.documents import Object, text_at
from finetune_cli.errors import MissingObjectError, UsageError

_STAGE_LABEL, _ATTEMPT_LABEL = f"{GROUP}/stage", f"{GROUP}/attempt"
_INDEX = "batch.kubernetes.io/job-completion-index"
# The trainer's workers put their rank into every line of their own.
_RANK = re.compile(rb"\[rank (\d+)\]")


@dataclass(frozen=True)
class Wanted:
    """Whose log is meant.

    Attributes:
        rank: training process, over all pods.
        stage: prepare or train; None for the newest that has pods.
        attempt: number of the attempt; None for the newest.
    """

    rank: int = 0
    stage: Stage | None = None
    attempt: int | None = None


@dataclass(frozen=True)
class Source:
    """One pod's log, and the rank whose lines are wanted of it; None for all lines."""

    pod: str
    stage: Stage
    attempt: int
    node: str
    rank: int | None

    @property
    def title(self) -> str:
        """What the log is of, in words."""
        place = f" on {self.node}" if self.node else ""
        whose = f", lines of rank {self.rank}" if self.rank is not None else ""
        return f"{self.pod}{place}: {self.stage.value}, attempt {self.attempt}{whose}"


def source_of(job: Object, pods: Sequence[Object], wanted: Wanted) -> Source:
    """The log that is meant.

    Raises:
        UsageError: the job has no such rank.
        MissingObjectError: there is no such pod, or not any more.
    """
    per_node, nodes = jobview.processes_per_node(job), jobview.nodes_of(job)
    if not 0 <= wanted.rank < per_node * nodes:
        raise UsageError(f"--rank {wanted.rank}: {jobview.name_of(job)} has the ranks 0 to {per_node * nodes - 1}")
    stage = wanted.stage or _newest_stage(pods)
    of_stage = [pod for pod in pods if _label(pod, _STAGE_LABEL) == stage.value]
    attempts = sorted({_attempt(pod) for pod in of_stage})
    attempt = wanted.attempt if wanted.attempt is not None else (attempts[-1] if attempts else 0)
    index = wanted.rank // per_node if stage is Stage.TRAIN else None
    fitting = [pod for pod in of_stage if _attempt(pod) == attempt and index in (None, _index(pod))]
    if not fitting:
        raise MissingObjectError(_absent(job, stage, attempt, attempts))
    pod = max(fitting, key=lambda one: text_at(one, "metadata", "creationTimestamp"))
    one_of_several = stage is Stage.TRAIN and per_node > 1
    name, node = text_at(pod, "metadata", "name"), text_at(pod, "spec", "nodeName")
    return Source(name, stage, attempt, node, wanted.rank if one_of_several else None)


def _newest_stage(pods: Sequence[Object]) -> Stage:
    """Train, unless the newest attempt has come to prepare only."""
    newest = max(pods, key=lambda pod: (_attempt(pod), _label(pod, _STAGE_LABEL) == Stage.TRAIN.value), default={})
    return Stage.PREPARE if _label(newest, _STAGE_LABEL) == Stage.PREPARE.value else Stage.TRAIN


def _absent(job: Object, stage: Stage, attempt: int, attempts: Sequence[int]) -> str:
    name, known = jobview.name_of(job), ", ".join(map(str, attempts))
    if attempts:
        return f"{name} has no {stage.value} pod of attempt {attempt} for that rank; there are pods of attempt {known}"
    if jobview.is_final(job):
        return (
            f"the pods of {name} are gone; kubectl finetune describe {name} says how it ended, and kubectl finetune "
            f"plot {name} shows its curves"
        )
    return f"{name} has no {stage.value} pod yet: {jobview.state_of(job)}, {jobview.message_of(job)}".rstrip(", ")


def _label(pod: Object, label: str) -> str:
    return text_at(pod, "metadata", "labels", label)


def _attempt(pod: Object) -> int:
    number = _label(pod, _ATTEMPT_LABEL)
    return int(number) if number.isdigit() else 0


def _index(pod: Object) -> int:
    number = text_at(pod, "metadata", "annotations", _INDEX)
    return int(number) if number.isdigit() else 0


def lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """A log's lines with their ends, from pieces of any size."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line + b"\n" for line in whole)
    if rest:
        yield rest + b"\n"


def of_rank(found: Iterable[bytes], rank: int | None) -> Iterator[bytes]:
    """Lines without those that another rank of the pod wrote. Lines of no rank are the pod's, and stay."""
    for line in found:
        match = _RANK.search(line)
        if rank is None or match is None or int(match[1]) == rank:
            yield line
